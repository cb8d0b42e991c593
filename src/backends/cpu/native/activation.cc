// SwiGLU, GELU and rotary positions, forward and backward.
#include "context.h"
#include "simd.h"

namespace {
constexpr int64_t kChunk = 1 << 13;

// g(row, column, count) over rows of `columns`, in tasks of whole rows.
template <typename G>
static void each(int64_t context, int64_t rows, int64_t columns, const G& g) {
  const int64_t perTask = rows_per_task(columns, kChunk);
  parallel_for(reinterpret_cast<TyContext*>(context), blocks(rows, perTask), [&](int64_t task, int) {
    for (int64_t r = task * perTask; r < least(rows, (task + 1) * perTask); r++)
      for (int64_t j = 0; j < columns; j += W) g(r, j, least(W, columns - j));
  });
}

constexpr float kRootTwoOverPi = 0.7978845608028654f;
constexpr float kCubic = 0.044715f;

// Phi(x) - 1/2, half of erf(x / sqrt 2): x times a minimax quotient in x^2 on [0, 5.5] (relative error 2e-8, 3.5e-7 with
// rounding), one half beyond.
static inline vf halfErf(vf x) {
  const vf z = x * x;
  vf p = splat(2.29311929e-8f);
  p = p * z + 6.30157729e-6f;
  p = p * z + 1.64572673e-4f;
  p = p * z + 4.65147523e-3f;
  p = p * z + 3.34587917e-2f;
  p = p * z + 3.98942262e-1f;
  vf q = splat(1.19902847e-6f);
  q = q * z + 7.21666656e-5f;
  q = q * z + 1.8606399e-3f;
  q = q * z + 2.84160711e-2f;
  q = q * z + 2.5053516e-1f;
  q = q * z + 1.0f;
  const vf half = (vf)(((vi)x & INT32_MIN) | (vi)splat(0.5f));
  return select(vabs(x) < splat(5.5f), x * p / q, half);
}

template <bool TANH>
static inline vf gelu(vf x) {
  if (TANH) return 0.5f * x * (1.0f + vtanh(kRootTwoOverPi * (x + kCubic * x * x * x)));
  return x * (0.5f + halfErf(x));
}

template <bool TANH>
static inline vf geluSlope(vf x) {
  if (TANH) {
    const vf t = vtanh(kRootTwoOverPi * (x + kCubic * x * x * x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * kRootTwoOverPi * (1.0f + 3.0f * kCubic * x * x);
  }
  const vf density = 0.3989422804014327f * vexp2(x * x * -0.72134752044448170f);
  return 0.5f + halfErf(x) + x * density;
}

// f(i, count) over the vectors of a flat range.
template <typename G>
static void flat(int64_t context, int64_t count, const G& f) {
  parallel_for(reinterpret_cast<TyContext*>(context), blocks(count, kChunk), [&](int64_t task, int) {
    const int64_t to = least(count, (task + 1) * kChunk);
    int64_t i = task * kChunk;
    for (; i + W <= to; i += W) f(i, W);
    if (i < to) f(i, to - i);
  });
}

template <bool TANH>
static void geluAll(int64_t context, float* out, const float* x, int64_t count) {
  flat(context, count, [&](int64_t i, int64_t n) { put(out + i, gelu<TANH>(get(x + i, n)), n); });
}

template <bool TANH>
static void geluBackwardAll(int64_t context, float* dx, const float* dOut, const float* x, int64_t count) {
  flat(context, count,
       [&](int64_t i, int64_t n) { put(dx + i, get(dOut + i, n) * geluSlope<TANH>(get(x + i, n)), n); });
}
}  // namespace

TY_EXPORT(ty_swiglu)(int64_t context, int64_t out, int64_t gateUp, int64_t rows, int64_t width) {
  each(context, rows, width, [&](int64_t r, int64_t j, int64_t n) {
    const float* row = F(gateUp) + r * 2 * width;
    const vf gate = get(row + j, n), up = get(row + width + j, n);
    put(F(out) + r * width + j, gate * vsigmoid(gate) * up, n);
  });
}

// dgate = dy up s (1 + g (1 - s)), dup = dy g s, with s = sigmoid(g).
TY_EXPORT(ty_swiglu_backward)(int64_t context, int64_t dGateUp, int64_t dOut, int64_t gateUp, int64_t rows,
                              int64_t width) {
  each(context, rows, width, [&](int64_t r, int64_t j, int64_t n) {
    const float* row = F(gateUp) + r * 2 * width;
    float* d = F(dGateUp) + r * 2 * width;
    const vf gate = get(row + j, n), up = get(row + width + j, n), dy = get(F(dOut) + r * width + j, n);
    const vf s = vsigmoid(gate);
    put(d + j, dy * up * s * (1.0f + gate * (1.0f - s)), n);
    put(d + width + j, dy * gate * s, n);
  });
}

TY_EXPORT(ty_gelu)(int64_t context, int64_t out, int64_t x, int64_t count, int32_t tanhForm) {
  (tanhForm ? geluAll<true> : geluAll<false>)(context, F(out), F(x), count);
}

TY_EXPORT(ty_gelu_backward)(int64_t context, int64_t dx, int64_t dOut, int64_t x, int64_t count, int32_t tanhForm) {
  (tanhForm ? geluBackwardAll<true> : geluBackwardAll<false>)(context, F(dx), F(dOut), F(x), count);
}

// Pairs (i, i + half) of each head; `sign` -1 rotates back. Columns past the heads are copied unless in place.
TY_EXPORT(ty_rope)(int64_t context, int64_t out, int64_t outStride, int64_t x, int64_t xStride, int64_t positions,
                   int64_t cosTable, int64_t sinTable, int64_t rows, int64_t columns, int64_t heads, int64_t headDim,
                   double sign) {
  const int64_t half = headDim / 2;
  const int32_t* position = reinterpret_cast<const int32_t*>(positions);
  const float direction = float(sign);
  const int64_t perTask = rows_per_task(heads * headDim, kChunk);
  parallel_for(reinterpret_cast<TyContext*>(context), blocks(rows, perTask), [&](int64_t task, int) {
    for (int64_t r = task * perTask; r < least(rows, (task + 1) * perTask); r++) {
      const float* c = F(cosTable) + int64_t(position[r]) * half;
      const float* s = F(sinTable) + int64_t(position[r]) * half;
      const float* in = F(x) + r * xStride;
      float* o = F(out) + r * outStride;
      for (int64_t h = 0; h < heads; h++)
        for (int64_t j = 0; j < half; j += W) {
          const int64_t n = least(W, half - j), k = h * headDim + j;
          const vf a = get(in + k, n), b = get(in + k + half, n);
          const vf cosine = get(c + j, n), sine = direction * get(s + j, n);
          put(o + k, a * cosine - b * sine, n);
          put(o + k + half, b * cosine + a * sine, n);
        }
      if (o != in) memcpy(o + heads * headDim, in + heads * headDim, size_t(columns - heads * headDim) * 4);
    }
  });
}
