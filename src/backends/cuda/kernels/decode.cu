// Decoding over a cache of several sequences, each with a length of its own: the plain kernels, for every head size and
// element type. What a Llama's step takes as a whole is decode-step-few.cu and decode-step-many.cu.
#include "prelude.cuh"

constexpr int WARPS = 8;
/** Head sizes up to 32 times this. */
constexpr int LANE_DIMS = 8;
constexpr float LOWEST = -1e30f;

/** A block a row of k [B, T, width] and v: they go to position lengths[b] + t, at most the last one. */
TY_KERNEL cache_append(scalar_t* keys, scalar_t* values, const scalar_t* k, const scalar_t* v, const i32* lengths,
                       i64 kStride, i64 vStride, int count, int capacity, int width) {
  const int row = blockIdx.x, sequence = row / count, t = row % count;
  const int position = min(lengths[sequence] + t, capacity - 1);
  const i64 to = ((i64)sequence * capacity + position) * width;
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    keys[to + i] = k[row * kStride + i];
    values[to + i] = v[row * vStride + i];
  }
}

/** A block a head and sequence; its warps take positions in turn and are joined in order. */
TY_KERNEL attention_cached(scalar_t* out, float* lse, const scalar_t* q, const scalar_t* keys, const scalar_t* values,
                           const i32* lengths, i64 outStride, i64 qStride, int heads, int kvHeads, int headDim,
                           int capacity, float scale) {
  __shared__ float maxima[WARPS], sums[WARPS], outputs[WARPS][32 * LANE_DIMS];
  const int head = blockIdx.x, sequence = blockIdx.y, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int width = kvHeads * headDim, kvHead = head * kvHeads / heads;
  const int count = min(lengths[sequence] + 1, capacity);
  const scalar_t* query = q + sequence * qStride + head * headDim;
  const i64 base = (i64)sequence * capacity * width + kvHead * headDim;
  float own[LANE_DIMS], sum[LANE_DIMS];
#pragma unroll
  for (int i = 0; i < LANE_DIMS; i++) {
    const int dim = i * 32 + lane;
    own[i] = dim < headDim ? toFloat(query[dim]) * scale : 0;
    sum[i] = 0;
  }
  float maximum = LOWEST, total = 0;
  for (int position = warp; position < count; position += WARPS) {
    const scalar_t* key = keys + base + (i64)position * width;
    const scalar_t* value = values + base + (i64)position * width;
    float score = 0, x[LANE_DIMS];
#pragma unroll
    for (int i = 0; i < LANE_DIMS; i++) {
      const int dim = i * 32 + lane;
      if (dim < headDim) score = fmaf(own[i], toFloat(key[dim]), score);
      x[i] = dim < headDim ? toFloat(value[dim]) : 0;
    }
    score = warpSum(score);
    const float top = fmaxf(maximum, score), factor = expf(maximum - top), weight = expf(score - top);
    maximum = top;
    total = total * factor + weight;
#pragma unroll
    for (int i = 0; i < LANE_DIMS; i++) sum[i] = fmaf(weight, x[i], sum[i] * factor);
  }
  if (lane == 0) {
    maxima[warp] = maximum;
    sums[warp] = total;
  }
#pragma unroll
  for (int i = 0; i < LANE_DIMS; i++) outputs[warp][i * 32 + lane] = sum[i];
  __syncthreads();
  float top = LOWEST, normalizer = 0;
  for (int w = 0; w < WARPS; w++) top = fmaxf(top, maxima[w]);
  for (int w = 0; w < WARPS; w++) normalizer += sums[w] * expf(maxima[w] - top);
  for (int dim = threadIdx.x; dim < headDim; dim += blockDim.x) {
    float y = 0;
    for (int w = 0; w < WARPS; w++) y += outputs[w][dim] * expf(maxima[w] - top);
    fromFloat(out[sequence * outStride + head * headDim + dim], y / normalizer);
  }
  if (threadIdx.x == 0) lse[sequence * heads + head] = top + logf(normalizer);
}

/** A block a row of the logits. */
TY_KERNEL greedy_token(i32* tokens, i32* lengths, i32* history, const i32* made, const scalar_t* logits, int historyRows,
                       int vocabSize, int capacity) {
  __shared__ float bestLogit[32];
  __shared__ int bestToken[32];
  const int sequence = blockIdx.x, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const scalar_t* z = logits + (i64)sequence * vocabSize;
  float logit = __int_as_float(0xff800000);
  int token = 0x7fffffff;
  const auto consider = [&](float otherLogit, int otherToken) {
    if (otherLogit > logit || (otherLogit == logit && otherToken < token)) {
      logit = otherLogit;
      token = otherToken;
    }
  };
  for (int i = threadIdx.x; i < vocabSize; i += blockDim.x) consider(toFloat(z[i]), i);
  const auto reduce = [&] {
    for (int step = 16; step > 0; step >>= 1) {
      const float otherLogit = __shfl_xor_sync(0xffffffffu, logit, step);
      const int otherToken = __shfl_xor_sync(0xffffffffu, token, step);
      consider(otherLogit, otherToken);
    }
  };
  reduce();
  if (lane == 0) {
    bestLogit[warp] = logit;
    bestToken[warp] = token;
  }
  __syncthreads();
  if (warp > 0) return;
  if (lane < blockDim.x >> 5) {
    logit = bestLogit[lane];
    token = bestToken[lane];
  }
  reduce();
  if (lane > 0) return;
  // Logits that are no numbers choose nothing; the token must be one all the same.
  if (token >= vocabSize) token = 0;
  tokens[sequence] = token;
  lengths[sequence] = min(lengths[sequence] + 1, capacity);
  if (*made < historyRows) history[*made * gridDim.x + sequence] = token;
}

/** After every block of greedy_token has read the row. */
TY_KERNEL count_step(i32* made) { *made += 1; }
