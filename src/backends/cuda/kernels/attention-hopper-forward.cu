// Softmax attention, forward, bf16 and f16 on Hopper (sm_90a): FlashAttention-3 (Shah et al. 2024, arXiv:2407.08608).
// A producer warp brings tiles by TMA; GROUPS warpgroups of 64 queries each multiply with wgmma, take turns on the
// tensor cores and overlap the softmax of a tile with the product of the tile before and its values. Persistent blocks
// draw tiles of queries, the longest first. K and V come in tiles of BLOCK_KEYS keys, in rings of STAGES.
// Heads of up to HEAD_DIM columns (a multiple of 8): TMA fills the rest with zeros.
//
// Tried and dropped (H100): a part of the exponentials as polynomials (D64 T1024 1 % faster, D128 13 % slower), one
// stream of tiles across tiles of queries (D64 T1024 1 % faster, D128 1 % slower), no turns (D128 T16384 11 % slower),
// 176 keys a tile (D128 5 to 9 % slower), all heads in one group (D64 T1024 12 % slower), two tiles of queries a
// warpgroup, each with products under way during the other's softmax (D64 T1024 13 % slower, T4096 30 %).
#include "attention-visibility.cuh"
#include "hopper.cuh"

#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif
#ifndef BLOCK_KEYS
#define BLOCK_KEYS 128
#endif
#ifndef GROUPS
#define GROUPS 2
#endif
#ifndef STAGES
#define STAGES 2
#endif

static_assert(sizeof(scalar_t) == 2, "bf16 and f16");
static_assert(HEAD_DIM % 32 == 0 && BLOCK_KEYS % 16 == 0, "shapes of wgmma");
static_assert(GROUPS >= 2 && GROUPS <= 4, "register counts");
static_assert(STAGES >= 2, "a warpgroup holds a tile of V while it waits for the K of the next");

constexpr int GROUP_QUERIES = 64;
constexpr int BLOCK_QUERIES = GROUP_QUERIES * GROUPS;
constexpr int THREADS = 128 * (GROUPS + 1);
constexpr int PRODUCER_REGISTERS = GROUPS == 3 ? 32 : 24;
constexpr int CONSUMER_REGISTERS = GROUPS == 2 ? 240 : GROUPS == 3 ? 160 : 112;
constexpr int PANELS = (HEAD_DIM + 63) / 64;
constexpr u32 QUERY_PANEL_BYTES = GROUP_QUERIES * PANEL_ROW_BYTES;
constexpr u32 KEY_PANEL_BYTES = BLOCK_KEYS * PANEL_ROW_BYTES;
constexpr u32 QUERY_BYTES = PANELS * QUERY_PANEL_BYTES;
constexpr u32 KEY_BYTES = PANELS * KEY_PANEL_BYTES;
constexpr int SCORES = BLOCK_KEYS / 2;
constexpr int OUTPUTS = HEAD_DIM / 2;
/** The running maximum of a row is left behind by up to this power of two before its sums are rescaled. */
constexpr float RESCALE_THRESHOLD = 8.0f;
#define NEGATIVE_INFINITY __int_as_float(0xff800000)

TY_INLINE float exp2Fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/** Tiles drawn so far, and blocks that found none left: the last of these sets both to zero for the next launch. */
__device__ u32 drawnTiles[2];

struct Problem {
  int numHeads;
  int numKeyValueHeads;
  int batch;
  int queries;
  int keys;
  int headDim;
  /** Scale of the scores times log2(e), positive. */
  float scaleLog2;
  int isCausal;
  int window;
  /**
   * Tiles are drawn head group by head group: few enough heads that their keys and values stay in the L2 cache, and
   * that the first tiles of the next group do not all wait for memory at one time.
   */
  int headsPerGroup;
};

