// The f32 matrix product: blocked (gemm-blocked.h), or without packing where B is read once and memory is the limit.
#include "gemm-blocked.h"

namespace {
// Up to so many rows, reading B is most of the work (decoding).
constexpr int64_t kFewRows = 8;
// Rows that share a read of B from the first-level cache.
constexpr int kRowGroup = 4;

static inline void finish(float y, float* out, const Epilogue& e, int64_t m, int64_t n) {
  if (e.accumulate) y += *out;
  if (e.bias) y += e.bias[n];
  if (e.residual) y += e.residual[m * e.residualStride + n];
  *out = y;
}

// R dot products of length K: rows of A against one row of B.
template <int R>
static inline void dots(float* out, const float* a, int64_t stride, const float* b, int64_t K) {
  // Independent sums hide the latency of the multiply-adds.
  constexpr int U = R == 1 ? 4 : 2;
  vf sum[R][U] = {};
  int64_t k = 0;
  for (; k + U * W <= K; k += U * W)
    for (int u = 0; u < U; u++) {
      const vf y = load(b + k + u * W);
      for (int i = 0; i < R; i++) sum[i][u] += load(a + i * stride + k + u * W) * y;
    }
  for (; k < K; k += W) {
    const int64_t left = least(W, K - k);
    const vf y = get(b + k, left);
    for (int i = 0; i < R; i++) sum[i][0] += get(a + i * stride + k, left) * y;
  }
  for (int i = 0; i < R; i++) {
    vf total = sum[i][0];
    for (int u = 1; u < U; u++) total += sum[i][u];
    out[i] = hsum(total);
  }
}

// A few rows against B stored [N, K]: dot products at the speed of memory.
static void fewRowsNT(TyContext* context, float* c, int64_t cStride, const Operand& a, const Operand& b, int64_t M,
                      int64_t N, int64_t K, const Epilogue& e) {
  const int64_t perTask = rows_per_task(K * M, 1 << 16);
  parallel_for(context, blocks(N, perTask), [&](int64_t task, int) {
    for (int64_t n = task * perTask; n < least(N, (task + 1) * perTask); n++) {
      const float* row = b.data + n * b.stride;
      for (int64_t m = 0; m < M; m += kRowGroup) {
        const float* x = a.data + m * a.stride;
        const int64_t rows = least(kRowGroup, M - m);
        float y[kRowGroup];
        if (rows == 4)
          dots<4>(y, x, a.stride, row, K);
        else if (rows == 3)
          dots<3>(y, x, a.stride, row, K);
        else if (rows == 2)
          dots<2>(y, x, a.stride, row, K);
        else
          dots<1>(y, x, a.stride, row, K);
        for (int64_t i = 0; i < rows; i++) finish(y[i], c + (m + i) * cStride + n, e, m + i, n);
      }
    }
  });
}

// sum[n] += a[k] b[k][n] for ROWS rows of B: they lie one behind the other where the strip is the whole width.
template <int ROWS>
static inline void addRows(float* sum, const float* a, const float* b, int64_t stride, int64_t columns) {
  vf x[ROWS];
  for (int r = 0; r < ROWS; r++) x[r] = splat(a[r]);
  int64_t n = 0;
  for (; n + W <= columns; n += W) {
    vf y = load(sum + n);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) y += x[r] * load(b + r * stride + n);
    store(sum + n, y);
  }
  for (; n < columns; n++)
    for (int r = 0; r < ROWS; r++) sum[n] += a[r] * b[r * stride + n];
}

// One row against B stored [K, N]: a task goes down whole rows of a range of k, so that each thread reads memory from one
// end to the other, with its sums in the first-level cache; the sums of the ranges are added in order. Eight rows at a
// time: 34.1 of 35.4 GB/s, one or four 29 to 31, and halves of rows (strips of columns) 28.
static void oneRowNN(TyContext* context, float* c, const Operand& a, const Operand& b, int64_t N, int64_t K,
                     const Epilogue& e) {
  constexpr int kRows = 8;
  constexpr int64_t kWidest = 4096, kRangeFloats = 72 << 10, kMostRanges = 64;
  const int64_t strips = blocks(N, kWidest), width = blocks(blocks(N, strips), W) * W;
  const int64_t wanted = least(kMostRanges, blocks(K * width, kRangeFloats));
  const int64_t perRange = blocks(blocks(K, wanted), kRows) * kRows, ranges = blocks(K, perRange);
  float* const partial = static_cast<float*>(ty_shared_scratch(context, size_t(ranges * strips * width) * 4));
  parallel_for(context, ranges * strips, [&](int64_t task, int) {
    const int64_t n0 = task % strips * width, columns = least(width, N - n0);
    int64_t k = task / strips * perRange;
    const int64_t to = least(K, k + perRange);
    float* const sum = partial + task * width;
    memset(sum, 0, size_t(columns) * 4);
    for (; k + kRows <= to; k += kRows)
      addRows<kRows>(sum, a.data + k, b.data + k * b.stride + n0, b.stride, columns);
    for (; k < to; k++) addRows<1>(sum, a.data + k, b.data + k * b.stride + n0, b.stride, columns);
  });
  for (int64_t n = 0; n < N; n += W) {
    const int64_t count = least(W, N - n);
    const float* sum = partial + n;  // strips are whole vectors wide
    vf y{};
    for (int64_t r = 0; r < ranges; r++) y += load(sum + r * strips * width);
    if (e.accumulate) y += get(c + n, count);
    if (e.bias) y += get(e.bias + n, count);
    if (e.residual) y += get(e.residual + n, count);
    put(c + n, y, count);
  }
}
}  // namespace

// flags: 1 = A transposed, 2 = B transposed, 4 = accumulate. bias and residual are addresses or 0.
TY_EXPORT(ty_matmul)(int64_t context, int64_t c, int64_t cStride, int64_t a, int64_t aStride, int64_t b,
                     int64_t bStride, int64_t M, int64_t N, int64_t K, int32_t flags, int64_t bias, int64_t residual,
                     int64_t residualStride) {
  TyContext* ctx = reinterpret_cast<TyContext*>(context);
  const Operand A{F(a), aStride, (flags & 1) != 0}, B{F(b), bStride, (flags & 2) != 0};
  const Epilogue e{F(bias), F(residual), residualStride, (flags & 4) != 0};
  if (M <= kFewRows && !A.transposed && B.transposed)
    fewRowsNT(ctx, F(c), cStride, A, B, M, N, K, e);
  else if (M == 1 && !A.transposed)
    oneRowNN(ctx, F(c), A, B, N, K, e);
  else
    gemm<F32Product>(ctx, F(c), cStride, A, B, M, N, K, e);
}
