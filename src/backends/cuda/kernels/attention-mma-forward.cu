// Softmax attention, forward, for bf16 and f16 on mma.sync: FlashAttention-2 (Dao 2023, arXiv:2307.08691). A block
// keeps BLOCK_QUERIES queries of one head and walks over tiles of BLOCK_KEYS keys and values, double buffered.
// The Hopper kernels are elsewhere; f32 is not served.
#include "attention-mma.cuh"

#ifndef BLOCK_QUERIES
#define BLOCK_QUERIES 128
#endif
#ifndef BLOCK_KEYS
#define BLOCK_KEYS 64
#endif
#ifndef WARPS
#define WARPS 4
#endif
#ifndef MIN_BLOCKS
#define MIN_BLOCKS 1
#endif

constexpr int THREADS = 32 * WARPS;
constexpr int M_TILES = BLOCK_QUERIES / (16 * WARPS);
constexpr int N_TILES = BLOCK_KEYS / 8;
constexpr int D_TILES = HEAD_DIM / 8;
constexpr u32 QUERY_BYTES = BLOCK_QUERIES * ROW_BYTES;
constexpr u32 KEY_BYTES = BLOCK_KEYS * ROW_BYTES;
/** A row's running maximum is left behind by up to this power of two before its sums are rescaled. */
constexpr float RESCALE_THRESHOLD = 8.0f;

