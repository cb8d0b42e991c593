// Transposition of a square of vectors in registers: what packing needs where rows of memory become lanes.
#pragma once
#include "simd.h"

namespace {
// Lane exchanges of a butterfly of distance S: lanes j with bit S clear of a then b, and with bit S set of a then b.
// Distances are template arguments because a loop over them is not unrolled, and vectors would live in memory.
#if defined(__clang__)
template <int S>
static inline vf lowLanes(vf a, vf b) {
  vf r;
  for (int j = 0; j < W; j++) r[j] = (j & S) ? b[j - S] : a[j];
  return r;
}
template <int S>
static inline vf highLanes(vf a, vf b) {
  vf r;
  for (int j = 0; j < W; j++) r[j] = (j & S) ? b[j] : a[j + S];
  return r;
}
#else
template <int S>
static inline vf lowLanes(vf a, vf b) {
  vi from;
  for (int j = 0; j < W; j++) from[j] = (j & S) ? W + j - S : j;
  return __builtin_shuffle(a, b, from);
}
template <int S>
static inline vf highLanes(vf a, vf b) {
  vi from;
  for (int j = 0; j < W; j++) from[j] = (j & S) ? W + j : j + S;
  return __builtin_shuffle(a, b, from);
}
#endif

// r[i][j] <-> r[j][i] by log2(W) butterfly stages.
template <int S = 1>
static inline void transposeSquare(vf (&r)[W]) {
  if constexpr (S < W) {
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) {
      if (i & S) continue;
      const vf a = r[i], b = r[i + S];
      r[i] = lowLanes<S>(a, b);
      r[i + S] = highLanes<S>(a, b);
    }
    transposeSquare<S * 2>(r);
  }
}
}  // namespace
