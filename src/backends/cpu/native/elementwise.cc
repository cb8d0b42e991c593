// Copies, sums and embeddings: bandwidth-bound kernels over flat ranges or rows.
#include "column-sums.h"
#include "context.h"
#include "simd.h"

namespace {
// Elements of one task of a flat kernel: large enough that a fork pays, a function of nothing but the size.
constexpr int64_t kChunk = 1 << 15;
// Reductions combine one partial for each chunk of this many elements, in order.
constexpr int64_t kSumChunk = 1 << 14;

// f(vector index) over [0, n): whole vectors through `body`, the tail through `tail`.
template <typename F>
static void flat(int64_t context, int64_t n, const F& body) {
  parallel_for(reinterpret_cast<TyContext*>(context), blocks(n, kChunk), [&](int64_t task, int) {
    const int64_t to = least(n, (task + 1) * kChunk);
    int64_t i = task * kChunk;
    for (; i + W <= to; i += W) body(i, W);
    if (i < to) body(i, to - i);
  });
}

// Sum of f(x) over a range in f64, f of 0 being 0: a sum for each of W lanes, then the lanes in order.
template <typename G>
static double sumChunk(const float* x, int64_t n, const G& g) {
  vd low{}, high{};
  const auto add = [&](const float* from) {
    low += g(load_double(from));
    high += g(load_double(from + W / 2));
  };
  int64_t i = 0;
  for (; i + W <= n; i += W) add(x + i);
  if (i < n) {
    float rest[W] = {};
    memcpy(rest, x + i, size_t(n - i) * 4);
    add(rest);
  }
  double sum = 0;
  for (int lane = 0; lane < W / 2; lane++) sum += low[lane];
  for (int lane = 0; lane < W / 2; lane++) sum += high[lane];
  return sum;
}

template <typename G>
static double orderedSum(int64_t context, const float* x, int64_t n, const G& g) {
  TyContext* ctx = reinterpret_cast<TyContext*>(context);
  const int64_t chunks = blocks(n, kSumChunk);
  double* partial = static_cast<double*>(ty_shared_scratch(ctx, size_t(chunks + 1) * 8));
  const int64_t perTask = 4;
  parallel_for(ctx, blocks(chunks, perTask), [&](int64_t task, int) {
    for (int64_t c = task * perTask; c < least(chunks, (task + 1) * perTask); c++)
      partial[c] = sumChunk(x + c * kSumChunk, least(kSumChunk, n - c * kSumChunk), g);
  });
  double total = 0;
  for (int64_t c = 0; c < chunks; c++) total += partial[c];
  return total;
}
}  // namespace

TY_EXPORT(ty_fill)(int64_t context, int64_t out, int64_t rows, int64_t columns, int64_t stride, double value) {
  const vf v = splat(float(value));
  if (stride == columns) {
    flat(context, rows * columns, [&](int64_t i, int64_t n) { put(F(out) + i, v, n); });
    return;
  }
  for (int64_t r = 0; r < rows; r++)
    for (int64_t j = 0; j < columns; j += W) put(F(out) + r * stride + j, v, least(W, columns - j));
}

TY_EXPORT(ty_copy)(int64_t context, int64_t out, int64_t outStride, int64_t x, int64_t xStride, int64_t rows,
                   int64_t columns) {
  const int64_t perTask = rows_per_task(columns, kChunk);
  parallel_for(reinterpret_cast<TyContext*>(context), blocks(rows, perTask), [&](int64_t task, int) {
    for (int64_t r = task * perTask; r < least(rows, (task + 1) * perTask); r++)
      memcpy(F(out) + r * outStride, F(x) + r * xStride, size_t(columns) * 4);
  });
}

TY_EXPORT(ty_add)(int64_t context, int64_t out, int64_t a, int64_t b, int64_t n) {
  flat(context, n, [&](int64_t i, int64_t k) { put(F(out) + i, get(F(a) + i, k) + get(F(b) + i, k), k); });
}

// Rows may be column slices.
TY_EXPORT(ty_accumulate)(int64_t context, int64_t out, int64_t outStride, int64_t x, int64_t xStride, int64_t rows,
                         int64_t columns) {
  if (outStride == columns && xStride == columns) {
    flat(context, rows * columns,
         [&](int64_t i, int64_t n) { put(F(out) + i, get(F(out) + i, n) + get(F(x) + i, n), n); });
    return;
  }
  const int64_t perTask = rows_per_task(columns, kChunk);
  parallel_for(reinterpret_cast<TyContext*>(context), blocks(rows, perTask), [&](int64_t task, int) {
    for (int64_t r = task * perTask; r < least(rows, (task + 1) * perTask); r++)
      for (int64_t j = 0; j < columns; j += W) {
        const int64_t n = least(W, columns - j);
        float* o = F(out) + r * outStride + j;
        put(o, get(o, n) + get(F(x) + r * xStride + j, n), n);
      }
  });
}

