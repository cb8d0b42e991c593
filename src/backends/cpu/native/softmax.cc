// Softmax of rows and its gradient, in place: part of attention by whole matrices, which is only measured (the attention
// of models is attention.cc).
#include "context.h"
#include "simd.h"

namespace {
constexpr int64_t kTaskElements = 1 << 14;

// Row by row on all threads: f(row) for each of `rows` rows of `columns` elements.
template <typename F>
static void eachRow(TyContext* context, int64_t rows, int64_t columns, const F& f) {
  const int64_t rowsOfTask = rows_per_task(columns, kTaskElements);
  parallel_for(context, blocks(rows, rowsOfTask), [&](int64_t task, int) {
    for (int64_t row = task * rowsOfTask; row < least(rows, (task + 1) * rowsOfTask); row++) f(row);
  });
}
}  // namespace

// x [rows, columns] = softmax(scale x), row by row.
TY_EXPORT(ty_softmax)(int64_t context, int64_t x, int64_t rows, int64_t columns, double scale) {
  const float factor = float(scale);
  eachRow(reinterpret_cast<TyContext*>(context), rows, columns, [&](int64_t row) {
    float* p = F(x) + row * columns;
    float top = -INFINITY;
    for (int64_t j = 0; j < columns; j++) top = p[j] * factor > top ? p[j] * factor : top;
    vf parts{};
    const int64_t whole = columns / W * W;
    for (int64_t j = 0; j < whole; j += W) {
      const vf e = vexp(load(p + j) * factor - top);
      store(p + j, e);
      parts += e;
    }
    float sum = hsum(parts);
    for (int64_t j = whole; j < columns; j++) sum += p[j] = expf(p[j] * factor - top);
    const float inverse = 1 / sum;
    for (int64_t j = 0; j < columns; j++) p[j] *= inverse;
  });
}

// gradient [rows, columns] = scale p (gradient - rowsum(p gradient)).
TY_EXPORT(ty_softmax_backward)(int64_t context, int64_t gradient, int64_t p, int64_t rows, int64_t columns,
                               double scale) {
  const float factor = float(scale);
  eachRow(reinterpret_cast<TyContext*>(context), rows, columns, [&](int64_t row) {
    float* g = F(gradient) + row * columns;
    const float* q = F(p) + row * columns;
    vf parts{};
    const int64_t whole = columns / W * W;
    for (int64_t j = 0; j < whole; j += W) parts += load(g + j) * load(q + j);
    float sum = hsum(parts);
    for (int64_t j = whole; j < columns; j++) sum += g[j] * q[j];
    for (int64_t j = 0; j < columns; j++) g[j] = factor * q[j] * (g[j] - sum);
  });
}
