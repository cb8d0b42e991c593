// What every kernel file starts from: element types without toolkit headers, 16-byte accesses, and reductions whose
// order is fixed. Compiled by NVRTC (no standard headers, no C++ library) and, as a check, by nvcc.
//
// A file is compiled once per element type: TY_DTYPE 0 = f32, 1 = bf16, 2 = f16 names `scalar_t`. Statistics and
// parameter gradients are f32 whatever scalar_t is; arithmetic is f32 (or f64 where a comment says so).
#pragma once

#ifndef TY_DTYPE
#define TY_DTYPE 1
#endif

typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#define TY_INLINE __device__ __forceinline__
#define TY_KERNEL extern "C" __global__ void

struct alignas(2) bf16_t {
  u16 bits;
};
struct alignas(2) f16_t {
  u16 bits;
};

#if TY_DTYPE == 0
typedef float scalar_t;
#elif TY_DTYPE == 1
typedef bf16_t scalar_t;
#else
typedef f16_t scalar_t;
#endif

TY_INLINE float toFloat(float x) { return x; }
TY_INLINE float toFloat(double x) { return (float)x; }
TY_INLINE float toFloat(bf16_t x) { return __uint_as_float((u32)x.bits << 16); }
TY_INLINE float toFloat(f16_t x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

/** Rounds to nearest, ties to even. */
TY_INLINE void fromFloat(float& out, float x) { out = x; }
TY_INLINE void fromFloat(bf16_t& out, float x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x)); }
TY_INLINE void fromFloat(f16_t& out, float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x)); }

template <typename T>
TY_INLINE T cast(float x) {
  T y;
  fromFloat(y, x);
  return y;
}

/** Two floats as two 16-bit values in one register, `low` in the lower half. */
TY_INLINE u32 packBf16(float low, float high) {
  u32 y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
TY_INLINE u32 packF16(float low, float high) {
  u32 y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

/** Sixteen bytes of T: the widest access of one thread. `p` must be 16-byte aligned. */
template <typename T>
struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(T);
  T at[size];
};
template <typename T>
TY_INLINE Pack<T> loadPack(const T* p) {
  Pack<T> pack;
  *reinterpret_cast<uint4*>(&pack) = *reinterpret_cast<const uint4*>(p);
  return pack;
}
template <typename T>
TY_INLINE void storePack(T* p, const Pack<T>& pack) {
  *reinterpret_cast<uint4*>(p) = *reinterpret_cast<const uint4*>(&pack);
}
template <typename T>
TY_INLINE bool isAligned16(const T* p) {
  return (reinterpret_cast<u64>(p) & 15) == 0;
}

/** Sum and maximum over the 32 lanes of a warp, in a butterfly: every lane has the same bits. */
TY_INLINE float warpSum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
TY_INLINE double warpSum(double x) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
TY_INLINE float warpMax(float x) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}

/**
 * Sum over all threads of a block, given to all of them. blockDim.x is a multiple of 32, at most 1024; `shared` has 32
 * elements and may be used again right after.
 */
template <typename T>
TY_INLINE T blockSum(T x, T* shared) {
  const int lane = threadIdx.x & 31;
  const int warp = threadIdx.x >> 5;
  const int warps = blockDim.x >> 5;
  x = warpSum(x);
  __syncthreads();
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  return warpSum(lane < warps ? shared[lane] : (T)0);
}
TY_INLINE float blockMax(float x, float* shared) {
  const int lane = threadIdx.x & 31;
  const int warp = threadIdx.x >> 5;
  const int warps = blockDim.x >> 5;
  x = warpMax(x);
  __syncthreads();
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  return warpMax(lane < warps ? shared[lane] : __int_as_float(0xff800000));
}