TY_EXPORT(ty_axpby)(int64_t context, int64_t out, int64_t x, int64_t y, int64_t n, double alpha, double beta) {
  const float a = float(alpha), b = float(beta);
  flat(context, n, [&](int64_t i, int64_t k) { put(F(out) + i, a * get(F(x) + i, k) + b * get(F(y) + i, k), k); });
}

// out[N] (+)= sum over rows: a task owns columns, rows are added in order in blocks of 64.
TY_EXPORT(ty_sum_rows)(int64_t context, int64_t out, int64_t x, int64_t rows, int64_t columns, int64_t stride,
                       int32_t accumulate) {
  columnSums<1, 64>(context, {F(out)}, {accumulate != 0}, rows, columns,
                    [&](int64_t r, int64_t j, int64_t n) { return Terms<1>{get(F(x) + r * stride + j, n)}; });
}

// scalars are the f64 slots of core/kernels.ts (SCALAR): 3 sum of squares, 4 norm, 5 clip factor, 6 finite, 7 scale of the
// loss, 8 scale of gradients, 9 good steps, 10 hysteresis left, 11 skipped steps.
TY_EXPORT(ty_scaled_sum)(int64_t context, int64_t out, int64_t x, int64_t n, int64_t scalars, int32_t accumulate) {
  double* o = reinterpret_cast<double*>(out);
  const double scale = reinterpret_cast<const double*>(scalars)[7];
  const double total = scale * orderedSum(context, F(x), n, [](vd v) { return v; });
  *o = accumulate ? *o + total : total;
}

TY_EXPORT(ty_sum_of_squares)(int64_t context, int64_t scalars, int64_t x, int64_t n, int32_t accumulate) {
  double* s = reinterpret_cast<double*>(scalars);
  const double total = orderedSum(context, F(x), n, [](vd v) { return v * v; });
  s[3] = accumulate ? s[3] + total : total;
}

TY_EXPORT(ty_clip_factor)(int64_t, int64_t scalars, double maxNorm) {
  double* s = reinterpret_cast<double*>(scalars);
  s[4] = sqrt(s[3]) / s[8];
  s[6] = s[4] - s[4] == 0 ? 1 : 0;
  s[5] = (maxNorm > 0 && s[4] > maxNorm ? maxNorm / s[4] : 1) / s[8];
}

TY_EXPORT(ty_update_loss_scale)(int64_t, int64_t scalars, double growthFactor, double growthInterval,
                                double backoffFactor, double hysteresis, double minScale) {
  double* s = reinterpret_cast<double*>(scalars);
  if (s[6] != 0) {
    if (++s[9] < growthInterval) return;
    s[8] *= growthFactor, s[9] = 0, s[10] = hysteresis;
    return;
  }
  s[11]++, s[9] = 0, s[10]--;
  if (s[10] > 0) return;
  const double smaller = s[8] * backoffFactor;
  s[8] = smaller > minScale ? smaller : minScale, s[10] = hysteresis;
}

TY_EXPORT(ty_normalize)(int64_t context, int64_t out, int64_t x, int64_t n, double eps) {
  const double norm = sqrt(orderedSum(context, F(x), n, [](vd v) { return v * v; }));
  const vf factor = splat(float(1 / (norm + eps)));
  flat(context, n, [&](int64_t i, int64_t k) { put(F(out) + i, get(F(x) + i, k) * factor, k); });
}

TY_EXPORT(ty_embedding)(int64_t context, int64_t out, int64_t table, int64_t ids, int64_t count, int64_t width) {
  const int32_t* id = reinterpret_cast<const int32_t*>(ids);
  const int64_t perTask = rows_per_task(width, kChunk);
  parallel_for(reinterpret_cast<TyContext*>(context), blocks(count, perTask), [&](int64_t task, int) {
    for (int64_t n = task * perTask; n < least(count, (task + 1) * perTask); n++)
      memcpy(F(out) + n * width, F(table) + int64_t(id[n]) * width, size_t(width) * 4);
  });
}

// A task owns a strip of columns and adds the rows in the order of n: no atomics, the same bits on any thread count.
TY_EXPORT(ty_embedding_backward)(int64_t context, int64_t dTable, int64_t dOut, int64_t ids, int64_t count,
                                 int64_t width) {
  const int32_t* id = reinterpret_cast<const int32_t*>(ids);
  constexpr int64_t strip = 4 * W;
  parallel_for(reinterpret_cast<TyContext*>(context), blocks(width, strip), [&](int64_t task, int) {
    const int64_t from = task * strip, to = least(width, from + strip);
    for (int64_t n = 0; n < count; n++)
      for (int64_t j = from; j < to; j += W) {
        const int64_t k = least(W, to - j);
        float* o = F(dTable) + int64_t(id[n]) * width + j;
        put(o, get(o, k) + get(F(dOut) + n * width + j, k), k);
      }
  });
}