/** Shared memory, by address. Barriers: full and empty of each K stage, V stage, and group of queries. */
struct Memory {
  u32 queries;
  u32 keys;
  u32 values;
  u32 barriers;
  TY_INLINE u32 keyFull(int stage) const { return barriers + 8 * stage; }
  TY_INLINE u32 keyEmpty(int stage) const { return barriers + 8 * (STAGES + stage); }
  TY_INLINE u32 valueFull(int stage) const { return barriers + 8 * (2 * STAGES + stage); }
  TY_INLINE u32 valueEmpty(int stage) const { return barriers + 8 * (3 * STAGES + stage); }
  TY_INLINE u32 queryFull(int group) const { return barriers + 8 * (4 * STAGES + group); }
  TY_INLINE u32 queryEmpty(int group) const { return barriers + 8 * (4 * STAGES + GROUPS + group); }
  /** Number of the tile whose queries are there, -1 at the end. */
  TY_INLINE u32 tile(int group) const { return barriers + 8 * (4 * STAGES + 2 * GROUPS) + 4 * group; }
};

struct Ring {
  int stage = 0;
  u32 parity = 0;
  TY_INLINE void next() {
    if (++stage == STAGES) {
      stage = 0;
      parity ^= 1;
    }
  }
};

struct Tile {
  int batch;
  int head;
  int query0;
};
TY_INLINE Tile tileOf(int number, const Problem& problem) {
  const int tilesPerHead = (problem.queries + BLOCK_QUERIES - 1) / BLOCK_QUERIES;
  const int tilesPerGroup = problem.headsPerGroup * tilesPerHead;
  const int head0 = number / tilesPerGroup * problem.headsPerGroup;
  const int heads = min(problem.headsPerGroup, problem.batch * problem.numHeads - head0);
  const int rest = number % tilesPerGroup;
  const int head = head0 + rest % heads;
  return {head / problem.numHeads, head % problem.numHeads, (tilesPerHead - 1 - rest / heads) * BLOCK_QUERIES};
}

/** Tiles of keys [first, end) that `count` queries from `query` on see some of; end <= first if there are none. */
struct KeyTiles {
  int first;
  int end;
};
TY_INLINE KeyTiles keyTilesOf(const Visibility& visible, int query, int count) {
  const int end = max(0, endKey(visible, query + count - 1));
  return {firstKey(visible, query) / BLOCK_KEYS, (end + BLOCK_KEYS - 1) / BLOCK_KEYS};
}

/** One thread: draws tiles and keeps the rings filled, in the order in which a warpgroup takes from them. */
TY_INLINE void produce(
    const Memory& memory,
    const TensorMap& qMap,
    const TensorMap& kMap,
    const TensorMap& vMap,
    const int* docStart,
    const Problem& problem) {
  const int tileCount = (problem.queries + BLOCK_QUERIES - 1) / BLOCK_QUERIES * problem.batch * problem.numHeads;
  Ring keyRing;
  Ring valueRing;
  u32 queryParity = 1;
  int number = blockIdx.x;
  while (number < tileCount) {
    const int following = gridDim.x + atomicAdd(&drawnTiles[0], 1u);
    const Tile tile = tileOf(number, problem);
    const int keyHead = (int)((i64)tile.head * problem.numKeyValueHeads / problem.numHeads);
    const Visibility visible =
        visibilityOf(tile.batch, problem.queries, problem.keys, problem.isCausal, problem.window, docStart);
    const KeyTiles range = keyTilesOf(visible, tile.query0, BLOCK_QUERIES);

    const auto loadKeys = [&](int n) {
      mbarrierWait(memory.keyEmpty(keyRing.stage), keyRing.parity ^ 1);
      const u32 full = memory.keyFull(keyRing.stage);
      mbarrierExpect(full, KEY_BYTES);
#pragma unroll
      for (int panel = 0; panel < PANELS; panel++)
        copyBox(
            memory.keys + keyRing.stage * KEY_BYTES + panel * KEY_PANEL_BYTES, kMap, full, 64 * panel, keyHead,
            n * BLOCK_KEYS, tile.batch);
      keyRing.next();
    };
    const auto loadValues = [&](int n) {
      mbarrierWait(memory.valueEmpty(valueRing.stage), valueRing.parity ^ 1);
      const u32 full = memory.valueFull(valueRing.stage);
      mbarrierExpect(full, KEY_BYTES);
#pragma unroll
      for (int panel = 0; panel < PANELS; panel++)
        copyBox(
            memory.values + valueRing.stage * KEY_BYTES + panel * KEY_PANEL_BYTES, vMap, full, 64 * panel, keyHead,
            n * BLOCK_KEYS, tile.batch);
      valueRing.next();
    };

    const bool isBlind = range.end <= range.first;
    if (!isBlind) loadKeys(range.end - 1);
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
      mbarrierWait(memory.queryEmpty(group), queryParity);
      asm volatile("st.shared.s32 [%0], %1;" ::"r"(memory.tile(group)), "r"(number) : "memory");
      const u32 full = memory.queryFull(group);
      if (isBlind) {
        mbarrierArrive(full);
        continue;
      }
      mbarrierExpect(full, QUERY_BYTES);
#pragma unroll
      for (int panel = 0; panel < PANELS; panel++)
        copyBox(
            memory.queries + group * QUERY_BYTES + panel * QUERY_PANEL_BYTES, qMap, full, 64 * panel, tile.head,
            tile.query0 + group * GROUP_QUERIES, tile.batch);
    }
    queryParity ^= 1;
    for (int n = range.end - 2; n >= range.first; n--) {
      loadKeys(n);
      loadValues(n + 1);
    }
    if (!isBlind) loadValues(range.first);
    number = following;
  }
  for (int group = 0; group < GROUPS; group++) {
    mbarrierWait(memory.queryEmpty(group), queryParity);
    asm volatile("st.shared.s32 [%0], %1;" ::"r"(memory.tile(group)), "r"(-1) : "memory");
    mbarrierArrive(memory.queryFull(group));
  }
  if (atomicAdd(&drawnTiles[1], 1u) == gridDim.x - 1) {
    drawnTiles[0] = 0;
    drawnTiles[1] = 0;
  }
}

