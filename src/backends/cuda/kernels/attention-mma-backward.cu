// Gradients of softmax attention for bf16 and f16 on mma.sync: delta and dq by blocks of queries, then dk and dv by
// blocks of keys. Probabilities are recomputed in both (7 products instead of 5): in exchange no sum is shared between blocks,
// so the result is the same in every run, and p and ds go from accumulators to operands inside registers.
#include "attention-mma.cuh"

#ifndef BLOCK_QUERIES
#define BLOCK_QUERIES 64
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
/** Blocks that share the columns of dk and dv of one set of keys, where the accumulators of all do not fit. */
#ifndef COLUMN_SPLITS
#define COLUMN_SPLITS 1
#endif
/** 1: delta and dq, 2: dk and dv. A compilation holds one of them: their block sizes differ. */
#ifndef PART
#define PART 1
#endif

constexpr int THREADS = 32 * WARPS;
constexpr u32 QUERY_BYTES = BLOCK_QUERIES * ROW_BYTES;
constexpr u32 KEY_BYTES = BLOCK_KEYS * ROW_BYTES;

#if PART == 1
constexpr int M_TILES = BLOCK_QUERIES / (16 * WARPS);
constexpr int N_TILES = BLOCK_KEYS / 8;
constexpr int D_TILES = HEAD_DIM / 8;

/** The part of a row's dOut . out that falls to this lane, of four that share the row. */
TY_INLINE float deltaPart(const scalar_t* dOut, const scalar_t* out, int headDim) {
  float sum = 0.0f;
#pragma unroll
  for (int n = 0; n < (CHUNKS + 3) / 4; n++) {
    const int column = (n * 4 + (threadIdx.x & 3)) * 8;
#if ALIGNED
    if (column < headDim) {
      const Pack<scalar_t> x = loadPack(dOut + column);
      const Pack<scalar_t> y = loadPack(out + column);
#pragma unroll
      for (int c = 0; c < 8; c++) sum = fmaf(toFloat(x.at[c]), toFloat(y.at[c]), sum);
    }
#else
    for (int c = column; c < min(column + 8, headDim); c++) sum = fmaf(toFloat(dOut[c]), toFloat(out[c]), sum);
#endif
  }
  return sum;
}

/**
 * delta [B, numHeads, queries] = sum over a head's columns of dOut * out, and dq = scale ds k. Grid [ceil(queries /
 * BLOCK_QUERIES), numHeads, batch], THREADS threads, 2 QUERY_BYTES + 4 KEY_BYTES of shared memory.
 */
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) attention_backward_query(
    scalar_t* dq,
    float* delta,
    const scalar_t* dOut,
    const scalar_t* out,
    const float* lse,
    const scalar_t* q,
    const scalar_t* k,
    const scalar_t* v,
    const int* docStart,
    i64 dqStride,
    i64 dOutStride,
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
  const u32 dOutTile = queryTile + QUERY_BYTES;
  const u32 stages = dOutTile + QUERY_BYTES;
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
  TileLoader<BLOCK_QUERIES, THREADS>(dOut + position0 * dOutStride + (i64)head * headDim, dOutStride, headDim)
      .load(dOutTile, queries - query0, headDim);
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
  const float scaleLog2 = scale * LOG2_E;
  float rowLse[M_TILES][2];
  float rowDelta[M_TILES][2];
#pragma unroll
  for (int m = 0; m < M_TILES; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = rowFirst + 16 * m + 8 * half + (lane >> 2);
      const i64 at = ((i64)batch * numHeads + head) * queries + row;
      const float x = row < queries ? lse[at] : 0.0f;
      // A query that sees nothing: its probabilities are 0, not exp(-inf + inf).
      rowLse[m][half] = x == NEGATIVE_INFINITY ? POSITIVE_INFINITY : x * LOG2_E;
      const i64 position = (i64)batch * queries + row;
      float sum = 0.0f;
      if (row < queries)
        sum = deltaPart(
            dOut + position * dOutStride + (i64)head * headDim, out + position * outStride + (i64)head * headDim, headDim);
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      rowDelta[m][half] = sum;
      if (row < queries && (lane & 3) == 0) delta[at] = sum;
    }

  float o[M_TILES][D_TILES][4];
#pragma unroll
  for (int m = 0; m < M_TILES; m++)
#pragma unroll
    for (int d = 0; d < D_TILES; d++)
#pragma unroll
      for (int r = 0; r < 4; r++) o[m][d][r] = 0.0f;

  for (int tile = tileFirst; tile < tileEnd; tile++) {
    waitForCopies();
    __syncthreads();
    if (tile + 1 < tileEnd) loadKeys(tile + 1);
    const int key0 = tile * BLOCK_KEYS;
    if (key0 >= endMost || key0 + BLOCK_KEYS <= firstLeast) continue;
    const u32 keyTile = stages + (tile & 1) * 2 * KEY_BYTES;

    float p[M_TILES][N_TILES][4];
    multiplyTiles<M_TILES, N_TILES>(p, queryTile, warpRow, rows, keyTile, columns);
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int n = 0; n < N_TILES; n++)
#pragma unroll
        for (int r = 0; r < 4; r++) p[m][n][r] = exp2Fast(fmaf(p[m][n][r], scaleLog2, -rowLse[m][r >> 1]));
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
              if (key < first || key >= end) p[m][n][2 * half + r] = 0.0f;
            }
        }
    }

    float dp[M_TILES][N_TILES][4];
    multiplyTiles<M_TILES, N_TILES>(dp, dOutTile, warpRow, rows, keyTile + KEY_BYTES, columns);
    u32 ds[M_TILES][N_TILES][2];
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int n = 0; n < N_TILES; n++)
#pragma unroll
        for (int half = 0; half < 2; half++)
          ds[m][n][half] = packScalars(
              p[m][n][2 * half] * (dp[m][n][2 * half] - rowDelta[m][half]),
              p[m][n][2 * half + 1] * (dp[m][n][2 * half + 1] - rowDelta[m][half]));
    multiplyRows<M_TILES, N_TILES, D_TILES>(o, ds, keyTile, rows);
  }

  if (tileFirst >= tileEnd) {
    waitForCopies();
    __syncthreads();
  }
  float factor[M_TILES][2];
