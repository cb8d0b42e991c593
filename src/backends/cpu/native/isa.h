// One source file, several instruction sets: every kernel file is compiled once per ISA with TY_ISA set, and its
// exported functions carry the ISA as a suffix (ty_gelu_avx512). TypeScript picks the suffix when it loads the
// library, so there is no dispatch table and any path can be forced in tests.
//   TY_ISA 0 = base (SSE2 on x86-64, NEON on arm64: 4 floats), 2 = AVX2 + FMA (8 floats), 5 = AVX-512 F/BW/DQ/VL (16)
// Everything in a kernel file but its exports must be static or in an anonymous namespace: two copies of one
// inline function compiled for different ISAs would be merged by the linker.
#pragma once
#ifndef TY_ISA
#error "compile with -DTY_ISA=0, 2 or 5"
#endif
#if TY_ISA == 5
#define TY_SUFFIX(name) name##_avx512
#define TY_WIDTH 16
#elif TY_ISA == 2
#define TY_SUFFIX(name) name##_avx2
#define TY_WIDTH 8
#else
#define TY_SUFFIX(name) name##_base
#define TY_WIDTH 4
#endif
#define TY_EXPORT(name) extern "C" __attribute__((visibility("default"))) void TY_SUFFIX(name)
