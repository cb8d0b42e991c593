// Gradients of softmax attention for bf16 and f16 on Hopper: wgmma, TMA, specialised warps (after FlashAttention-3,
// arXiv:2407.08608). A block takes 128 keys at a time and walks over the queries that see them: two warpgroups, 64 keys
// each, compute the transposes of p and ds, which from registers give dv and dk; ds also goes through shared memory for
// the part of dq, which a copy adds to a sum in global memory. The bits are the same in every run, because blocks add to a
// tile of dq in turn, first keys first (a counter says whose turn it is), or because they add integers.
#include "attention-hopper-backward.cuh"

#if DQ_SUMS == INTEGERS
/**
 * The largest magnitudes of k and of v among BLOCK_KEYS keys of a head: maxima [B, numKeyValueHeads, blocks] of (k, v).
 * Grid [blocks, numKeyValueHeads, batch], 256 threads.
 */
extern "C" __global__ void __launch_bounds__(256) attention_backward_maxima(
    float2* maxima, const scalar_t* k, const scalar_t* v, i64 kStride, i64 vStride, int keys, int headDim) {
  constexpr int LANES = HEAD_DIM == 64 ? 8 : 16;
  constexpr int ROWS = 256 / LANES;
  __shared__ float2 ofWarps[8];
  const int column = (threadIdx.x % LANES) * 8;
  float2 most = make_float2(0.0f, 0.0f);
#pragma unroll
  for (int i = 0; i < BLOCK_KEYS / ROWS; i++) {
    const int key = blockIdx.x * BLOCK_KEYS + i * ROWS + threadIdx.x / LANES;
    if (key >= keys || column >= headDim) continue;
    const i64 position = (i64)blockIdx.z * keys + key;
    const Pack<scalar_t> x = loadPack(k + position * kStride + blockIdx.y * headDim + column);
    const Pack<scalar_t> y = loadPack(v + position * vStride + blockIdx.y * headDim + column);
#pragma unroll
    for (int c = 0; c < 8; c++)
      most = make_float2(maximumOrNan(most.x, fabsf(toFloat(x.at[c]))), maximumOrNan(most.y, fabsf(toFloat(y.at[c]))));
  }
  most = make_float2(warpMaximumOrNan(most.x), warpMaximumOrNan(most.y));
  if (threadIdx.x % 32 == 0) ofWarps[threadIdx.x / 32] = most;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int w = 1; w < 8; w++)
    most = make_float2(maximumOrNan(most.x, ofWarps[w].x), maximumOrNan(most.y, ofWarps[w].y));
  maxima[((i64)blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] = most;
}
#endif

/**
 * delta = sum over a head's columns of dOut * out, and what else the main kernel needs of each query: statistics
 * [B, H, tiles][3][BLOCK_QUERIES] = lse in powers of 2 (+inf for queries that see nothing: probability 0), delta, first
 * visible key; with integer sums also the factor of the row's parts of dq. An entry of the row is at most sum |dOut| times the
 * largest |v| times the largest |k|, since p sums to 1 and |ds| to no more than that without |k|. A row whose numbers are not
 * all finite gets NaN.
 * Clears counters (one for the work, one for each tile). Grid [tiles, numHeads, batch], 256 threads.
 */
