// The second stage of sums over rows: partial sums [parts, columns] in f32, one row of them for each block of the first
// stage, are added in the order of the parts. Which rows make a part follows from the shape alone.
#pragma once
#include "prelude.cuh"

/**
 * out[columnAt(i)] (+)= sum over parts of partials[p][i], i < width, where that column exists. Blocks of 1024 threads,
 * 32 sums each: warp y adds parts y, y + 32 .., then the 32 warps' sums are added.
 */
template <typename O, typename ColumnAt>
TY_INLINE void addParts(O* out, const float* partials, int parts, int width, int columns, bool accumulate,
                        const ColumnAt& columnAt) {
  __shared__ float shared[32][33];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int place = blockIdx.x * 32 + lane;
  float sums[8] = {};
  if (place < width) {
    int p = warp;
    for (; p + 224 < parts; p += 256) {
#pragma unroll
      for (int k = 0; k < 8; k++) sums[k] += partials[(i64)(p + 32 * k) * width + place];
    }
#pragma unroll
    for (int k = 0; k < 8; k++) {
      if (p + 32 * k < parts) sums[k] += partials[(i64)(p + 32 * k) * width + place];
    }
  }
  shared[warp][lane] = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
  __syncthreads();
  const float sum = warpSum(shared[lane][warp]);
  const int own = blockIdx.x * 32 + warp, column = own < width ? columnAt(own) : columns;
  if (lane == 0 && column < columns) fromFloat(out[column], accumulate ? toFloat(out[column]) + sum : sum);
}
