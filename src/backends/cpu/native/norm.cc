// RMSNorm and LayerNorm, forward and backward. A row is summed in vectors of f32 (rows are short), weight gradients
// as partials of fixed blocks of rows that are added in order.
#include "column-sums.h"
#include "context.h"
#include "simd.h"

namespace {
// Rows of a partial of a weight gradient.
constexpr int64_t kPartialRows = 128;

template <typename G>
static void eachRow(int64_t context, int64_t rows, int64_t columns, const G& g) {
  const int64_t perTask = rows_per_task(columns, 1 << 14);
  parallel_for(reinterpret_cast<TyContext*>(context), blocks(rows, perTask), [&](int64_t task, int) {
    for (int64_t r = task * perTask; r < least(rows, (task + 1) * perTask); r++) g(r);
  });
}

// Sum over a row of g(j, count), two chains.
template <typename G>
static inline float rowSum(int64_t columns, const G& g) {
  vf s0{}, s1{};
  int64_t j = 0;
  for (; j + 2 * W <= columns; j += 2 * W) {
    s0 += g(j, W);
    s1 += g(j + W, W);
  }
  for (; j < columns; j += W) s0 += g(j, least(W, columns - j));
  return hsum(s0 + s1);
}
}  // namespace

TY_EXPORT(ty_rmsnorm)(int64_t context, int64_t out, int64_t rstd, int64_t x, int64_t weight, int64_t rows, int64_t D,
                      double eps) {
  eachRow(context, rows, D, [&](int64_t r) {
    const float* in = F(x) + r * D;
    const float squares = rowSum(D, [&](int64_t j, int64_t n) {
      const vf v = get(in + j, n);
      return v * v;
    });
    const float s = float(1 / sqrt(double(squares) / double(D) + eps));
    F(rstd)[r] = s;
    for (int64_t j = 0; j < D; j += W) {
      const int64_t n = least(W, D - j);
      put(F(out) + r * D + j, get(in + j, n) * s * get(F(weight) + j, n), n);
    }
  });
}

// dx = rstd (w dy - xhat mean(w dy xhat)), xhat = x rstd.
TY_EXPORT(ty_rmsnorm_backward_input)(int64_t context, int64_t dx, int64_t dOut, int64_t x, int64_t weight, int64_t rstd,
                                     int64_t rows, int64_t D, int32_t accumulate) {
  eachRow(context, rows, D, [&](int64_t r) {
    const float *in = F(x) + r * D, *dy = F(dOut) + r * D, *w = F(weight);
    const float s = F(rstd)[r];
    const float dot =
        rowSum(D, [&](int64_t j, int64_t n) { return get(in + j, n) * get(dy + j, n) * get(w + j, n); });
    const float c = dot * s * s / float(D);
    for (int64_t j = 0; j < D; j += W) {
      const int64_t n = least(W, D - j);
      float* o = F(dx) + r * D + j;
      vf d = s * (get(w + j, n) * get(dy + j, n) - c * get(in + j, n));
      if (accumulate) d += get(o, n);
      put(o, d, n);
    }
  });
}

TY_EXPORT(ty_rmsnorm_backward_weight)(int64_t context, int64_t dWeight, int64_t dOut, int64_t x, int64_t rstd,
                                      int64_t rows, int64_t D, int32_t accumulate) {
  columnSums<1, kPartialRows>(context, {F(dWeight)}, {accumulate != 0}, rows, D, [&](int64_t r, int64_t j, int64_t n) {
    return Terms<1>{get(F(dOut) + r * D + j, n) * get(F(x) + r * D + j, n) * F(rstd)[r]};
  });
}

TY_EXPORT(ty_layernorm)(int64_t context, int64_t out, int64_t mean, int64_t rstd, int64_t x, int64_t weight,
                        int64_t bias, int64_t rows, int64_t D, double eps) {
  eachRow(context, rows, D, [&](int64_t r) {
    const float* in = F(x) + r * D;
    const float m = rowSum(D, [&](int64_t j, int64_t n) { return get(in + j, n); }) / float(D);
    // Deviations of the tail beyond D would count -m squared: they are masked by the partial load of ones.
    const float squares = rowSum(D, [&](int64_t j, int64_t n) {
      vf v = get(in + j, n) - m;
      if (n < W) {
        vf kept{};
        memcpy(&kept, &v, size_t(n) * 4);
        v = kept;
      }
      return v * v;
    });
    const float s = float(1 / sqrt(double(squares) / double(D) + eps));
    F(mean)[r] = m;
    F(rstd)[r] = s;
    for (int64_t j = 0; j < D; j += W) {
      const int64_t n = least(W, D - j);
      put(F(out) + r * D + j, (get(in + j, n) - m) * s * get(F(weight) + j, n) + get(F(bias) + j, n), n);
    }
  });
}

// dx = rstd (w dy - mean(w dy) - xhat mean(w dy xhat)).
TY_EXPORT(ty_layernorm_backward_input)(int64_t context, int64_t dx, int64_t dOut, int64_t x, int64_t weight,
                                       int64_t mean, int64_t rstd, int64_t rows, int64_t D, int32_t accumulate) {
  eachRow(context, rows, D, [&](int64_t r) {
    const float *in = F(x) + r * D, *dy = F(dOut) + r * D, *w = F(weight);
    const float s = F(rstd)[r], m = F(mean)[r];
    const float sum = rowSum(D, [&](int64_t j, int64_t n) { return get(dy + j, n) * get(w + j, n); });
    const float dot =
        rowSum(D, [&](int64_t j, int64_t n) { return (get(in + j, n) - m) * get(dy + j, n) * get(w + j, n); });
    const float a = sum / float(D), b = dot * s * s / float(D);
    for (int64_t j = 0; j < D; j += W) {
      const int64_t n = least(W, D - j);
      float* o = F(dx) + r * D + j;
      vf d = s * (get(w + j, n) * get(dy + j, n) - a - b * (get(in + j, n) - m));
      if (accumulate) d += get(o, n);
      put(o, d, n);
    }
  });
}

// accumulate: 1 adds to dWeight, 2 to dBias, 3 to both.
TY_EXPORT(ty_layernorm_backward_weight)(int64_t context, int64_t dWeight, int64_t dBias, int64_t dOut, int64_t x,
                                        int64_t mean, int64_t rstd, int64_t rows, int64_t D, int32_t accumulate) {
  columnSums<2, kPartialRows>(context, {F(dWeight), F(dBias)}, {(accumulate & 1) != 0, (accumulate & 2) != 0}, rows, D,
                              [&](int64_t r, int64_t j, int64_t n) {
                                const vf dy = get(F(dOut) + r * D + j, n);
                                return Terms<2>{dy * ((get(F(x) + r * D + j, n) - F(mean)[r]) * F(rstd)[r]), dy};
                              });
}
