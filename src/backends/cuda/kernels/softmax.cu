// Softmax of rows and its gradient, in place: part of attention by whole matrices, which is only measured. A block a row,
// 16 bytes a thread at a time where rows allow it. A row is read twice and written once: short rows come from the
// first-level cache the second time. Bytes: 2 passes over the matrix, 3 for the gradient.
#include "prelude.cuh"

constexpr int THREADS = 256;
constexpr int PACK = Pack<scalar_t>::size;
#define NEGATIVE_INFINITY __int_as_float(0xff800000)

/** f(index, value) for the thread's elements of a row; what f returns is stored where `STORE`. */
template <bool STORE, typename F>
TY_INLINE void eachElement(scalar_t* row, int columns, const F& f) {
  if (columns % PACK == 0) {
    for (int j = threadIdx.x * PACK; j < columns; j += THREADS * PACK) {
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
  for (int j = threadIdx.x; j < columns; j += THREADS) {
    const float y = f(j, toFloat(row[j]));
    if (STORE) fromFloat(row[j], y);
  }
}

/** Grid: rows. x [rows, columns] = softmax(scale x). */
TY_KERNEL softmax(scalar_t* x, int columns, float scale) {
  scalar_t* row = x + (i64)blockIdx.x * columns;
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
  __shared__ float parts[32];
  const float most = blockMax(top, parts);
  const float inverse = 1.f / blockSum(sum * __expf(top - most), parts);
  eachElement<true>(row, columns, [&](int, float value) { return __expf(value * scale - most) * inverse; });
}

/** Grid: rows. gradient [rows, columns] = scale p (gradient - rowsum(p gradient)). */
TY_KERNEL softmax_backward(scalar_t* gradient, const scalar_t* p, int columns, float scale) {
  scalar_t* row = gradient + (i64)blockIdx.x * columns;
  const scalar_t* probabilities = p + (i64)blockIdx.x * columns;
  float sum = 0.f;
  eachElement<false>(row, columns, [&](int j, float value) {
    sum = fmaf(value, toFloat(probabilities[j]), sum);
    return 0.f;
  });
  __shared__ float parts[32];
  const float mean = blockSum(sum, parts);
  eachElement<true>(row, columns, [&](int j, float value) {
    return scale * toFloat(probabilities[j]) * (value - mean);
  });
}
