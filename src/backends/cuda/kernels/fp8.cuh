// What kernels that write 8-bit floats share: rounding, bytes transposed in registers, and the largest number so far.
// FORMAT 0 is e4m3, 1 is e5m2.
#pragma once
#include "elements.cuh"

#ifndef FORMAT
#define FORMAT 0
#endif

/** Two numbers rounded to nearest, `low` in the lower byte; beyond the largest number of the format, that. */
TY_INLINE u32 packFp8(float low, float high) {
  u16 pair;
#if FORMAT == 0
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
#else
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
#endif
  return pair;
}
TY_INLINE u32 packFp8(float a, float b, float c, float d) { return packFp8(a, b) | packFp8(c, d) << 16; }

/** Rows of a 4 x 4 matrix of bytes, one to a word, become its columns. */
TY_INLINE void transposeBytes(u32 (&m)[4]) {
  const u32 low01 = __byte_perm(m[0], m[1], 0x5140), low23 = __byte_perm(m[2], m[3], 0x5140);
  const u32 high01 = __byte_perm(m[0], m[1], 0x7362), high23 = __byte_perm(m[2], m[3], 0x7362);
  m[0] = __byte_perm(low01, low23, 0x5410);
  m[1] = __byte_perm(low01, low23, 0x7632);
  m[2] = __byte_perm(high01, high23, 0x5410);
  m[3] = __byte_perm(high01, high23, 0x7632);
}

/** Raises *most to x >= 0: bits of such floats are in their order. */
TY_INLINE void raise(u32* most, float x) {
  const u32 bits = __float_as_uint(x);
  if (bits > *(volatile u32*)most) atomicMax(most, bits);
}
