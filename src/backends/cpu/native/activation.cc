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

static inline vf gelu(vf x, bool tanhForm) {
  if (tanhForm) return 0.5f * x * (1.0f + vtanh(kRootTwoOverPi * (x + kCubic * x * x * x)));
  return 0.5f * x * (1.0f + verf(x * 0.7071067811865476f));
}

static inline vf geluSlope(vf x, bool tanhForm) {
  if (tanhForm) {
    const vf t = vtanh(kRootTwoOverPi * (x + kCubic * x * x * x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * kRootTwoOverPi * (1.0f + 3.0f * kCubic * x * x);
  }
  const vf density = 0.3989422804014327f * vexp(-0.5f * x * x);
  return 0.5f * (1.0f + verf(x * 0.7071067811865476f)) + x * density;
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
  each(context, blocks(count, kChunk), kChunk, [&](int64_t r, int64_t j, int64_t) {
    const int64_t i = r * kChunk + j, n = least(W, count - i);
    if (n > 0) put(F(out) + i, gelu(get(F(x) + i, n), tanhForm != 0), n);
  });
}

TY_EXPORT(ty_gelu_backward)(int64_t context, int64_t dx, int64_t dOut, int64_t x, int64_t count, int32_t tanhForm) {
  each(context, blocks(count, kChunk), kChunk, [&](int64_t r, int64_t j, int64_t) {
    const int64_t i = r * kChunk + j, n = least(W, count - i);
    if (n > 0) put(F(dx) + i, get(F(dOut) + i, n) * geluSlope(get(F(x) + i, n), tanhForm != 0), n);
  });
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
