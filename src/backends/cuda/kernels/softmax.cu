// Softmax of rows and its gradient, in place: part of attention by whole matrices, which is only measured. A warp or a
// block a row, 16 bytes a thread at a time where rows allow it. A row is read twice and written once: it comes from the
// first-level cache the second time. Bytes: 2 passes over the matrix, 3 for the gradient.
#include "prelude.cuh"

/** Threads of a row: a warp, or all of the block. */
#ifndef ROW_THREADS
#define ROW_THREADS 256
#endif

constexpr int THREADS = 256;
constexpr int ROWS = THREADS / ROW_THREADS;
static_assert(ROW_THREADS == 32 || ROW_THREADS == THREADS, "a warp or a block a row");
constexpr int PACK = Pack<scalar_t>::size;
#define NEGATIVE_INFINITY __int_as_float(0xff800000)

/** f(index, value) for the thread's elements of a row; what f returns is stored where `STORE`. */
template <bool STORE, typename F>
TY_INLINE void eachElement(scalar_t* row, int columns, const F& f) {
  if (columns % PACK == 0) {
    for (int j = threadIdx.x % ROW_THREADS * PACK; j < columns; j += ROW_THREADS * PACK) {
      Pack<scalar_t> pack = loadPack(row + j);
#pragma unroll
      for (int i = 0; i < PACK; i++) {
        const float y = f(j + i, toFloat(pack.at[i]));
        if (STORE) fromFloat(pack.at[i], y);
      }
      if (STORE) storePack(row + j, pack);
    }
    return;
  }
  for (int j = threadIdx.x % ROW_THREADS; j < columns; j += ROW_THREADS) {
    const float y = f(j, toFloat(row[j]));
    if (STORE) fromFloat(row[j], y);
  }
}

TY_INLINE float rowSum(float x) {
  __shared__ float parts[THREADS / 32];
  return ROW_THREADS == 32 ? warpSum(x) : blockSum(x, parts);
}
TY_INLINE float rowMax(float x) {
  __shared__ float parts[THREADS / 32];
  return ROW_THREADS == 32 ? warpMax(x) : blockMax(x, parts);
}

/** Grid: rows / ROWS, rounded up. x [rows, columns] = softmax(scale x). */
TY_KERNEL softmax(scalar_t* x, i64 rows, int columns, float scale) {
  const i64 number = (i64)blockIdx.x * ROWS + threadIdx.x / ROW_THREADS;
  if (number >= rows) return;
  scalar_t* row = x + number * columns;
  float top = NEGATIVE_INFINITY, sum = 0.f;
  eachElement<false>(row, columns, [&](int, float value) {
    const float score = value * scale;
    if (score > top) {
      sum *= __expf(top - score);
      top = score;
    }
    sum += __expf(score - top);
    return 0.f;
  });
  const float most = rowMax(top);
  const float inverse = 1.f / rowSum(top == NEGATIVE_INFINITY ? 0.f : sum * __expf(top - most));
  eachElement<true>(row, columns, [&](int, float value) { return __expf(value * scale - most) * inverse; });
}

/** Grid as above. gradient [rows, columns] = scale p (gradient - rowsum(p gradient)). */
TY_KERNEL softmax_backward(scalar_t* gradient, const scalar_t* p, i64 rows, int columns, float scale) {
  const i64 number = (i64)blockIdx.x * ROWS + threadIdx.x / ROW_THREADS;
  if (number >= rows) return;
  scalar_t* row = gradient + number * columns;
  const scalar_t* probabilities = p + number * columns;
  float sum = 0.f;
  eachElement<false>(row, columns, [&](int j, float value) {
    sum = fmaf(value, toFloat(probabilities[j]), sum);
    return 0.f;
  });
  const float mean = rowSum(sum);
  eachElement<true>(row, columns, [&](int j, float value) {
    return scale * toFloat(probabilities[j]) * (value - mean);
  });
}