/** Lane t of four holds columns 8 j + 2 t of x[j]; afterwards it holds columns 8 t .. 8 t + 7. */
TY_INLINE void transposeQuad(u32 (&x)[4]) {
  const int lane = threadIdx.x & 3;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const u32 y = __shfl_xor_sync(0xffffffffu, lane & 1 ? x[i] : x[i + 1], 1);
    if (lane & 1) x[i] = y;
    else x[i + 1] = y;
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const u32 y = __shfl_xor_sync(0xffffffffu, lane & 2 ? x[i] : x[i + 2], 2);
    if (lane & 2) x[i] = y;
    else x[i + 2] = y;
  }
}

/** Of a warpgroup that multiplies: its sums, and the softmax of the thread's rows (lane / 4 and 8 further). */
struct Consumer {
  float o[OUTPUTS];
  u32 p[SCORES / 2];
  float rowMax[2];
  float rowSum[2];
  /** What the sums so far must be multiplied with since the maximum moved. */
  float factor[2];

  TY_INLINE void reset() {
#pragma unroll
    for (int i = 0; i < OUTPUTS; i++) o[i] = 0.0f;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      rowMax[half] = NEGATIVE_INFINITY;
      rowSum[half] = 0.0f;
    }
  }

  static TY_INLINE void multiplyKeys(float (&s)[SCORES], u32 queries, u32 keys) {
    const u64 a = descriptorOfRows(queries);
    const u64 b = descriptorOfRows(keys);
    wgmmaFence();
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++)
      Wgmma<BLOCK_KEYS>::shared<0, 0>(
          s,
          advance(a, k / 4 * QUERY_PANEL_BYTES + k % 4 * 32),
          advance(b, k / 4 * KEY_PANEL_BYTES + k % 4 * 32),
          k > 0);
  }

  TY_INLINE void multiplyValues(u32 values) {
    const u64 b = descriptorOfColumns(values, KEY_PANEL_BYTES);
    wgmmaFence();
#pragma unroll
    for (int k = 0; k < BLOCK_KEYS / 16; k++)
      Wgmma<HEAD_DIM>::registers<1>(
          o, p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3], advance(b, k * 16 * PANEL_ROW_BYTES), 1);
  }

  /**
   * Replaces the scores of a tile by exponentials and adds up their rows. True if `rescale` must follow: the maximum
   * only guards against overflow, so it may lag.
   */
  TY_INLINE bool exponentiate(float (&s)[SCORES], float scaleLog2) {
    float top[2];
    bool isMoved = false;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float x = fmaxf(s[2 * half], s[2 * half + 1]);
#pragma unroll
      for (int i = 4; i < SCORES; i += 4) x = fmaxf(x, fmaxf(s[i + 2 * half], s[i + 2 * half + 1]));
      x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
      x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
      top[half] = fmaxf(x, rowMax[half]);
      isMoved |= (top[half] - rowMax[half]) * scaleLog2 > RESCALE_THRESHOLD;
    }
    isMoved = __any_sync(0xffffffffu, isMoved);
    if (isMoved) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float safe = top[half] == NEGATIVE_INFINITY ? 0.0f : top[half];
        factor[half] = exp2Fast((rowMax[half] - safe) * scaleLog2);
        rowMax[half] = top[half];
        rowSum[half] *= factor[half];
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float shift = rowMax[half] == NEGATIVE_INFINITY ? 0.0f : -rowMax[half] * scaleLog2;
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < SCORES; i += 4) {
        float& x = s[i + 2 * half];
        float& y = s[i + 2 * half + 1];
        x = exp2Fast(fmaf(x, scaleLog2, shift));
        y = exp2Fast(fmaf(y, scaleLog2, shift));
        sum += x + y;
      }
      rowSum[half] += sum;
    }
    return isMoved;
  }

  TY_INLINE void rescale() {
#pragma unroll
    for (int i = 0; i < OUTPUTS; i += 4) {
      o[i] *= factor[0];
      o[i + 1] *= factor[0];
      o[i + 2] *= factor[1];
      o[i + 3] *= factor[1];
    }
  }

  TY_INLINE void packProbabilities(const float (&s)[SCORES]) {
#pragma unroll
    for (int i = 0; i < SCORES / 2; i++) p[i] = packScalars(s[2 * i], s[2 * i + 1]);
    keepAfterWait(p);
  }

  /** Writes the thread's rows (query, query + 8) of out and lse. */
  TY_INLINE void store(scalar_t* out, float* lse, i64 stride, int query, const Problem& problem) {
    const int lane = threadIdx.x & 3;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = rowSum[half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const bool isBlind = sum == 0.0f;
      const float scale = isBlind ? 0.0f : 1.0f / sum;
      const int row = query + 8 * half;
      const bool isRow = row < problem.queries;
      float log2Sum;
      asm("lg2.approx.f32 %0, %1;" : "=f"(log2Sum) : "f"(sum));
      if (isRow && lane == 0)
        lse[row] = isBlind ? NEGATIVE_INFINITY : fmaf(rowMax[half], problem.scaleLog2, log2Sum) * 0.6931471805599453f;
      scalar_t* target = out + row * stride;
#pragma unroll
      for (int j = 0; j < HEAD_DIM / 8; j += 4) {
        u32 x[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
          x[i] = packScalars(o[4 * (j + i) + 2 * half] * scale, o[4 * (j + i) + 2 * half + 1] * scale);
        transposeQuad(x);
        const int column = 8 * (j + lane);
        if (isRow && column < problem.headDim)
          *reinterpret_cast<uint4*>(target + column) = make_uint4(x[0], x[1], x[2], x[3]);
      }
    }
  }
};

