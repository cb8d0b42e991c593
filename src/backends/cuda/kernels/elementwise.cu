// Fills, copies, casts, sums of tensors and sums over rows. One pass over memory each.
//
// OUT_DTYPE and X_DTYPE (0 f32, 1 bf16, 2 f16, 3 f64, 4 i32, 5 u8) are what a kernel writes and reads. Groups are as
// many elements as make 16 bytes of the wider of the two, so that both sides are read and written without gaps.
#include "column-sums.cuh"
#include "elements.cuh"

#ifndef OUT_DTYPE
#define OUT_DTYPE 1
#define X_DTYPE 1
#endif

typedef TypeOf<OUT_DTYPE>::type out_t;
typedef TypeOf<X_DTYPE>::type x_t;
constexpr int N = 16 / (sizeof(out_t) > sizeof(x_t) ? sizeof(out_t) : sizeof(x_t));

template <typename T>
TY_INLINE void fromDouble(T& out, double x) {
  fromFloat(out, (float)x);
}
TY_INLINE void fromDouble(double& out, double x) { out = x; }
TY_INLINE void fromDouble(i32& out, double x) { out = (i32)x; }
TY_INLINE void fromDouble(u8& out, double x) { out = (u8)x; }

/** out = value */
TY_KERNEL fill(out_t* out, Extent extent, double value) {
  out_t element;
  fromDouble(element, value);
  Group<out_t, N> group;
#pragma unroll
  for (int j = 0; j < N; j++) group.set(j, element);
  const i64 first = (i64)blockIdx.x * DEPTH * blockDim.x + threadIdx.x;
#pragma unroll
  for (int k = 0; k < DEPTH; k++) {
    const i64 i = first + k * (i64)blockDim.x;
    if (i < extent.groups) storeGroup<N>(out + extent.offset(i * N, extent.outStride), group);
  }
  for (i64 i = extent.groups * N + globalThread(); i < extent.count; i += globalThreads()) {
    out[extent.offset(i, extent.outStride)] = element;
  }
}

#if OUT_DTYPE == X_DTYPE
/** out = x, bit by bit, whatever the bits mean */
TY_KERNEL copy(out_t* out, const out_t* x, Extent extent) {
  const i64 first = (i64)blockIdx.x * DEPTH * blockDim.x + threadIdx.x;
  Group<out_t, N> in[DEPTH];
#pragma unroll
  for (int k = 0; k < DEPTH; k++) {
    const i64 i = first + k * (i64)blockDim.x;
    if (i < extent.groups) in[k] = loadGroup<N>(x + extent.offset(i * N, extent.inStride));
  }
#pragma unroll
  for (int k = 0; k < DEPTH; k++) {
    const i64 i = first + k * (i64)blockDim.x;
    if (i < extent.groups) storeGroup<N>(out + extent.offset(i * N, extent.outStride), in[k]);
  }
  for (i64 i = extent.groups * N + globalThread(); i < extent.count; i += globalThreads()) {
    out[extent.offset(i, extent.outStride)] = x[extent.offset(i, extent.inStride)];
  }
}
#else
/** out = x, rounded where out is narrower */
TY_KERNEL copy(out_t* out, const x_t* x, Extent extent) {
  mapElements<N>(out, x, extent, [](float a) { return a; });
}
#endif

#if OUT_DTYPE < 3 && X_DTYPE < 3
/** out += x */
TY_KERNEL accumulate(out_t* out, const x_t* x, Extent extent) {
  mapElements<N>(out, x, out, extent, [](float a, float b) { return a + b; });
}

/** out = a + b */
TY_KERNEL add(out_t* out, const x_t* a, const x_t* b, Extent extent) {
  mapElements<N>(out, a, b, extent, [](float x, float y) { return x + y; });
}

/** out = alpha x + beta y */
TY_KERNEL axpby(out_t* out, const x_t* x, const x_t* y, Extent extent, float alpha, float beta) {
  mapElements<N>(out, x, y, extent, [=](float a, float b) { return fmaf(alpha, a, beta * b); });
}

/** Rows that a warp of row_sums has on their way at a time. */
constexpr int ROWS = 4;

/**
 * partials[part][c] = sum of x[r][c] over the rows of the part. Block (strip, part): 8 warps, each the columns of the
 * strip (32 groups of M) in every 8th row. M = 1 where rows are not aligned.
 */
template <int M>
TY_INLINE void rowSums(float* partials, const x_t* x, i64 rows, int columns, i64 stride, int rowsPerPart) {
  __shared__ float shared[8][32 * M + 1];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int column = (blockIdx.x * 32 + lane) * M;
  const i64 start = (i64)blockIdx.y * rowsPerPart;
  const i64 end = start + rowsPerPart < rows ? start + rowsPerPart : rows;
  float sums[M] = {};
  if (column < columns) {
    for (i64 r = start + warp; r < end; r += 8 * ROWS) {
      Group<x_t, M> group[ROWS];
#pragma unroll
      for (int k = 0; k < ROWS; k++) {
        if (r + 8 * k < end) group[k] = loadGroup<M>(x + (r + 8 * k) * stride + column);
      }
#pragma unroll
      for (int k = 0; k < ROWS; k++) {
        if (r + 8 * k >= end) break;
#pragma unroll
        for (int j = 0; j < M; j++) sums[j] += floatAt(group[k], j);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < M; j++) shared[warp][lane * M + j] = sums[j];
  __syncthreads();
  for (int c = threadIdx.x; c < 32 * M; c += blockDim.x) {
    if (blockIdx.x * 32 * M + c >= columns) break;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < 8; w++) sum += shared[w][c];
    partials[(i64)blockIdx.y * columns + blockIdx.x * 32 * M + c] = sum;
  }
}
TY_KERNEL row_sums(float* partials, const x_t* x, i64 rows, i64 stride, int columns, int rowsPerPart) {
  rowSums<1>(partials, x, rows, columns, stride, rowsPerPart);
}
TY_KERNEL row_sums_grouped(float* partials, const x_t* x, i64 rows, i64 stride, int columns, int rowsPerPart) {
  rowSums<16 / sizeof(x_t)>(partials, x, rows, columns, stride, rowsPerPart);
}
TY_KERNEL add_row_sums(out_t* out, const float* partials, int parts, int columns, int accumulate) {
  addParts(out, partials, parts, columns, columns, accumulate, [](int i) { return i; });
}

/** partials[block] = sum of its elements, in f64. */
TY_KERNEL sum_parts(double* partials, const x_t* x, i64 count, i64 perBlock) {
  __shared__ double shared[32];
  const i64 start = blockIdx.x * perBlock;
  const i64 end = start + perBlock < count ? start + perBlock : count;
  double sum = 0;
#pragma unroll 4
  for (i64 i = start + threadIdx.x; i < end; i += blockDim.x) sum += (double)toFloat(x[i]);
  sum = blockSum(sum, shared);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

/** Slot of the step's scalars: SCALAR of core/kernels.ts. */
constexpr int LOSS_SCALE = 7;

/** out (+)= scale * sum of partials. One block. */
TY_KERNEL scaled_sum(double* out, const double* partials, int parts, const double* scalars, int accumulate) {
  __shared__ double shared[32];
  double sum = 0;
  for (int i = threadIdx.x; i < parts; i += blockDim.x) sum += partials[i];
  sum = scalars[LOSS_SCALE] * blockSum(sum, shared);
  if (threadIdx.x == 0) out[0] = accumulate ? out[0] + sum : sum;
}
#endif