#pragma unroll
  for (int m = 0; m < M_TILES; m++) factor[m][0] = factor[m][1] = scale;
  storeRows<M_TILES, D_TILES>(
      dq + (position0 + warpRow) * dqStride + (i64)head * headDim,
      dqStride,
      queries - rowFirst,
      headDim,
      o,
      factor,
      queryTile + warpRow * ROW_BYTES);
}
#endif

#if PART == 2
constexpr int M_TILES = BLOCK_KEYS / (16 * WARPS);
constexpr int N_TILES = BLOCK_QUERIES / 8;
constexpr int SPLIT_COLUMNS = HEAD_DIM / COLUMN_SPLITS;
constexpr int D_TILES = SPLIT_COLUMNS / 8;
static_assert(COLUMN_SPLITS == 1 || SPLIT_COLUMNS % 64 == 0, "a split starts where the swizzle repeats");

/**
 * dv = p^T dOut, dk = scale ds^T q, summed over the query heads of a group. The transposes of p and ds are what is
 * computed: their accumulators are the left operands of these products. Grid [ceil(keys / BLOCK_KEYS) COLUMN_SPLITS,
 * numKeyValueHeads, batch], THREADS threads, 2 KEY_BYTES + 4 QUERY_BYTES + 24 BLOCK_QUERIES of shared memory.
 */
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) attention_backward_key_value(
    scalar_t* dk,
    scalar_t* dv,
    const scalar_t* dOut,
    const float* lse,
    const float* delta,
    const scalar_t* q,
    const scalar_t* k,
    const scalar_t* v,
    const int* docStart,
    i64 dkStride,
    i64 dvStride,
    i64 dOutStride,
    i64 qStride,
    i64 kStride,
    i64 vStride,
    int numHeads,
    int queries,
    int keys,
    int headDim,
    float scale,
    int isCausal,
    int window) {
  extern __shared__ __align__(1024) u8 memory[];
  const u32 keyTile = sharedAddress(memory);
  const u32 valueTile = keyTile + KEY_BYTES;
  const u32 stages = valueTile + KEY_BYTES;
  constexpr u32 STATISTICS = 2 * KEY_BYTES + 4 * QUERY_BYTES;
  const int numKeyValueHeads = gridDim.y;
  const int group = blockIdx.y;
  const int batch = blockIdx.z;
  const int split = blockIdx.x % COLUMN_SPLITS;
  const int key0 = (blockIdx.x / COLUMN_SPLITS) * BLOCK_KEYS;
  const int warpRow = (threadIdx.x >> 5) * 16 * M_TILES;
  const int lane = threadIdx.x & 31;
  // Heads h with floor(h numKeyValueHeads / numHeads) = group.
  const int headFirst = (int)(((i64)group * numHeads + numKeyValueHeads - 1) / numKeyValueHeads);
  const int headEnd = (int)(((i64)(group + 1) * numHeads + numKeyValueHeads - 1) / numKeyValueHeads);
  const Visibility visible = visibilityOf(batch, queries, keys, isCausal, window, docStart);
  const int* docs = visible.docStart;

  // Tiles of queries that see one of the block's keys.
  const int tileFirst = max(0, key0 + 1 - visible.endOffset) / BLOCK_QUERIES;
  const int queryLast = key0 + BLOCK_KEYS - 1 - visible.firstOffset;
  int tileEnd = min(max(0, queryLast + 1), queries);
  tileEnd = (tileEnd + BLOCK_QUERIES - 1) / BLOCK_QUERIES;
  if (docs != nullptr) {
    int count = 0;
    for (int from = 0; from < tileEnd; from += THREADS) {
      const int tile = from + threadIdx.x;
      count += __syncthreads_count(tile < tileEnd && docs[tile * BLOCK_QUERIES] < key0 + BLOCK_KEYS);
    }
    tileEnd = count;
  }

  const i64 queryStart = (i64)batch * queries + (i64)tileFirst * BLOCK_QUERIES;
  TileLoader<BLOCK_QUERIES, THREADS> queryLoader(
      q + queryStart * qStride + (i64)headFirst * headDim, qStride, headDim);
  TileLoader<BLOCK_QUERIES, THREADS> dOutLoader(
      dOut + queryStart * dOutStride + (i64)headFirst * headDim, dOutStride, headDim);
  const u8* const queryColumn = queryLoader.from;
  const u8* const dOutColumn = dOutLoader.from;
  const auto loadQueries = [&](int stage, int head, int tile) {
    const int query0 = tile * BLOCK_QUERIES;
    const u32 target = stages + stage * 2 * QUERY_BYTES;
    if (tile == tileFirst) {
      queryLoader.from = queryColumn + (i64)(head - headFirst) * headDim * 2;
      dOutLoader.from = dOutColumn + (i64)(head - headFirst) * headDim * 2;
    }
    queryLoader.load(target, queries - query0, headDim);
    dOutLoader.load(target + QUERY_BYTES, queries - query0, headDim);
    const u32 statistics = keyTile + STATISTICS + stage * 12 * BLOCK_QUERIES;
    const i64 at = ((i64)batch * numHeads + head) * queries + query0;
    for (int i = threadIdx.x; i < BLOCK_QUERIES; i += THREADS) {
      const bool isValid = query0 + i < queries;
      copyAsync4(statistics + 4 * i, isValid ? lse + at + i : lse, isValid);
      copyAsync4(statistics + 4 * (BLOCK_QUERIES + i), isValid ? delta + at + i : delta, isValid);
      if (docs != nullptr)
        copyAsync4(statistics + 4 * (2 * BLOCK_QUERIES + i), isValid ? docs + query0 + i : docs, isValid);
    }
    commitCopies();
  };
  const i64 keyStart = (i64)batch * keys + key0;
  TileLoader<BLOCK_KEYS, THREADS>(k + keyStart * kStride + (i64)group * headDim, kStride, headDim)
      .load(keyTile, keys - key0, headDim);
  TileLoader<BLOCK_KEYS, THREADS>(v + keyStart * vStride + (i64)group * headDim, vStride, headDim)
      .load(valueTile, keys - key0, headDim);
  const bool isEmpty = tileFirst >= tileEnd || headFirst >= headEnd;
  if (!isEmpty) loadQueries(0, headFirst, tileFirst);

  const LaneOffset rows = laneOfRows();
  const LaneOffset columns = laneOfColumns();
  const float scaleLog2 = scale * LOG2_E;
  const int keyFirst = key0 + warpRow;
  const int keyEnd = keyFirst + 16 * M_TILES;

  float dkSum[M_TILES][D_TILES][4];
  float dvSum[M_TILES][D_TILES][4];
#pragma unroll
  for (int m = 0; m < M_TILES; m++)
#pragma unroll
    for (int d = 0; d < D_TILES; d++)
#pragma unroll
      for (int r = 0; r < 4; r++) dkSum[m][d][r] = dvSum[m][d][r] = 0.0f;

  int head = headFirst;
  int tile = tileFirst;
  int stage = 0;
  bool isLast = isEmpty;
  while (!isLast) {
    waitForCopies();
    __syncthreads();
    const int query0 = tile * BLOCK_QUERIES;
    const u32 queryTile = stages + stage * 2 * QUERY_BYTES;
    const u8* statistics = memory + STATISTICS + stage * 12 * BLOCK_QUERIES;
    tile++;
    if (tile == tileEnd) {
      tile = tileFirst;
      head++;
    }
    isLast = head == headEnd;
    stage ^= 1;
    if (!isLast) loadQueries(stage, head, tile);

    // Which keys the tile's first and last query see; rows past the end are zero and harmless.
    const float* tileLse = reinterpret_cast<const float*>(statistics);
    const float* tileDelta = tileLse + BLOCK_QUERIES;
    const int* tileDocs = reinterpret_cast<const int*>(tileDelta + BLOCK_QUERIES);
    const int lastQuery = min(BLOCK_QUERIES, queries - query0) - 1;
    int firstLeast = query0 + visible.firstOffset;
    int firstMost = firstLeast + lastQuery;
    if (docs != nullptr) {
      firstLeast = max(firstLeast, tileDocs[0]);
      firstMost = max(firstMost, tileDocs[lastQuery]);
    }
    const int endLeast = min(keys, query0 + visible.endOffset);
    const int endMost = min(keys, query0 + lastQuery + visible.endOffset);
    if (keyFirst >= endMost || keyEnd <= firstLeast) continue;

    float p[M_TILES][N_TILES][4];
    multiplyTiles<M_TILES, N_TILES>(p, keyTile, warpRow, rows, queryTile, columns);
#pragma unroll
    for (int n = 0; n < N_TILES; n++) {
      const float2 x = *reinterpret_cast<const float2*>(tileLse + 8 * n + 2 * (lane & 3));
      // A query that sees nothing: its probabilities are 0, not exp(-inf + inf).
      const float lse0 = x.x == NEGATIVE_INFINITY ? POSITIVE_INFINITY : x.x * LOG2_E;
      const float lse1 = x.y == NEGATIVE_INFINITY ? POSITIVE_INFINITY : x.y * LOG2_E;
#pragma unroll
      for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int r = 0; r < 4; r++) p[m][n][r] = exp2Fast(fmaf(p[m][n][r], scaleLog2, (r & 1) ? -lse1 : -lse0));
    }
    if (keyEnd > endLeast || keyFirst < firstMost) {
#pragma unroll
      for (int n = 0; n < N_TILES; n++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
          const int column = 8 * n + 2 * (lane & 3) + c;
          int first = query0 + column + visible.firstOffset;
          if (docs != nullptr) first = max(first, tileDocs[column]);
          const int end = min(keys, query0 + column + visible.endOffset);
#pragma unroll
          for (int m = 0; m < M_TILES; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
              const int key = keyFirst + 16 * m + 8 * half + (lane >> 2);
              if (key < first || key >= end) p[m][n][2 * half + c] = 0.0f;
            }
        }
    }
    u32 packed[M_TILES][N_TILES][2];
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int n = 0; n < N_TILES; n++)
#pragma unroll
        for (int half = 0; half < 2; half++)
          packed[m][n][half] = packScalars(p[m][n][2 * half], p[m][n][2 * half + 1]);
    const u32 splitBytes = split * SPLIT_COLUMNS * 2;
    multiplyRows<M_TILES, N_TILES, D_TILES>(dvSum, packed, queryTile + QUERY_BYTES + splitBytes, rows);

    float dp[M_TILES][N_TILES][4];
    multiplyTiles<M_TILES, N_TILES>(dp, valueTile, warpRow, rows, queryTile + QUERY_BYTES, columns);
