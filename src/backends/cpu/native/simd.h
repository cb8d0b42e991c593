// Vectors of TY_WIDTH floats through the compiler's vector extensions: one source for SSE2, AVX2, AVX-512 and NEON.
// Elementary functions are polynomials (Cephes-style), within about 2 ulp in the ranges that models use.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "isa.h"

namespace {
typedef float vf __attribute__((vector_size(TY_WIDTH * 4)));
typedef int32_t vi __attribute__((vector_size(TY_WIDTH * 4)));
typedef uint32_t vu __attribute__((vector_size(TY_WIDTH * 4)));
// Half as many doubles as a vf has floats: as wide, since a wider one the compiler takes apart lane by lane.
typedef double vd __attribute__((vector_size(TY_WIDTH * 4)));
typedef float vhalf_mem __attribute__((vector_size(TY_WIDTH * 2), aligned(4), may_alias));
typedef float vf_mem __attribute__((vector_size(TY_WIDTH * 4), aligned(4), may_alias));
typedef int32_t vi_mem __attribute__((vector_size(TY_WIDTH * 4), aligned(4), may_alias));

constexpr int W = TY_WIDTH;

static inline vf load(const float* p) { return *reinterpret_cast<const vf_mem*>(p); }
static inline void store(float* p, vf x) { *reinterpret_cast<vf_mem*>(p) = x; }
static inline vf splat(float x) { return x - vf{}; }
// The first n floats, the rest zero; and the write of the first n only.
static inline vf load_partial(const float* p, int64_t n) {
  vf x{};
  memcpy(&x, p, size_t(n) * 4);
  return x;
}
static inline void store_partial(float* p, vf x, int64_t n) { memcpy(p, &x, size_t(n) * 4); }

static inline vf select(vi mask, vf a, vf b) { return mask ? a : b; }
static inline vf vmax(vf a, vf b) { return a > b ? a : b; }
static inline vf vmin(vf a, vf b) { return a < b ? a : b; }
static inline vf vabs(vf x) { return (vf)((vi)x & 0x7fffffff); }

static inline float hsum(vf x) {
  float s[W];
  memcpy(s, &x, sizeof s);
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) s[i] += s[i + half];
  return s[0];
}
static inline float hmax(vf x) {
  float s[W];
  memcpy(s, &x, sizeof s);
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) s[i] = s[i] > s[i + half] ? s[i] : s[i + half];
  return s[0];
}
// W / 2 floats as doubles.
static inline vd load_double(const float* p) {
  return __builtin_convertvector(*reinterpret_cast<const vhalf_mem*>(p), vd);
}

// exp(x): 2^n times a degree-6 polynomial on [-ln2/2, ln2/2]; 0 below -87.3 (and at -inf), inf above 88.7.
static inline vf vexp(vf x) {
  const vf clamped = vmax(vmin(x, splat(88.8f)), splat(-87.5f));
  const vf shift = splat(12582912.f);  // 1.5 * 2^23: rounds to an integer
  const vf n = (clamped * 1.44269504088896341f + shift) - shift;
  vf r = clamped - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  vf p = splat(1.9875691500E-4f);
  p = p * r + 1.3981999507E-3f;
  p = p * r + 8.3334519073E-3f;
  p = p * r + 4.1665795894E-2f;
  p = p * r + 1.6666665459E-1f;
  p = p * r + 5.0000001201E-1f;
  p = p * r * r + r + 1.0f;
  const vi e = (__builtin_convertvector(n, vi) + 127) << 23;
  const vf y = p * (vf)e;
  return select(x < splat(-87.3f), vf{}, select(x > splat(88.7f), splat(INFINITY), y));
}

// 2^t for t <= 0, exactly 1 at 0 and exactly 0 below -125 (and at -inf); NaN stays NaN. Minimax polynomial of degree 5
// on [-1/2, 1/2], relative error 1e-7; slightly positive t is fine too (up to 127).
static inline vf vexp2(vf t) {
  const vf low = splat(-125.f);
  const vf clamped = low > t ? low : t;
  const vf shifted = clamped + 12582912.f;  // 1.5 * 2^23: the low bits hold the nearest integer
  const vf f = clamped - (shifted - 12582912.f);
  vf p = splat(1.32647273e-3f);
  p = p * f + 9.67151299e-3f;
  p = p * f + 5.55073358e-2f;
  p = p * f + 2.40222424e-1f;
  p = p * f + 6.93147004e-1f;
  p = p * f + 1.0f;
  const vf y = (vf)((vi)p + ((vi)shifted << 23));
  return select(t < low, vf{}, y);
}

static inline vf vsigmoid(vf x) { return 1.0f / (1.0f + vexp(-x)); }

static inline vf vtanh(vf x) {
  const vf a = vabs(x);
  // Small arguments by an odd polynomial, where the exponential form would cancel.
  const vf z = x * x;
  vf p = splat(-5.70498872745E-3f);
  p = p * z + 2.06390887954E-2f;
  p = p * z + -5.37397155531E-2f;
  p = p * z + 1.33314422036E-1f;
  p = p * z + -3.33332819422E-1f;
  const vf small = p * z * x + x;
  const vf big = 1.0f - 2.0f / (vexp(2.0f * a) + 1.0f);
  return select(a < splat(0.625f), small, select(x < vf{}, -big, big));
}

static inline vf get(const float* p, int64_t n) { return n == W ? load(p) : load_partial(p, n); }
static inline void put(float* p, vf x, int64_t n) {
  if (n == W)
    store(p, x);
  else
    store_partial(p, x, n);
}

// Addresses come from TypeScript as integers.
static inline float* F(int64_t address) { return reinterpret_cast<float*>(address); }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t blocks(int64_t n, int64_t size) { return (n + size - 1) / size; }

// Largest number of rows a task takes so that a task has about `work` elements: a function of the shape only.
static inline int64_t rows_per_task(int64_t columns, int64_t work) {
  const int64_t rows = work / (columns > 0 ? columns : 1);
  return rows < 1 ? 1 : rows;
}
}  // namespace