extern "C" __global__ void __launch_bounds__(256) attention_backward_prepare(
    float* statistics,
    int* counters,
    const float2* maxima,
    const scalar_t* dOut,
    const scalar_t* out,
    const float* lse,
    const int* docStart,
    i64 dOutStride,
    i64 outStride,
    int queries,
    int keys,
    int headDim,
    int isCausal,
    int window,
    int numKeyValueHeads) {
  constexpr int LANES = HEAD_DIM == 64 ? 8 : 16;
  constexpr int ROWS = 256 / LANES;
  const int tile = blockIdx.x;
  const int head = blockIdx.y;
  const int batch = blockIdx.z;
  const i64 row0 = ((i64)batch * gridDim.y + head) * queries;
  const i64 block = ((i64)batch * gridDim.y + head) * gridDim.x + tile;
  const Bounds bounds(queries, keys, isCausal, window);
  if (threadIdx.x == 0) {
    counters[1 + block] = 0;
    if (block == 0) counters[0] = 0;
  }
  const int column = (threadIdx.x % LANES) * 8;
  float sums[BLOCK_QUERIES / ROWS];
#if DQ_SUMS == INTEGERS
  float magnitudes[BLOCK_QUERIES / ROWS];
  __shared__ float rowBounds[BLOCK_QUERIES];
  const int keyBlocks = (keys + BLOCK_KEYS - 1) / BLOCK_KEYS;
  const i64 unit = (i64)batch * numKeyValueHeads + head / (gridDim.y / numKeyValueHeads);
  float2 most = make_float2(0.0f, 0.0f);
  for (int i = threadIdx.x % 32; i < keyBlocks; i += 32) {
    const float2 x = maxima[unit * keyBlocks + i];
    most = make_float2(maximumOrNan(most.x, x.x), maximumOrNan(most.y, x.y));
  }
  const float keyValueMaximum = warpMaximumOrNan(most.x) * warpMaximumOrNan(most.y);
#endif
#pragma unroll
  for (int i = 0; i < BLOCK_QUERIES / ROWS; i++) {
    const int query = tile * BLOCK_QUERIES + i * ROWS + threadIdx.x / LANES;
    float sum = 0.0f;
    [[maybe_unused]] float magnitude = 0.0f;
    if (query < queries && column < headDim) {
      const i64 position = (i64)batch * queries + query;
      const Pack<scalar_t> x = loadPack(dOut + position * dOutStride + head * headDim + column);
      const Pack<scalar_t> y = loadPack(out + position * outStride + head * headDim + column);
#pragma unroll
      for (int c = 0; c < 8; c++) {
        sum = fmaf(toFloat(x.at[c]), toFloat(y.at[c]), sum);
        magnitude += fabsf(toFloat(x.at[c]));
      }
    }
    sums[i] = sum;
#if DQ_SUMS == INTEGERS
    magnitudes[i] = magnitude;
#endif
  }
  float* const target = statistics + block * (STATISTICS * BLOCK_QUERIES);
#pragma unroll
  for (int i = 0; i < BLOCK_QUERIES / ROWS; i++) {
    float sum = sums[i];
#pragma unroll
    for (int step = LANES / 2; step > 0; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (threadIdx.x % LANES == 0) target[BLOCK_QUERIES + i * ROWS + threadIdx.x / LANES] = sum;
#if DQ_SUMS == INTEGERS
    float magnitude = magnitudes[i];
#pragma unroll
    for (int step = LANES / 2; step > 0; step >>= 1) magnitude += __shfl_xor_sync(0xffffffffu, magnitude, step);
    // 0 * delta: NaN where delta is not finite.
    if (threadIdx.x % LANES == 0)
      rowBounds[i * ROWS + threadIdx.x / LANES] = fmaf(magnitude, keyValueMaximum, 0.0f * sum);
#endif
  }
#if DQ_SUMS == INTEGERS
  __syncthreads();
#endif
  if (threadIdx.x < BLOCK_QUERIES) {
    const int query = tile * BLOCK_QUERIES + threadIdx.x;
    const float infinity = __int_as_float(0x7f800000);
    float x = infinity;
    int first = UNBOUNDED;
    [[maybe_unused]] float factor = 1.0f;
    if (query < queries) {
      x = lse[row0 + query];
#if DQ_SUMS == INTEGERS
      factor = x < infinity ? integerFactor(rowBounds[threadIdx.x]) : __int_as_float(0x7fc00000);
#endif
      x = x == -infinity ? infinity : x * LOG2_E;
      first = query + bounds.firstOffset;
      if (docStart != nullptr) first = max(first, docStart[(i64)batch * keys + query]);
    }
    target[threadIdx.x] = x;
#if DQ_SUMS == INTEGERS
    target[3 * BLOCK_QUERIES + threadIdx.x] = factor;
#endif
    reinterpret_cast<int*>(target)[2 * BLOCK_QUERIES + threadIdx.x] = first;
  }
}

/** What a block works on, or unit -1: nothing more. A unit is one group (key-value head) of one sequence. */
struct alignas(16) Item {
  int unit;
  int block;
  int tileFirst;
  int tileEnd;
};
TY_INLINE Item loadItem(u32 address) {
  Item x;
  asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x.unit), "=r"(x.block), "=r"(x.tileFirst), "=r"(x.tileEnd)
               : "r"(address)
               : "memory");
  return x;
}

/** The same in all lanes, and known to the compiler as such: wgmma may not stand in a path that could diverge. */
TY_INLINE int uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }
TY_INLINE Item uniform(Item x) { return {uniform(x.unit), uniform(x.block), uniform(x.tileFirst), uniform(x.tileEnd)}; }