/** Hides what the thread's rows (query, query + 8) do not see: keys from their end on, or keys before their first. */
TY_INLINE void maskAfter(float (&s)[SCORES], const Visibility& visible, int query, int key0) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int end = endKey(visible, query + 8 * half) - key0 - 2 * (threadIdx.x & 3);
#pragma unroll
    for (int i = 0; i < SCORES; i += 4)
#pragma unroll
      for (int c = 0; c < 2; c++)
        if (2 * i + c >= end) s[i + 2 * half + c] = NEGATIVE_INFINITY;
  }
}
TY_INLINE void maskBefore(float (&s)[SCORES], const Visibility& visible, int query, int key0) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int first = firstKey(visible, query + 8 * half) - key0 - 2 * (threadIdx.x & 3);
#pragma unroll
    for (int i = 0; i < SCORES; i += 4)
#pragma unroll
      for (int c = 0; c < 2; c++)
        if (2 * i + c < first) s[i + 2 * half + c] = NEGATIVE_INFINITY;
  }
}

/** A warpgroup that multiplies. */
TY_INLINE void consume(
    const Memory& memory,
    int group,
    scalar_t* out,
    float* lse,
    const int* docStart,
    i64 outStride,
    const Problem& problem) {
  const bool isLeader = (threadIdx.x & 31) == 0;
  const u32 queries = memory.queries + group * QUERY_BYTES;
  Ring keyRing;
  Ring valueRing;
  u32 queryParity = 0;

  // The order of the warpgroups on the tensor cores: while one has its turn the others are at their exponentials.
  const auto beginTurn = [&]() { barrierSync(1 + group, 256); };
  const auto endTurn = [&]() { barrierArrive(1 + (group + 1) % GROUPS, 256); };
  const auto releaseKeys = [&]() {
    if (isLeader) mbarrierArrive(memory.keyEmpty(keyRing.stage));
    keyRing.next();
  };
  const auto releaseValues = [&]() {
    if (isLeader) mbarrierArrive(memory.valueEmpty(valueRing.stage));
    valueRing.next();
  };
  const auto releaseQueries = [&]() {
    if (isLeader) mbarrierArrive(memory.queryEmpty(group));
  };
  // A tile of keys that other warpgroups need but not this one.
  const auto skip = [&]() {
    beginTurn();
    endTurn();
    mbarrierWait(memory.keyFull(keyRing.stage), keyRing.parity);
    releaseKeys();
    mbarrierWait(memory.valueFull(valueRing.stage), valueRing.parity);
    releaseValues();
  };

  if (group == GROUPS - 1) endTurn();
  Consumer consumer;
  for (;;) {
    mbarrierWait(memory.queryFull(group), queryParity);
    queryParity ^= 1;
    int number;
    asm volatile("ld.shared.s32 %0, [%1];" : "=r"(number) : "r"(memory.tile(group)) : "memory");
    if (number < 0) break;
    const Tile tile = tileOf(number, problem);
    const Visibility visible =
        visibilityOf(tile.batch, problem.queries, problem.keys, problem.isCausal, problem.window, docStart);
    const KeyTiles all = keyTilesOf(visible, tile.query0, BLOCK_QUERIES);
    const int query0 = tile.query0 + group * GROUP_QUERIES;
    KeyTiles own = keyTilesOf(visible, query0, GROUP_QUERIES);
    if (query0 >= problem.queries || own.end <= own.first) own = {all.first, all.first};
    // All of the warpgroup's queries see [firstMost, endLeast).
    const int firstMost = firstKey(visible, query0 + GROUP_QUERIES - 1);
    const int endLeast = endKey(visible, query0);
    const int query = query0 + (threadIdx.x >> 5 & 3) * 16 + (threadIdx.x >> 2 & 7);
    const auto mask = [&](float(&s)[SCORES], int n) {
      const int key0 = n * BLOCK_KEYS;
      if (key0 + BLOCK_KEYS > endLeast) maskAfter(s, visible, query, key0);
      if (key0 < firstMost) maskBefore(s, visible, query, key0);
    };

    consumer.reset();
    int n = all.end - 1;
    for (; n >= own.end; n--) skip();
    if (own.first < own.end) {
      // Scores live in a loop pass of their own: nothing of the last ones has to be moved back for the next product.
      {
        float s[SCORES];
        mbarrierWait(memory.keyFull(keyRing.stage), keyRing.parity);
        beginTurn();
        Consumer::multiplyKeys(s, queries, memory.keys + keyRing.stage * KEY_BYTES);
        wgmmaCommit();
        endTurn();
        wgmmaWait<0>();
        keepAfterWait(s);
        releaseKeys();
        if (n == own.first) releaseQueries();
        mask(s, n);
        consumer.exponentiate(s, problem.scaleLog2);
        consumer.packProbabilities(s);
      }
      for (n--; n >= own.first; n--) {
        float s[SCORES];
        mbarrierWait(memory.keyFull(keyRing.stage), keyRing.parity);
        beginTurn();
        Consumer::multiplyKeys(s, queries, memory.keys + keyRing.stage * KEY_BYTES);
        wgmmaCommit();
        mbarrierWait(memory.valueFull(valueRing.stage), valueRing.parity);
        consumer.multiplyValues(memory.values + valueRing.stage * KEY_BYTES);
        wgmmaCommit();
        endTurn();
        wgmmaWait<1>();
        keepAfterWait(s);
        releaseKeys();
        if (n == own.first) releaseQueries();
        mask(s, n);
        const bool isMoved = consumer.exponentiate(s, problem.scaleLog2);
        wgmmaWait<0>();
        keepAfterWait(consumer.o);
        releaseValues();
        if (isMoved) consumer.rescale();
        consumer.packProbabilities(s);
      }
      mbarrierWait(memory.valueFull(valueRing.stage), valueRing.parity);
      consumer.multiplyValues(memory.values + valueRing.stage * KEY_BYTES);
      wgmmaCommit();
      wgmmaWait<0>();
      keepAfterWait(consumer.o);
      releaseValues();
    } else {
      __syncwarp();
      releaseQueries();
    }
    for (; n >= all.first; n--) skip();
    if (query0 >= problem.queries) continue;
    const i64 head = (i64)tile.batch * problem.numHeads + tile.head;
    consumer.store(
        out + (i64)tile.batch * problem.queries * outStride + (i64)tile.head * problem.headDim,
        lse + head * problem.queries, outStride, query, problem);
  }
}