/**
 * Grid [ceil(queries / BLOCK_QUERIES), numHeads, batch], THREADS threads, QUERY_BYTES + 4 KEY_BYTES of shared memory.
 * `scale` is not 0. Strides in elements.
 */
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) attention_forward(
    scalar_t* out,
    float* lse,
    const scalar_t* q,
    const scalar_t* k,
    const scalar_t* v,
    const int* docStart,
    i64 outStride,
    i64 qStride,
    i64 kStride,
    i64 vStride,
    int numKeyValueHeads,
    int queries,
    int keys,
    int headDim,
    float scale,
    int isCausal,
    int window) {
  extern __shared__ __align__(1024) u8 memory[];
  const u32 queryTile = sharedAddress(memory);
  const u32 stages = queryTile + QUERY_BYTES;
  const int numHeads = gridDim.y;
  const int head = blockIdx.y;
  const int batch = blockIdx.z;
  const int group = (int)((i64)head * numKeyValueHeads / numHeads);
  // The last queries of a causal head have the most work: they start first.
  const int query0 = (gridDim.x - 1 - blockIdx.x) * BLOCK_QUERIES;
  const int warpRow = (threadIdx.x >> 5) * 16 * M_TILES;
  const int lane = threadIdx.x & 31;

  const Visibility visible = visibilityOf(batch, queries, keys, isCausal, window, docStart);
  const int tileFirst = firstKey(visible, query0) / BLOCK_KEYS;
  const int tileEnd = (max(0, endKey(visible, query0 + BLOCK_QUERIES - 1)) + BLOCK_KEYS - 1) / BLOCK_KEYS;

  const i64 position0 = (i64)batch * queries + query0;
  const i64 key0First = (i64)batch * keys + (i64)tileFirst * BLOCK_KEYS;
  TileLoader<BLOCK_KEYS, THREADS> keyLoader(k + key0First * kStride + (i64)group * headDim, kStride, headDim);
  TileLoader<BLOCK_KEYS, THREADS> valueLoader(v + key0First * vStride + (i64)group * headDim, vStride, headDim);
  const auto loadKeys = [&](int tile) {
    const u32 stage = stages + (tile & 1) * 2 * KEY_BYTES;
    keyLoader.load(stage, keys - tile * BLOCK_KEYS, headDim);
    valueLoader.load(stage + KEY_BYTES, keys - tile * BLOCK_KEYS, headDim);
    commitCopies();
  };
  TileLoader<BLOCK_QUERIES, THREADS>(q + position0 * qStride + (i64)head * headDim, qStride, headDim)
      .load(queryTile, queries - query0, headDim);
  if (tileFirst < tileEnd) loadKeys(tileFirst);

  // Keys seen by the warp's rows: all of them see [firstMost, endLeast), none sees outside [firstLeast, endMost).
  const int rowFirst = query0 + warpRow;
  const int rowLast = rowFirst + 16 * M_TILES - 1;
  const int firstLeast = firstKey(visible, rowFirst);
  const int firstMost = firstKey(visible, rowLast);
  const int endLeast = endKey(visible, rowFirst);
  const int endMost = endKey(visible, rowLast);

  const LaneOffset rows = laneOfRows();
  const LaneOffset columns = laneOfColumns();
  // A negative scale turns the order of the scores around: their sign is flipped instead.
  const bool isFlipped = scale < 0.0f;
  const float scaleLog2 = fabsf(scale) * LOG2_E;

  float o[M_TILES][D_TILES][4];
  float rowMax[M_TILES][2];
  float rowSum[M_TILES][2];
#pragma unroll
  for (int m = 0; m < M_TILES; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      rowMax[m][half] = NEGATIVE_INFINITY;
      rowSum[m][half] = 0.0f;
    }
#pragma unroll
    for (int d = 0; d < D_TILES; d++)
#pragma unroll
      for (int r = 0; r < 4; r++) o[m][d][r] = 0.0f;
  }

  for (int tile = tileFirst; tile < tileEnd; tile++) {
    waitForCopies();
    __syncthreads();
    if (tile + 1 < tileEnd) loadKeys(tile + 1);
    const int key0 = tile * BLOCK_KEYS;
    if (key0 >= endMost || key0 + BLOCK_KEYS <= firstLeast) continue;
    const u32 keyTile = stages + (tile & 1) * 2 * KEY_BYTES;

    float s[M_TILES][N_TILES][4];
    multiplyTiles<M_TILES, N_TILES>(s, queryTile, warpRow, rows, keyTile, columns);
    if (isFlipped) {
#pragma unroll
      for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int n = 0; n < N_TILES; n++)
#pragma unroll
          for (int r = 0; r < 4; r++) s[m][n][r] = -s[m][n][r];
    }
    if (key0 + BLOCK_KEYS > endLeast || key0 < firstMost) {
#pragma unroll
      for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int row = rowFirst + 16 * m + 8 * half + (lane >> 2);
          const int first = firstKey(visible, row) - key0 - 2 * (lane & 3);
          const int end = endKey(visible, row) - key0 - 2 * (lane & 3);
#pragma unroll
          for (int n = 0; n < N_TILES; n++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
              const int key = 8 * n + r;
              if (key < first || key >= end) s[m][n][2 * half + r] = NEGATIVE_INFINITY;
            }
        }
    }

    // The maximum only guards the exponentials against overflow, so it may lag: sums are rescaled when it must move.
    float top[M_TILES][2];
    bool isMoved = false;
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float x = fmaxf(s[m][0][2 * half], s[m][0][2 * half + 1]);
#pragma unroll
        for (int n = 1; n < N_TILES; n++) x = fmaxf(x, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
        top[m][half] = fmaxf(x, rowMax[m][half]);
        isMoved |= (top[m][half] - rowMax[m][half]) * scaleLog2 > RESCALE_THRESHOLD;
      }
    if (__any_sync(0xffffffffu, isMoved)) {
#pragma unroll
      for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const float safe = top[m][half] == NEGATIVE_INFINITY ? 0.0f : top[m][half];
          const float factor = exp2Fast((rowMax[m][half] - safe) * scaleLog2);
          rowMax[m][half] = top[m][half];
          rowSum[m][half] *= factor;
#pragma unroll
          for (int d = 0; d < D_TILES; d++) {
            o[m][d][2 * half] *= factor;
            o[m][d][2 * half + 1] *= factor;
          }
        }
    }

    u32 p[M_TILES][N_TILES][2];
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float shift = rowMax[m][half] == NEGATIVE_INFINITY ? 0.0f : -rowMax[m][half] * scaleLog2;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < N_TILES; n++) {
          const float p0 = exp2Fast(fmaf(s[m][n][2 * half], scaleLog2, shift));
          const float p1 = exp2Fast(fmaf(s[m][n][2 * half + 1], scaleLog2, shift));
          sum += p0 + p1;
          p[m][n][half] = packScalars(p0, p1);
        }
        rowSum[m][half] += sum;
      }
    multiplyRows<M_TILES, N_TILES, D_TILES>(o, p, keyTile + KEY_BYTES, rows);
  }

  if (tileFirst >= tileEnd) {
    waitForCopies();
    __syncthreads();
  }
  float factor[M_TILES][2];
#pragma unroll
  for (int m = 0; m < M_TILES; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = rowSum[m][half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const bool isBlind = sum == 0.0f;
      factor[m][half] = isBlind ? 0.0f : 1.0f / sum;
      const int row = rowFirst + 16 * m + 8 * half + (lane >> 2);
      if ((lane & 3) == 0 && row < queries)
        lse[((i64)batch * numHeads + head) * queries + row] =
            isBlind ? NEGATIVE_INFINITY : (fmaf(rowMax[m][half], scaleLog2, log2Fast(sum))) * LN_2;
    }
  storeRows<M_TILES, D_TILES>(
      out + (position0 + warpRow) * outStride + (i64)head * headDim,
      outStride,
      queries - rowFirst,
      headDim,
      o,
      factor,
      queryTile + warpRow * ROW_BYTES);
}