/**
 * dk, dv, and the unscaled sums of dq by tiles [B, H, tiles][warpgroup][columns / 8][128] of float4 or int4. Grid: at most one
 * block for each multiprocessor (all must run at once), 384 threads, SHARED_BYTES.
 * Work is taken in the order of a counter: `unitsPerRound` units at a time, of these the first keys first (the longest
 * walks of causal masks, so that short ones fill the end), their queries from the last one back: the blocks that are at
 * work on one head follow one another closely, and find its queries in the L2 cache.
 */
extern "C" __global__ void __launch_bounds__(384, 1) attention_backward(
    const __grid_constant__ TensorMap queryMap,
    const __grid_constant__ TensorMap keyMap,
    const __grid_constant__ TensorMap valueMap,
    const __grid_constant__ TensorMap dOutMap,
    scalar_t* dk,
    scalar_t* dv,
    float* dqSum,
    const float* statistics,
    int* counters,
    const int* docStart,
    i64 dkStride,
    i64 dvStride,
    int numHeads,
    int numKeyValueHeads,
    int batchSize,
    int queries,
    int keys,
    int headDim,
    float scale,
    int isCausal,
    int window,
    int unitsPerRound,
    const int* positions,
    const float* cosines,
    const float* sines) {
  extern __shared__ __align__(1024) u8 memory[];
  const u32 base = sharedAddress(memory);
  const u32 keyFull = base + BARRIERS_AT;
  const u32 keyEmpty = keyFull + 8 * KEY_STAGES;
  const u32 queryFull = keyEmpty + 8 * KEY_STAGES;
  const u32 queryEmpty = queryFull + 8 * QUERY_STAGES;
  const u32 dOutFull = queryEmpty + 8 * QUERY_STAGES;
  const u32 dOutEmpty = dOutFull + 8 * QUERY_STAGES;
  const u32 dqFull = dOutEmpty + 8 * QUERY_STAGES;
  const u32 dqEmpty = dqFull + 16 * WRITERS;
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x >> 5, 0);
  const int lane = threadIdx.x & 31;
  const Bounds bounds(queries, keys, isCausal, window);
  const int heads = numHeads / numKeyValueHeads;
  const int tiles = (queries + BLOCK_QUERIES - 1) / BLOCK_QUERIES;

  if (threadIdx.x == 0) {
    for (int i = 0; i < KEY_STAGES; i++) {
      mbarrierInit(keyFull + 8 * i, 1);
      mbarrierInit(keyEmpty + 8 * i, 8 + WRITERS);
    }
    for (int i = 0; i < QUERY_STAGES; i++) {
      mbarrierInit(queryFull + 8 * i, 1);
      mbarrierInit(queryEmpty + 8 * i, 8);
      mbarrierInit(dOutFull + 8 * i, 1);
      mbarrierInit(dOutEmpty + 8 * i, 8);
    }
    for (int i = 0; i < 2 * WRITERS; i++) mbarrierInit(dqFull + 8 * i, 4);
    for (int i = 0; i < 2; i++) mbarrierInit(dqEmpty + 8 * i, 1);
    mbarrierInitFence();
  }
  __syncthreads();

  if (warp >= 8) {
    decreaseRegisters<24>();
    if (warp == 8) {
      // ---- Loads ----
      const int blocks = (keys + BLOCK_KEYS - 1) / BLOCK_KEYS;
      const int units = numKeyValueHeads * batchSize;
      const int perRound = unitsPerRound * blocks;
      const auto takeTicket = [&] {
        int ticket = 0;
        if (lane == 0) ticket = atomicAdd(counters, 1);
        return __shfl_sync(0xffffffffu, ticket, 0);
      };
      int keyStage = 0, keyParity = 0, stage = 0, parity = 0;
      int ticket = takeTicket();
      for (;;) {
        Item item;
        const int round = ticket / perRound;
        const int place = ticket - round * perRound;
        const int width = min(unitsPerRound, units - round * unitsPerRound);
        item.unit = ticket < units * blocks ? round * unitsPerRound + place % width : -1;
        item.block = place / width;
        const int key0 = item.block * BLOCK_KEYS;
        const int batch = item.unit / numKeyValueHeads;
        const int group = item.unit - batch * numKeyValueHeads;
        item.tileFirst = bounds.tileFirst(key0);
        item.tileEnd = bounds.tileEnd(key0);
        if (docStart != nullptr && item.unit >= 0) {
          int count = 0;
          for (int from = item.tileFirst; from < item.tileEnd; from += 32) {
            const int tile = from + lane;
            const bool isSeen =
                tile < item.tileEnd && docStart[(i64)batch * keys + tile * BLOCK_QUERIES] < key0 + BLOCK_KEYS;
            const int seen = __popc(__ballot_sync(0xffffffffu, isSeen));
            count += seen;
            if (seen < 32) break;
          }
          item.tileEnd = item.tileFirst + count;
        }
        if (item.unit >= 0 && item.tileFirst >= item.tileEnd) {
          // Keys that no query sees.
          const int chunks = headDim / 8;
          for (int i = lane; i < min(BLOCK_KEYS, keys - key0) * chunks; i += 32) {
            const i64 position = (i64)batch * keys + key0 + i / chunks;
            const int column = group * headDim + i % chunks * 8;
            *reinterpret_cast<uint4*>(dk + position * dkStride + column) = make_uint4(0, 0, 0, 0);
            *reinterpret_cast<uint4*>(dv + position * dvStride + column) = make_uint4(0, 0, 0, 0);
          }
          ticket = takeTicket();
          continue;
        }
        mbarrierWait(keyEmpty + 8 * keyStage, keyParity ^ 1);
        const u32 full = keyFull + 8 * keyStage;
        if (lane == 0) {
          *reinterpret_cast<Item*>(memory + ITEMS_AT + 16 * keyStage) = item;
          if (item.unit < 0) {
            mbarrierArrive(full);
          } else {
            mbarrierExpect(full, 2 * KEY_BYTES);
            for (int p = 0; p < PANELS; p++)
              copyBox(base + KEYS_AT + keyStage * KEY_BYTES + p * KEY_PANEL, keyMap, full, 64 * p, group, key0, batch);
            for (int p = 0; p < PANELS; p++)
              copyBox(base + VALUES_AT + keyStage * KEY_BYTES + p * KEY_PANEL, valueMap, full, 64 * p, group, key0, batch);
          }
        }
        __syncwarp();
        if (item.unit < 0) break;
        if (++keyStage == KEY_STAGES) keyStage = 0, keyParity ^= 1;
        ticket = takeTicket();
        for (int head = group * heads; head < (group + 1) * heads; head++) {
          const float* source = statistics + (((i64)batch * numHeads + head) * tiles) * (STATISTICS * BLOCK_QUERIES);
          for (int tile = item.tileEnd - 1; tile >= item.tileFirst; tile--) {
            mbarrierWait(queryEmpty + 8 * stage, parity ^ 1);
            if (lane == 0) {
              const u32 barrier = queryFull + 8 * stage;
              mbarrierExpect(barrier, QUERY_BYTES + STATISTICS_BYTES);
              for (int p = 0; p < PANELS; p++)
                copyBox(base + QUERIES_AT + stage * QUERY_BYTES + p * QUERY_PANEL, queryMap, barrier, 64 * p, head,
                        tile * BLOCK_QUERIES, batch);
              copyBytes(base + STATISTICS_AT + stage * STATISTICS_BYTES, source + tile * (STATISTICS * BLOCK_QUERIES),
                        STATISTICS_BYTES, barrier);
            }
            __syncwarp();
            mbarrierWait(dOutEmpty + 8 * stage, parity ^ 1);
            if (lane == 0) {
              const u32 barrier = dOutFull + 8 * stage;
              mbarrierExpect(barrier, QUERY_BYTES);
              for (int p = 0; p < PANELS; p++)
                copyBox(base + DOUT_AT + stage * QUERY_BYTES + p * QUERY_PANEL, dOutMap, barrier, 64 * p, head,
                        tile * BLOCK_QUERIES, batch);
            }
            __syncwarp();
            if (++stage == QUERY_STAGES) stage = 0, parity ^= 1;
          }
        }
      }
    } else if (warp < 9 + WRITERS && lane == 0) {
      // ---- Adds to dq ----
      const int writer = warp - 9;
      const u32 full = dqFull + 16 * writer;
      int keyStage = 0, keyParity = 0, parity = 0, turnOfWriter = 0;
      for (;;) {
        mbarrierWait(keyFull + 8 * keyStage, keyParity);
        const Item item = loadItem(base + ITEMS_AT + 16 * keyStage);
        mbarrierArrive(keyEmpty + 8 * keyStage);
        if (item.unit < 0) break;
        if (++keyStage == KEY_STAGES) keyStage = 0, keyParity ^= 1;
        const int* const docs = docStart == nullptr ? nullptr : docStart + (i64)(item.unit / numKeyValueHeads) * keys;
        // Heads of a group follow one another, and so do groups of a sequence.
        for (int head = item.unit * heads; head < (item.unit + 1) * heads; head++) {
          for (int tile = item.tileEnd - 1; tile >= item.tileFirst; tile--) {
            const bool isMine = turnOfWriter == writer;
            if (++turnOfWriter == WRITERS) turnOfWriter = 0;
            if (!isMine) continue;
            const i64 index = (i64)head * tiles + tile;
            float* const sum = dqSum + index * (2 * DQ_BYTES / 4);
            int* const counter = counters + 1 + index;
            int first = max(0, tile * BLOCK_QUERIES + bounds.firstOffset);
            if (docs != nullptr) first = max(first, docs[tile * BLOCK_QUERIES]);
            const int turn = item.block - first / BLOCK_KEYS;
            // The first block stores, so that nothing has to be cleared; in any order the others wait for it alone.
            int done;
            do {
              asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(done) : "l"(counter) : "memory");
            } while (DQ_SUMS == IN_TURNS ? done != turn : done == 0 && turn > 0);
            asm volatile("fence.proxy.async.global;" ::: "memory");
            for (int w = 0; w < 2; w++) {
              mbarrierWait(full + 8 * w, parity);
              float* const to = sum + w * (DQ_BYTES / 4);
              const u32 from = base + DQ_AT + w * DQ_BYTES;
              if (turn == 0) storeBytes(to, from, DQ_BYTES);
              else if (DQ_SUMS == INTEGERS) addIntegers(to, from, DQ_BYTES);
              else addFloats(to, from, DQ_BYTES);
              commitBulk();
            }
            parity ^= 1;
            waitBulkRead<1>();
            mbarrierArrive(dqEmpty);
            waitBulkRead<0>();
            mbarrierArrive(dqEmpty + 8);
            if (DQ_SUMS == IN_TURNS || turn == 0) {
              waitBulk();
              asm volatile("fence.proxy.async.global;" ::: "memory");
              asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(counter) : "memory");
            }
          }
        }
      }
      waitBulk();
    }
  } else {
    // ---- Products ----
    increaseRegisters<240>();
    const int group = warp >> 2;
    const float scaleLog2 = scale * LOG2_E;
    // The fragment's rows are keys, its columns queries.
    const int keyRow = group * 64 + (warp & 3) * 16 + (lane >> 2);
    const int queryColumn = 2 * (lane & 3);
    const int matrix = lane >> 3;
    const int dsRow = (matrix >> 1) * 8 + (lane & 7);
    const int dsChunk = ((warp & 3) * 2 + (matrix & 1)) ^ (lane & 7);
    const u32 dsTarget = base + DS_AT + group * QUERY_PANEL + dsRow * PANEL_ROW_BYTES + (dsChunk << 4);
    const u32 dqTarget = base + DQ_AT + group * DQ_BYTES + (threadIdx.x & 127) * 16;
    const u64 dsOperand = descriptorOfRows(base + DS_AT + (IS_DQ_BY_ROWS ? group * 64 * PANEL_ROW_BYTES : 0));
    const u32 dqColumnBytes = IS_DQ_BY_ROWS ? 0 : PANELS == 2 ? group * KEY_PANEL : group * 64;

    int keyStage = 0, keyParity = 0, stage = 0, parity = 0, dqParity = 1, writer = 0;
    bool isFirst = true;
    const auto nextItem = [&] {
      mbarrierWait(keyFull + 8 * keyStage, keyParity);
      return uniform(loadItem(base + ITEMS_AT + 16 * keyStage));
    };
    float s[BLOCK_QUERIES / 2];
    // The scores of the queries that come next with the keys of the item that comes next: nothing is lost if there are none.
    const auto multiplyScores = [&] {
      const u64 keyOperand = descriptorOfRows(base + KEYS_AT + keyStage * KEY_BYTES + group * 64 * PANEL_ROW_BYTES);
      const u64 queryOperand = descriptorOfRows(base + QUERIES_AT + stage * QUERY_BYTES);
      wgmmaFence();
#pragma unroll
      for (int k = 0; k < HEAD_DIM / 16; k++)
        Wgmma<BLOCK_QUERIES>::shared<0, 0>(
            s, advance(keyOperand, (k / 4) * KEY_PANEL + (k % 4) * 32),
            advance(queryOperand, (k / 4) * QUERY_PANEL + (k % 4) * 32), k > 0);
      wgmmaCommit();
    };

    Item item = nextItem();
    if (KEY_STAGES > 1) {
      if (item.unit >= 0) mbarrierWait(queryFull + 8 * stage, parity);
      multiplyScores();
    }
    while (item.unit >= 0) {
      const u32 keyTile = base + KEYS_AT + keyStage * KEY_BYTES;
      const u64 valueOperand = descriptorOfRows(base + VALUES_AT + keyStage * KEY_BYTES + group * 64 * PANEL_ROW_BYTES);
      const u64 keyColumns = descriptorOfColumns(keyTile + dqColumnBytes, KEY_PANEL);
      const u32 oldKeyEmpty = keyEmpty + 8 * keyStage;
      const int batch = item.unit / numKeyValueHeads;
      const int column = (item.unit - batch * numKeyValueHeads) * headDim;
      const int keyFirst = item.block * BLOCK_KEYS + group * 64;
      const int key = item.block * BLOCK_KEYS + keyRow;
      const int tileFirst = item.tileFirst;
      const int tileEnd = item.tileEnd;
      const int steps = (tileEnd - tileFirst) * heads;
      float dkSum[HEAD_DIM / 2];
      float dvSum[HEAD_DIM / 2];
      if (KEY_STAGES == 1) {
        mbarrierWait(queryFull + 8 * stage, parity);
        multiplyScores();
      }
      int next = tileEnd - 1;
      int step = 0;
      do {
        const int query0 = next * BLOCK_QUERIES;
        if (--next < tileFirst) next = tileEnd - 1;
        const u32 tileStatistics = base + STATISTICS_AT + stage * STATISTICS_BYTES;
        const u32 columnStatistics = tileStatistics + 4 * queryColumn;
        const u32 dOutTile = base + DOUT_AT + stage * QUERY_BYTES;

        mbarrierWait(dOutFull + 8 * stage, parity);
        wgmmaWait<0>();
        keepAfterWait(s);
        float dp[BLOCK_QUERIES / 2];
        {
          const u64 dOutOperand = descriptorOfRows(dOutTile);
          wgmmaFence();
#pragma unroll
          for (int k = 0; k < HEAD_DIM / 16; k++)
            Wgmma<BLOCK_QUERIES>::shared<0, 0>(
                dp, advance(valueOperand, (k / 4) * KEY_PANEL + (k % 4) * 32),
                advance(dOutOperand, (k / 4) * QUERY_PANEL + (k % 4) * 32), k > 0);
          wgmmaCommit();
        }

        // p, while dp is computed.
#pragma unroll
        for (int j = 0; j < BLOCK_QUERIES / 8; j++) {
          const float2 lse = loadShared8(columnStatistics + 32 * j);
          s[4 * j] = exp2Fast(fmaf(s[4 * j], scaleLog2, -lse.x));
          s[4 * j + 1] = exp2Fast(fmaf(s[4 * j + 1], scaleLog2, -lse.y));
          s[4 * j + 2] = exp2Fast(fmaf(s[4 * j + 2], scaleLog2, -lse.x));
          s[4 * j + 3] = exp2Fast(fmaf(s[4 * j + 3], scaleLog2, -lse.y));
        }
        if (keyFirst + 64 > min(keys, query0 + bounds.endOffset)) {
          // A key is seen by the columns after this one; past the last key there are none.
          const int last0 = key < keys ? key - bounds.endOffset - query0 - queryColumn : UNBOUNDED;
          const int last1 = key + 8 < keys ? key + 8 - bounds.endOffset - query0 - queryColumn : UNBOUNDED;
#pragma unroll
          for (int j = 0; j < BLOCK_QUERIES / 8; j++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
              if (8 * j + c <= last0) s[4 * j + c] = 0.0f;
              if (8 * j + c <= last1) s[4 * j + 2 + c] = 0.0f;
            }
        }
        if (loadSharedInt(tileStatistics + 12 * BLOCK_QUERIES - 4) > keyFirst) {
#pragma unroll
          for (int j = 0; j < BLOCK_QUERIES / 8; j++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
              const int first = loadSharedInt(columnStatistics + 8 * BLOCK_QUERIES + 32 * j + 4 * c);
              if (key < first) s[4 * j + c] = 0.0f;
              if (key + 8 < first) s[4 * j + 2 + c] = 0.0f;
            }
        }
        u32 p[BLOCK_QUERIES / 4];
#pragma unroll
        for (int i = 0; i < BLOCK_QUERIES / 4; i++) p[i] = packScalars(s[2 * i], s[2 * i + 1]);
        {
          const u64 dOutColumns = descriptorOfColumns(dOutTile, QUERY_PANEL);
          wgmmaFence();
#pragma unroll
          for (int k = 0; k < BLOCK_QUERIES / 16; k++)
            Wgmma<HEAD_DIM>::registers<1>(
                dvSum, p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3], advance(dOutColumns, k * 2048), k > 0 || step > 0);
          wgmmaCommit();
        }

        // ds, while dv is computed.
        wgmmaWait<1>();
        keepAfterWait(dp);
        u32 ds[BLOCK_QUERIES / 4];
#pragma unroll
        for (int j = 0; j < BLOCK_QUERIES / 8; j++) {
          const float2 delta = loadShared8(columnStatistics + 4 * BLOCK_QUERIES + 32 * j);
#pragma unroll
          for (int half = 0; half < 2; half++)
            ds[2 * j + half] = packScalars(
                (KEEPS_P ? s[4 * j + 2 * half] : lowFloat(p[2 * j + half])) * (dp[4 * j + 2 * half] - delta.x),
                (KEEPS_P ? s[4 * j + 2 * half + 1] : highFloat(p[2 * j + half])) * (dp[4 * j + 2 * half + 1] - delta.y));
        }
        {
          const u64 queryColumns = descriptorOfColumns(base + QUERIES_AT + stage * QUERY_BYTES, QUERY_PANEL);
          wgmmaFence();
#pragma unroll
          for (int k = 0; k < BLOCK_QUERIES / 16; k++)
            Wgmma<HEAD_DIM>::registers<1>(
                dkSum, ds[4 * k], ds[4 * k + 1], ds[4 * k + 2], ds[4 * k + 3], advance(queryColumns, k * 2048),
                k > 0 || step > 0);
          wgmmaCommit();
        }
        // The other warpgroup has read the last ds.
        if (!isFirst) barrierSync(DS_IS_EMPTY + group, 256);
        isFirst = false;
#pragma unroll
        for (int j = 0; j < BLOCK_QUERIES / 16; j++)
          storeMatricesTransposed(dsTarget + j * 2048, ds[4 * j], ds[4 * j + 1], ds[4 * j + 2], ds[4 * j + 3]);
        fenceAsyncProxy();
        barrierSync(DS_IS_FULL, 256);

        float dq[DQ_COLUMNS / 2];
        wgmmaFence();
#pragma unroll
        for (int k = 0; k < BLOCK_KEYS / 16; k++)
          Wgmma<DQ_COLUMNS>::shared<0, 1>(
              dq, advance(dsOperand, (k / 4) * QUERY_PANEL + (k % 4) * 32), advance(keyColumns, k * 2048), k > 0);
        wgmmaCommit();
#if DQ_SUMS == INTEGERS
        // A thread's rows of dq are queries as its rows of ds are keys.
        const u32 factorAt = tileStatistics + 12 * BLOCK_QUERIES + 4 * (key & (BLOCK_QUERIES - 1));
        const float factor0 = loadSharedFloat(factorAt);
        const float factor1 = loadSharedFloat(factorAt + 32);
#endif
        wgmmaWait<1>();
        if (lane == 0) mbarrierArrive(dOutEmpty + 8 * stage);
        if (lane == 0) mbarrierArrive(queryEmpty + 8 * stage);
        if (++stage == QUERY_STAGES) stage = 0, parity ^= 1;

        // The next scores, while dq is stored.
        const bool isLast = ++step == steps;
        if (KEY_STAGES > 1) {
          if (isLast) {
            if (++keyStage == KEY_STAGES) keyStage = 0, keyParity ^= 1;
            item = nextItem();
          }
          if (item.unit >= 0) mbarrierWait(queryFull + 8 * stage, parity);
        } else if (!isLast) {
          mbarrierWait(queryFull + 8 * stage, parity);
        }
        multiplyScores();
        wgmmaWait<1>();
        keepAfterWait(dq);
        barrierArrive(DS_IS_EMPTY + 1 - group, 256);
        mbarrierWait(dqEmpty + 8 * group, dqParity);
        dqParity ^= 1;
#pragma unroll
        for (int j = 0; j < DQ_COLUMNS / 8; j++) {
#if DQ_SUMS == INTEGERS
          asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(dqTarget + j * 2048),
                       "r"(__float2int_rn(dq[4 * j] * factor0)), "r"(__float2int_rn(dq[4 * j + 1] * factor0)),
                       "r"(__float2int_rn(dq[4 * j + 2] * factor1)), "r"(__float2int_rn(dq[4 * j + 3] * factor1))
                       : "memory");
#else
          asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(dqTarget + j * 2048), "f"(dq[4 * j]),
                       "f"(dq[4 * j + 1]), "f"(dq[4 * j + 2]), "f"(dq[4 * j + 3])
                       : "memory");
#endif
        }
        fenceAsyncProxy();
        __syncwarp();
        if (lane == 0) mbarrierArrive(dqFull + 16 * writer + 8 * group);
        if (++writer == WRITERS) writer = 0;
      } while (step < steps);
      if (KEY_STAGES == 1) wgmmaWait<0>();
      keepAfterWait(dkSum);
      keepAfterWait(dvSum);
      if (lane == 0) mbarrierArrive(oldKeyEmpty);
      if (KEY_STAGES == 1) keyParity ^= 1;
      const i64 position = (i64)batch * keys + keyFirst;
