// Attention without tensor cores, in f32 arithmetic for any element type and head size up to 512: one warp a row, each
// lane HEAD_DIM / 32 of its columns. What f32 models run on, what faster kernels are checked against on the card, and the
// only ones that know soft-capped scores and a bias by relative position.
// Bytes: every row of queries reads all keys and values that it sees, mostly from the second-level cache.
#include "prelude.cuh"

/** Columns a lane holds: HEAD_DIM / 32, rounded up. */
#ifndef COLUMNS
#define COLUMNS 4
#endif

#define NEGATIVE_INFINITY __int_as_float(0xff800000)
/** Keys (or queries) whose products are summed over the warp at a time: their shuffles overlap. */
constexpr int WIDTH = 4;

struct Row {
  float at[COLUMNS];
};
TY_INLINE Row loadRow(const scalar_t* p, int headDim) {
  Row row;
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) {
    const int column = c * 32 + (threadIdx.x & 31);
    row.at[c] = column < headDim ? toFloat(p[column]) : 0.f;
  }
  return row;
}
TY_INLINE void storeRow(scalar_t* p, const Row& row, float factor, int headDim) {
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) {
    const int column = c * 32 + (threadIdx.x & 31);
    if (column < headDim) fromFloat(p[column], row.at[c] * factor);
  }
}
TY_INLINE float partOfDot(const Row& a, const Row& b) {
  float sum = 0.f;
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) sum = fmaf(a.at[c], b.at[c], sum);
  return sum;
}
TY_INLINE void addScaled(Row& sum, float factor, const Row& row) {
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) sum.at[c] = fmaf(factor, row.at[c], sum.at[c]);
}

struct Shape {
  int heads, keyHeads, queries, keys, headDim;
  float scale;
  int isCausal, window;
  /** 0: none. */
  float softcap;
};

/** Keys [from, to) that query i of sequence b sees. */
TY_INLINE void visibleKeys(const Shape& s, const i32* docStart, int b, int i, int& from, int& to) {
  to = s.isCausal ? i + 1 + s.keys - s.queries : s.keys;
  from = s.window > 0 ? to - s.window : 0;
  if (docStart != nullptr) from = max(from, docStart[(i64)b * s.keys + i]);
  from = max(from, 0);
}

/** The score of query i and key j in head h from their product, and its derivative by the scaled product. */
TY_INLINE float scoreOf(const Shape& s, const scalar_t* bias, float product, int h, int i, int j, float& slope) {
  float score = product * s.scale;
  slope = 1.f;
  if (s.softcap > 0.f) {
    const float t = tanhf(score / s.softcap);
    score = s.softcap * t;
    slope = 1.f - t * t;
  }
  return bias == nullptr ? score : score + toFloat(bias[(i64)(j - i + s.queries - 1) * s.heads + h]);
}

/** Grid (rows of 4 warps, heads, batch): out and lse of query i. */
TY_KERNEL attention_simple(scalar_t* out, float* lse, const scalar_t* q, const scalar_t* k, const scalar_t* v,
                           const i32* docStart, const scalar_t* bias, i64 outStride, i64 qStride, i64 kStride, i64 vStride, Shape s) {
  const int i = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), h = blockIdx.y, b = blockIdx.z;
  if (i >= s.queries) return;
  const int g = h / (s.heads / s.keyHeads);
  const i64 firstKey = (i64)b * s.keys;
  const scalar_t* keyColumns = k + g * s.headDim;
  const scalar_t* valueColumns = v + g * s.headDim;
  const i64 queryRow = (i64)b * s.queries + i;
  const Row query = loadRow(q + queryRow * qStride + h * s.headDim, s.headDim);
  int from, to;
  visibleKeys(s, docStart, b, i, from, to);
  float maximum = NEGATIVE_INFINITY, sum = 0.f;
  Row mix = {};
  for (int j = from; j < to; j += WIDTH) {
    float score[WIDTH];
#pragma unroll
    for (int w = 0; w < WIDTH; w++) {
      score[w] = j + w < to ? partOfDot(query, loadRow(keyColumns + (firstKey + j + w) * kStride, s.headDim)) : 0.f;
    }
    float top = maximum;
#pragma unroll
    for (int w = 0; w < WIDTH; w++) {
      float slope;
      score[w] = j + w < to ? scoreOf(s, bias, warpSum(score[w]), h, i, j + w, slope) : NEGATIVE_INFINITY;
      top = fmaxf(top, score[w]);
    }
    const float shrink = maximum == NEGATIVE_INFINITY ? 0.f : expf(maximum - top);
    sum *= shrink;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) mix.at[c] *= shrink;
    maximum = top;