#pragma unroll
    for (int n = 0; n < N_TILES; n++) {
      const float2 x = *reinterpret_cast<const float2*>(tileDelta + 8 * n + 2 * (lane & 3));
#pragma unroll
      for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++)
          packed[m][n][half] = packScalars(
              p[m][n][2 * half] * (dp[m][n][2 * half] - x.x), p[m][n][2 * half + 1] * (dp[m][n][2 * half + 1] - x.y));
    }
    multiplyRows<M_TILES, N_TILES, D_TILES>(dkSum, packed, queryTile + splitBytes, rows);
  }

  if (isEmpty) {
    waitForCopies();
    __syncthreads();
  }
  float one[M_TILES][2];
  float factor[M_TILES][2];
#pragma unroll
  for (int m = 0; m < M_TILES; m++) {
    one[m][0] = one[m][1] = 1.0f;
    factor[m][0] = factor[m][1] = scale;
  }
  const int column0 = split * SPLIT_COLUMNS;
  const i64 position = keyStart + warpRow;
  const i64 column = (i64)group * headDim + column0;
  storeRows<M_TILES, D_TILES>(
      dk + position * dkStride + column, dkStride, keys - keyFirst, headDim - column0, dkSum, factor,
      keyTile + warpRow * ROW_BYTES);
  storeRows<M_TILES, D_TILES>(
      dv + position * dvStride + column, dvStride, keys - keyFirst, headDim - column0, dvSum, one,
      valueTile + warpRow * ROW_BYTES);
}
#endif