#if UNROTATES
#pragma unroll
      for (int below = 0; below < 2; below++)
        Rotation{positions, cosines, sines}.undo<HEAD_DIM / 16>(dkSum, dkSum + HEAD_DIM / 4, (i64)batch * keys + key,
                                                                below, (i64)batch * keys + keys - 1);
#endif
      storeRows<HEAD_DIM>(dk + position * dkStride + column, dkStride, keys - keyFirst, headDim, dkSum, scale);
      storeRows<HEAD_DIM>(dv + position * dvStride + column, dvStride, keys - keyFirst, headDim, dvSum, 1.0f);
      if (KEY_STAGES == 1) item = nextItem();
    }
    wgmmaWait<0>();
    // The last signal that ds was read has to meet its barrier.
    if (!isFirst) barrierSync(DS_IS_EMPTY + group, 256);
  }
}

/**
 * dq = scale * dqSum, or 0 for tiles that no keys came to. Grid [tiles, numHeads, batch]; 256 threads, or 128 for all
 * columns where these are turned back and the halves of a head are those of two warpgroups.
 */
extern "C" __global__ void __launch_bounds__(256) attention_backward_finish(
    scalar_t* dq, const float* dqSum, const float* statistics, const int* counters, i64 dqStride, int queries,
    int headDim, float scale, const int* positions, const float* cosines, const float* sines) {
  constexpr int GROUPS = UNROTATES && !IS_DQ_BY_ROWS ? 2 : 1;
  const i64 block = ((i64)blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const bool isEmpty = counters[1 + block] == 0;
  const int first = threadIdx.x >> 7;
  float x[GROUPS][DQ_COLUMNS / 2];
#if DQ_SUMS == INTEGERS
  const int rowOfTile =
      (IS_DQ_BY_ROWS ? first * 64 : 0) + ((threadIdx.x >> 5) & 3) * 16 + ((threadIdx.x & 31) >> 2);
  const float* const factors = statistics + block * (STATISTICS * BLOCK_QUERIES) + 3 * BLOCK_QUERIES + rowOfTile;
  const float unit0 = 1.0f / factors[0];
  const float unit1 = 1.0f / factors[8];
#endif
#pragma unroll
  for (int g = 0; g < GROUPS; g++) {
    const float4* const source =
        reinterpret_cast<const float4*>(dqSum + block * (2 * DQ_BYTES / 4) + (first + g) * (DQ_BYTES / 4)) +
        (threadIdx.x & 127);
#pragma unroll
    for (int j = 0; j < DQ_COLUMNS / 8; j++) {
      float4 four = isEmpty ? make_float4(0.0f, 0.0f, 0.0f, 0.0f) : source[j * 128];
#if DQ_SUMS == INTEGERS
      four = make_float4(__float_as_int(four.x) * unit0, __float_as_int(four.y) * unit0, __float_as_int(four.z) * unit1,
                         __float_as_int(four.w) * unit1);
#endif
      x[g][4 * j] = four.x;
      x[g][4 * j + 1] = four.y;
      x[g][4 * j + 2] = four.z;
      x[g][4 * j + 3] = four.w;
    }
  }
  const int row0 = blockIdx.x * BLOCK_QUERIES + (IS_DQ_BY_ROWS ? first * 64 : 0);
#if UNROTATES
  const int row = row0 + ((threadIdx.x >> 5) & 3) * 16 + ((threadIdx.x & 31) >> 2);
#pragma unroll
  for (int below = 0; below < 2; below++)
    Rotation{positions, cosines, sines}.undo<HEAD_DIM / 16>(x[0], IS_DQ_BY_ROWS ? x[0] + HEAD_DIM / 4 : x[GROUPS - 1],
                                                            (i64)blockIdx.z * queries + row, below,
                                                            (i64)blockIdx.z * queries + queries - 1);
#endif
#pragma unroll
  for (int g = 0; g < GROUPS; g++) {
    const int column0 = IS_DQ_BY_ROWS ? 0 : (first + g) * DQ_COLUMNS;
    scalar_t* const to = dq + ((i64)blockIdx.z * queries + row0) * dqStride + blockIdx.y * headDim + column0;
    storeRows<DQ_COLUMNS>(to, dqStride, queries - row0, headDim - column0, x[g], scale);
  }
}