#pragma unroll
    for (int w = 0; w < WIDTH; w++) {
      if (j + w >= to) break;
      const float p = expf(score[w] - top);
      sum += p;
      addScaled(mix, p, loadRow(valueColumns + (firstKey + j + w) * vStride, s.headDim));
    }
  }
  storeRow(out + queryRow * outStride + h * s.headDim, mix, sum > 0.f ? 1.f / sum : 0.f, s.headDim);
  if ((threadIdx.x & 31) == 0) {
    lse[((i64)b * s.heads + h) * s.queries + i] = sum > 0.f ? maximum + logf(sum) : NEGATIVE_INFINITY;
  }
}

/** Grid as the forward's: dq of query i, and delta = rowsum(dOut * out). */
TY_KERNEL attention_simple_query(scalar_t* dq, float* delta, const scalar_t* dOut, const scalar_t* out,
                                 const float* lse, const scalar_t* q, const scalar_t* k, const scalar_t* v,
                                 const i32* docStart, const scalar_t* bias, i64 dqStride, i64 dOutStride, i64 outStride, i64 qStride,
                                 i64 kStride, i64 vStride, Shape s) {
  const int i = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), h = blockIdx.y, b = blockIdx.z;
  if (i >= s.queries) return;
  const int g = h / (s.heads / s.keyHeads), column = h * s.headDim;
  const i64 firstKey = (i64)b * s.keys, queryRow = (i64)b * s.queries + i;
  const i64 statistic = ((i64)b * s.heads + h) * s.queries + i;
  const Row query = loadRow(q + queryRow * qStride + column, s.headDim);
  const Row gradient = loadRow(dOut + queryRow * dOutStride + column, s.headDim);
  const float d = warpSum(partOfDot(gradient, loadRow(out + queryRow * outStride + column, s.headDim)));
  if ((threadIdx.x & 31) == 0) delta[statistic] = d;
  const float logSum = lse[statistic];
  int from, to;
  visibleKeys(s, docStart, b, i, from, to);
  Row sum = {};
  for (int j = from; j < to; j += WIDTH) {
    float score[WIDTH], dp[WIDTH];
    Row key[WIDTH];
#pragma unroll
    for (int w = 0; w < WIDTH; w++) {
      score[w] = dp[w] = 0.f;
      if (j + w >= to) continue;
      const i64 row = firstKey + j + w;
      key[w] = loadRow(k + row * kStride + g * s.headDim, s.headDim);
      score[w] = partOfDot(query, key[w]);
      dp[w] = partOfDot(gradient, loadRow(v + row * vStride + g * s.headDim, s.headDim));
    }
#pragma unroll
    for (int w = 0; w < WIDTH; w++) {
      if (j + w >= to) break;
      float slope;
      const float p = expf(scoreOf(s, bias, warpSum(score[w]), h, i, j + w, slope) - logSum);
      addScaled(sum, p * (warpSum(dp[w]) - d) * slope, key[w]);
    }
  }
  storeRow(dq + queryRow * dqStride + column, sum, s.scale, s.headDim);
}