/**
 * Grid: at most one block per multiprocessor and per tile of BLOCK_QUERIES queries of a head. Shared memory: 1024 +
 * GROUPS QUERY_BYTES + 2 STAGES KEY_BYTES + 256 bytes. Maps [batch, position, head, column] with boxes of 64 columns by 64
 * queries, or BLOCK_KEYS keys. Strides in elements.
 */
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward(
    const __grid_constant__ TensorMap qMap,
    const __grid_constant__ TensorMap kMap,
    const __grid_constant__ TensorMap vMap,
    scalar_t* out,
    float* lse,
    const int* docStart,
    i64 outStride,
    int numHeads,
    int numKeyValueHeads,
    int batch,
    int queries,
    int keys,
    int headDim,
    float scaleLog2,
    int isCausal,
    int window,
    int headsPerGroup) {
  extern __shared__ u8 bytes[];
  const u32 base = (sharedAddress(bytes) + 1023) & ~1023u;
  const u32 keyTiles = base + GROUPS * QUERY_BYTES;
  const u32 valueTiles = keyTiles + STAGES * KEY_BYTES;
  const Memory memory{base, keyTiles, valueTiles, valueTiles + STAGES * KEY_BYTES};
  const Problem problem{
      numHeads, numKeyValueHeads, batch, queries, keys, headDim, scaleLog2, isCausal, window, headsPerGroup};
  if (threadIdx.x == 0) {
    prefetchTensorMap(qMap);
    prefetchTensorMap(kMap);
    prefetchTensorMap(vMap);
    // Every warp of a warpgroup says when its own part of a product is done.
    for (int stage = 0; stage < STAGES; stage++) {
      mbarrierInit(memory.keyFull(stage), 1);
      mbarrierInit(memory.keyEmpty(stage), 4 * GROUPS);
      mbarrierInit(memory.valueFull(stage), 1);
      mbarrierInit(memory.valueEmpty(stage), 4 * GROUPS);
    }
    for (int group = 0; group < GROUPS; group++) {
      mbarrierInit(memory.queryFull(group), 1);
      mbarrierInit(memory.queryEmpty(group), 4);
    }
    mbarrierInitFence();
  }
  __syncthreads();
  const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x >> 7, 0);
  if (warpgroup == 0) {
    decreaseRegisters<PRODUCER_REGISTERS>();
    if (threadIdx.x == 0) produce(memory, qMap, kMap, vMap, docStart, problem);
  } else {
    increaseRegisters<CONSUMER_REGISTERS>();
    consume(memory, warpgroup - 1, out, lse, docStart, outStride, problem);
  }
}