/** Grid (rows of 4 warps, key heads, batch): dk and dv of key j, over the query heads of its group in order. */
TY_KERNEL attention_simple_key_value(scalar_t* dk, scalar_t* dv, const scalar_t* dOut, const float* lse,
                                     const float* delta, const scalar_t* q, const scalar_t* k, const scalar_t* v,
                                     const i32* docStart, const scalar_t* bias, i64 dkStride, i64 dvStride, i64 dOutStride, i64 qStride,
                                     i64 kStride, i64 vStride, Shape s) {
  const int j = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), g = blockIdx.y, b = blockIdx.z;
  if (j >= s.keys) return;
  const i64 keyRow = (i64)b * s.keys + j;
  const Row key = loadRow(k + keyRow * kStride + g * s.headDim, s.headDim);
  const Row value = loadRow(v + keyRow * vStride + g * s.headDim, s.headDim);
  const int first = s.isCausal ? max(0, j - (s.keys - s.queries)) : 0;
  const int end = s.window > 0 ? min(s.queries, j - (s.keys - s.queries) + s.window) : s.queries;
  const int group = s.heads / s.keyHeads;
  Row dKey = {}, dValue = {};
  for (int h = g * group; h < (g + 1) * group; h++) {
    for (int i = first; i < end; i++) {
      if (docStart != nullptr && docStart[(i64)b * s.keys + i] > j) break;  // a later document, and so are all behind it
      const i64 queryRow = (i64)b * s.queries + i, statistic = ((i64)b * s.heads + h) * s.queries + i;
      const Row query = loadRow(q + queryRow * qStride + h * s.headDim, s.headDim);
      const Row gradient = loadRow(dOut + queryRow * dOutStride + h * s.headDim, s.headDim);
      const float score = warpSum(partOfDot(query, key)), dp = warpSum(partOfDot(gradient, value));
      float slope;
      const float p = expf(scoreOf(s, bias, score, h, i, j, slope) - lse[statistic]);
      addScaled(dValue, p, gradient);
      addScaled(dKey, p * (dp - delta[statistic]) * slope, query);
    }
  }
  storeRow(dk + keyRow * dkStride + g * s.headDim, dKey, s.scale, s.headDim);
  storeRow(dv + keyRow * dvStride + g * s.headDim, dValue, 1.f, s.headDim);
}

/**
 * Grid (relative positions, heads), BIAS_WARPS warps: dBias[relative][h], the sum of score gradients over sequences and
 * queries; a warp takes every BIAS_WARPS-th sequence. `isWide`: dBias is f32, else scalar_t.
 */
constexpr int BIAS_WARPS = 4;
TY_KERNEL attention_simple_bias(void* dBias, const scalar_t* dOut, const float* lse, const float* delta,
                                const scalar_t* q, const scalar_t* k, const scalar_t* v, const i32* docStart,
                                const scalar_t* bias, i64 dOutStride, i64 qStride, i64 kStride, i64 vStride, Shape s,
                                int batch, int isWide) {
  __shared__ float parts[BIAS_WARPS];
  const int relative = blockIdx.x, h = blockIdx.y, warp = threadIdx.x >> 5;
  const int g = h / (s.heads / s.keyHeads);
  const int firstQuery = max(0, s.queries - 1 - relative), endQuery = min(s.queries, s.keys + s.queries - 1 - relative);
  float sum = 0.f;
  for (int b = warp; b < batch; b += BIAS_WARPS) {
    for (int i = firstQuery; i < endQuery; i++) {
      const int j = i + relative - s.queries + 1;
      int from, to;
      visibleKeys(s, docStart, b, i, from, to);
      if (j < from || j >= to) continue;
      const i64 queryRow = (i64)b * s.queries + i, keyRow = (i64)b * s.keys + j;
      const i64 statistic = ((i64)b * s.heads + h) * s.queries + i;
      const Row query = loadRow(q + queryRow * qStride + h * s.headDim, s.headDim);
      const Row gradient = loadRow(dOut + queryRow * dOutStride + h * s.headDim, s.headDim);
      const float product = partOfDot(query, loadRow(k + keyRow * kStride + g * s.headDim, s.headDim));
      const float dp = partOfDot(gradient, loadRow(v + keyRow * vStride + g * s.headDim, s.headDim));
      float slope;
      const float p = expf(scoreOf(s, bias, warpSum(product), h, i, j, slope) - lse[statistic]);
      sum += p * (warpSum(dp) - delta[statistic]);
    }
  }
  if ((threadIdx.x & 31) == 0) parts[warp] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  float total = 0.f;
  for (int w = 0; w < BIAS_WARPS; w++) total += parts[w];
  const i64 at = (i64)relative * s.heads + h;
  if (isWide) reinterpret_cast<float*>(dBias)[at] = total;
  else fromFloat(reinterpret_cast<scalar_t*>(dBias)[at], total);
}
