// Softmax attention, forward, for bf16 and f16 on Hopper (sm_90a): FlashAttention-3 (Shah et al. 2024, arXiv:2407.08608).
// A producer warp brings tiles by TMA; GROUPS warpgroups of 64 queries each multiply with wgmma, take turns on the tensor
// cores (TAKE_TURNS) and overlap the softmax of a tile with the products of the tile before. Persistent blocks draw tiles
// of queries, the longest first. Tiles of K are BLOCK_KEYS keys in rings of STAGES, tiles of V the same.
// Heads of up to HEAD_DIM columns (a multiple of 8): TMA fills the rest with zeros.
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
#ifndef QUERY_STAGES
#define QUERY_STAGES 1
#endif
#ifndef TAKE_TURNS
#define TAKE_TURNS 1
#endif
#ifndef POLYNOMIALS
#define POLYNOMIALS 0
#endif

static_assert(sizeof(scalar_t) == 2, "bf16 and f16");
static_assert(HEAD_DIM % 32 == 0 && BLOCK_KEYS % 16 == 0, "shapes of wgmma");
static_assert(GROUPS == 2 || GROUPS == 3, "register counts");
static_assert(STAGES >= 2, "a warpgroup holds a tile of V while it waits for the K of the next");

constexpr int GROUP_QUERIES = 64;
constexpr int BLOCK_QUERIES = GROUP_QUERIES * GROUPS;
constexpr int THREADS = 128 * (GROUPS + 1);
constexpr int PRODUCER_REGISTERS = GROUPS == 2 ? 40 : 32;
constexpr int CONSUMER_REGISTERS = GROUPS == 2 ? 232 : 160;
constexpr int PANELS = (HEAD_DIM + 63) / 64;
constexpr u32 QUERY_PANEL_BYTES = GROUP_QUERIES * PANEL_ROW_BYTES;
constexpr u32 KEY_PANEL_BYTES = BLOCK_KEYS * PANEL_ROW_BYTES;
constexpr u32 QUERY_BYTES = PANELS * QUERY_PANEL_BYTES;
constexpr u32 KEY_BYTES = PANELS * KEY_PANEL_BYTES;
constexpr u32 TASK_BYTES = 48;
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
/** 2^x to 1e-4 for x <= 100 without the special function unit, which is the bottleneck of small heads. */
TY_INLINE float exp2Polynomial(float x) {
  x = fmaxf(x, -126.0f);
  const float shifted = x + 12582912.0f;
  const float f = x - (shifted - 12582912.0f);
  const float y = fmaf(fmaf(fmaf(0.05517167f, f, 0.24261113f), f, 0.69326097f), f, 0.99992806f);
  return __int_as_float(__float_as_int(y) + (__float_as_int(shifted) << 23));
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
  /** Heads whose keys and values stay in the L2 cache together: tiles are drawn head group by head group. */
  int headsPerGroup;
};

/** Shared memory, by address. Barriers: full and empty of each K stage, V stage, and group of queries. */
struct Memory {
  u32 queries;
  u32 keys;
  u32 values;
  u32 tasks;
  u32 barriers;
  TY_INLINE u32 keyFull(int stage) const { return barriers + 8 * stage; }
  TY_INLINE u32 keyEmpty(int stage) const { return barriers + 8 * (STAGES + stage); }
  TY_INLINE u32 valueFull(int stage) const { return barriers + 8 * (2 * STAGES + stage); }
  TY_INLINE u32 valueEmpty(int stage) const { return barriers + 8 * (3 * STAGES + stage); }
  TY_INLINE u32 queryFull(int stage, int group) const { return barriers + 8 * (4 * STAGES + stage * GROUPS + group); }
  TY_INLINE u32 queryEmpty(int stage, int group) const { return queryFull(stage, group) + 8 * QUERY_STAGES * GROUPS; }
  TY_INLINE u32 queryTile(int stage, int group) const { return queries + (stage * GROUPS + group) * QUERY_BYTES; }
  TY_INLINE u32 task(int stage, int group) const { return tasks + (stage * GROUPS + group) * TASK_BYTES; }
};

/** What a warpgroup has to do with the queries of a stage: written by the producer, read after queryFull. */
struct Task {
  /** -1: there is no more work. */
  int batch;
  int head;
  int query0;
  /** Tiles of keys of its own, [first, end), and how many of the block's tiles lie after and before them. */
  int first;
  int end;
  int skipAfter;
  int skipBefore;
  /** All of its queries see the keys [firstMost, endLeast). */
  int firstMost;
  int endLeast;

  TY_INLINE void write(u32 address) const {
    asm volatile("st.shared.v4.s32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(batch), "r"(head), "r"(query0), "r"(first)
                 : "memory");
    asm volatile("st.shared.v4.s32 [%0], {%1,%2,%3,%4};" ::"r"(address + 16), "r"(end), "r"(skipAfter), "r"(skipBefore),
                 "r"(firstMost)
                 : "memory");
    asm volatile("st.shared.s32 [%0], %1;" ::"r"(address + 32), "r"(endLeast) : "memory");
  }
  TY_INLINE void read(u32 address) {
    asm volatile("ld.shared.v4.s32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(batch), "=r"(head), "=r"(query0), "=r"(first)
                 : "r"(address)
                 : "memory");
    asm volatile("ld.shared.v4.s32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(end), "=r"(skipAfter), "=r"(skipBefore), "=r"(firstMost)
                 : "r"(address + 16)
                 : "memory");
    asm volatile("ld.shared.s32 %0, [%1];" : "=r"(endLeast) : "r"(address + 32) : "memory");
  }
  TY_INLINE bool isEmpty() const { return end <= first; }
};

template <int COUNT>
struct Ring {
  int stage = 0;
  u32 parity = 0;
  TY_INLINE void next() {
    if (++stage == COUNT) {
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

/** One thread: draws tiles and keeps the rings filled, in the order in which a warpgroup takes from them. */
TY_INLINE void produce(
    const Memory& memory,
    const TensorMap& qMap,
    const TensorMap& kMap,
    const TensorMap& vMap,
    const int* docStart,
    const Problem& problem) {
  const int tileCount = (problem.queries + BLOCK_QUERIES - 1) / BLOCK_QUERIES * problem.batch * problem.numHeads;
  Ring<STAGES> keyRing;
  Ring<STAGES> valueRing;
  Ring<QUERY_STAGES> queryRing;
  int number = blockIdx.x;
  while (number < tileCount) {
    const int following = gridDim.x + atomicAdd(&drawnTiles[0], 1u);
    const Tile tile = tileOf(number, problem);
    const int keyHead = (int)((i64)tile.head * problem.numKeyValueHeads / problem.numHeads);
    const Visibility visible =
        visibilityOf(tile.batch, problem.queries, problem.keys, problem.isCausal, problem.window, docStart);
    Task tasks[GROUPS];
    int first = UNBOUNDED;
    int end = 0;
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
      Task& task = tasks[group];
      task.batch = tile.batch;
      task.head = tile.head;
      task.query0 = tile.query0 + group * GROUP_QUERIES;
      const int last = task.query0 + GROUP_QUERIES - 1;
      task.first = firstKey(visible, task.query0) / BLOCK_KEYS;
      task.end = task.query0 < problem.queries ? (max(0, endKey(visible, last)) + BLOCK_KEYS - 1) / BLOCK_KEYS : 0;
      task.firstMost = firstKey(visible, last);
      task.endLeast = endKey(visible, task.query0);
      if (!task.isEmpty()) {
        first = min(first, task.first);
        end = max(end, task.end);
      }
    }
    first = min(first, end);
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
      Task& task = tasks[group];
      if (task.isEmpty()) task.first = task.end = first;
      task.skipAfter = end - task.end;
      task.skipBefore = task.first - first;
    }

    // Of a tile that a warpgroup skips it takes no notice: the producer lets it go in its place.
    const auto load = [&](int n, const TensorMap& map, u32 target, u32 full, u32 empty, u32 parity) {
      mbarrierWait(empty, parity ^ 1);
#pragma unroll
      for (int group = 0; group < GROUPS; group++)
        if (n < tasks[group].first || n >= tasks[group].end) mbarrierArriveMany(empty, 4);
      mbarrierExpect(full, KEY_BYTES);
#pragma unroll
      for (int panel = 0; panel < PANELS; panel++)
        copyBox(target + panel * KEY_PANEL_BYTES, map, full, 64 * panel, keyHead, n * BLOCK_KEYS, tile.batch);
    };
    const auto loadKeys = [&](int n) {
      const int stage = keyRing.stage;
      load(n, kMap, memory.keys + stage * KEY_BYTES, memory.keyFull(stage), memory.keyEmpty(stage), keyRing.parity);
      keyRing.next();
    };
    const auto loadValues = [&](int n) {
      const int stage = valueRing.stage;
      load(n, vMap, memory.values + stage * KEY_BYTES, memory.valueFull(stage), memory.valueEmpty(stage), valueRing.parity);
      valueRing.next();
    };

    if (first < end) loadKeys(end - 1);
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
      mbarrierWait(memory.queryEmpty(queryRing.stage, group), queryRing.parity ^ 1);
      tasks[group].write(memory.task(queryRing.stage, group));
      const u32 full = memory.queryFull(queryRing.stage, group);
      mbarrierExpect(full, QUERY_BYTES);
#pragma unroll
      for (int panel = 0; panel < PANELS; panel++)
        copyBox(
            memory.queryTile(queryRing.stage, group) + panel * QUERY_PANEL_BYTES, qMap, full, 64 * panel, tile.head,
            tasks[group].query0, tile.batch);
    }
    queryRing.next();
    for (int n = end - 2; n >= first; n--) {
      loadKeys(n);
      loadValues(n + 1);
    }
    if (first < end) loadValues(first);
    number = following;
  }
  for (int group = 0; group < GROUPS; group++) {
    mbarrierWait(memory.queryEmpty(queryRing.stage, group), queryRing.parity ^ 1);
    Task{-1}.write(memory.task(queryRing.stage, group));
    mbarrierArrive(memory.queryFull(queryRing.stage, group));
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

/** A warpgroup that multiplies: its sums, and the state of the softmax of the thread's rows (lane / 4 and 8 further). */
struct Consumer {
  float o[OUTPUTS];
  u32 p[SCORES / 2];
  float rowMax[2];
  float rowSum[2];
  /** What the sums so far must be multiplied with: since the maximum moved, or at the end of the rows. */
  float factor[2];
  /** Of the queries whose sums o holds: where they go, and how many exist from the thread's first one on. */
  scalar_t* target;
  int rowCount;

  TY_INLINE void resetOutputs() {
#pragma unroll
    for (int i = 0; i < OUTPUTS; i++) o[i] = 0.0f;
  }
  TY_INLINE void resetRows() {
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
          s, advance(a, k / 4 * QUERY_PANEL_BYTES + k % 4 * 32), advance(b, k / 4 * KEY_PANEL_BYTES + k % 4 * 32), k > 0);
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
        const bool isPolynomial = i / 4 % 8 < POLYNOMIALS;
        x = fmaf(x, scaleLog2, shift);
        y = fmaf(y, scaleLog2, shift);
        x = isPolynomial ? exp2Polynomial(x) : exp2Fast(x);
        y = isPolynomial ? exp2Polynomial(y) : exp2Fast(y);
        sum += x + y;
      }
      rowSum[half] += sum;
    }
    return isMoved;
  }

  TY_INLINE void rescaleOutputs() {
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

  /** After the last exponentials of the thread's rows: writes lse, makes the factors that remain to be applied. */
  TY_INLINE void finishRows(float* lse, float (&scale)[2], float scaleLog2) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = rowSum[half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const bool isBlind = rowMax[half] == NEGATIVE_INFINITY;
      scale[half] = isBlind ? 0.0f : 1.0f / sum;
      float log2Sum;
      asm("lg2.approx.f32 %0, %1;" : "=f"(log2Sum) : "f"(sum));
      if (8 * half < rowCount && (threadIdx.x & 3) == 0)
        lse[8 * half] = isBlind ? NEGATIVE_INFINITY : fmaf(rowMax[half], scaleLog2, log2Sum) * 0.6931471805599453f;
    }
  }

  TY_INLINE void storeOutputs(const float (&scale)[2], i64 stride, int headDim) {
    const int lane = threadIdx.x & 3;
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int j = 0; j < HEAD_DIM / 8; j += 4) {
        u32 x[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
          x[i] = packScalars(o[4 * (j + i) + 2 * half] * scale[half], o[4 * (j + i) + 2 * half + 1] * scale[half]);
        transposeQuad(x);
        const int column = 8 * (j + lane);
        if (8 * half < rowCount && column < headDim)
          *reinterpret_cast<uint4*>(target + 8 * half * stride + column) = make_uint4(x[0], x[1], x[2], x[3]);
      }
  }

  /** Rows that see no key. */
  TY_INLINE void storeBlind(float* lse, i64 stride, int headDim) {
    for (int row = 0; row < min(rowCount, 16); row += 8) {
      for (int column = 8 * (threadIdx.x & 3); column < headDim; column += 32)
        *reinterpret_cast<uint4*>(target + row * stride + column) = make_uint4(0, 0, 0, 0);
      lse[row] = NEGATIVE_INFINITY;
    }
  }
};

/** Hides the keys that the thread's rows (query, query + 8) do not see: those from `end` on, or those before `first`. */
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

/**
 * A warpgroup that multiplies. Its work is one stream of tiles of keys, across the tiles of queries: the scores of each are
 * multiplied while the values of the one before are ("pending"), the last one of a tile of queries included.
 */
TY_INLINE void consume(
    const Memory& memory,
    int group,
    scalar_t* out,
    float* lse,
    const int* docStart,
    i64 outStride,
    const Problem& problem) {
  const bool isLeader = (threadIdx.x & 31) == 0;
  Ring<STAGES> keyRing;
  Ring<STAGES> valueRing;
  Ring<QUERY_STAGES> queryRing;

  // The order of the warpgroups on the tensor cores: while one has its turn the others are at their exponentials.
  const auto beginTurn = [&]() {
#if TAKE_TURNS
    barrierSync(1 + group, 256);
#endif
  };
  const auto endTurn = [&]() {
#if TAKE_TURNS
    barrierArrive(1 + (group + 1) % GROUPS, 256);
#endif
  };
  const auto releaseKeys = [&]() {
    if (isLeader) mbarrierArrive(memory.keyEmpty(keyRing.stage));
    keyRing.next();
  };
  const auto releaseValues = [&]() {
    if (isLeader) mbarrierArrive(memory.valueEmpty(valueRing.stage));
    valueRing.next();
  };
  const auto releaseQueries = [&]() {
    if (isLeader) mbarrierArrive(memory.queryEmpty(queryRing.stage, group));
    queryRing.next();
  };
  const auto skip = [&](int count) {
    for (int i = 0; i < count; i++) {
      beginTurn();
      endTurn();
      keyRing.next();
    }
  };
  const auto receive = [&](Task& task) {
    mbarrierWait(memory.queryFull(queryRing.stage, group), queryRing.parity);
    task.read(memory.task(queryRing.stage, group));
  };

#if TAKE_TURNS
  if (group == GROUPS - 1) endTurn();
#endif
  Consumer consumer;
  float lastScale[2];
  bool isPending = false;
  int skipBefore = 0;
  // Tiles of V that are skipped after the pending one.
  int skippedValues = 0;
  for (;;) {
    Task task;
    const bool isSkipping = skipBefore > 0;
    if (!isSkipping) receive(task);
    // A pending tile holds its stage: the producer comes no further than STAGES tiles past it.
    if (isPending && (isSkipping || task.batch < 0 || task.isEmpty() || task.skipAfter > STAGES)) {
      mbarrierWait(memory.valueFull(valueRing.stage), valueRing.parity);
      consumer.multiplyValues(memory.values + valueRing.stage * KEY_BYTES);
      wgmmaCommit();
      wgmmaWait<0>();
      keepAfterWait(consumer.o);
      releaseValues();
      consumer.storeOutputs(lastScale, outStride, problem.headDim);
      isPending = false;
    }
    if (isSkipping) {
      skip(skipBefore);
      for (int i = 0; i < skipBefore; i++) valueRing.next();
      skipBefore = 0;
      receive(task);
    }
    if (task.batch < 0) break;
    skip(task.skipAfter);
    skippedValues = task.skipAfter;
    if (!isPending) {
      for (; skippedValues > 0; skippedValues--) valueRing.next();
    }
    const int query = task.query0 + (threadIdx.x >> 5 & 3) * 16 + (threadIdx.x >> 2 & 7);
    const Visibility visible =
        visibilityOf(task.batch, problem.queries, problem.keys, problem.isCausal, problem.window, docStart);
    float* const lseRow = lse + ((i64)task.batch * problem.numHeads + task.head) * problem.queries + query;
    const auto takeRows = [&]() {
      consumer.target =
          out + ((i64)task.batch * problem.queries + query) * outStride + (i64)task.head * problem.headDim;
      consumer.rowCount = problem.queries - query;
    };
    if (task.isEmpty()) {
      __syncwarp();
      releaseQueries();
      takeRows();
      consumer.storeBlind(lseRow, outStride, problem.headDim);
      continue;
    }
    const u32 queries = memory.queryTile(queryRing.stage, group);
    const auto mask = [&](float(&s)[SCORES], int n) {
      const int key0 = n * BLOCK_KEYS;
      if (key0 + BLOCK_KEYS > task.endLeast) maskAfter(s, visible, query, key0);
      if (key0 < task.firstMost) maskBefore(s, visible, query, key0);
    };

    consumer.resetRows();
    int n = task.end - 1;
    if (!isPending) {
      float s[SCORES];
      mbarrierWait(memory.keyFull(keyRing.stage), keyRing.parity);
      beginTurn();
      Consumer::multiplyKeys(s, queries, memory.keys + keyRing.stage * KEY_BYTES);
      wgmmaCommit();
      endTurn();
      wgmmaWait<0>();
      keepAfterWait(s);
      releaseKeys();
      if (n == task.first) releaseQueries();
      mask(s, n);
      consumer.exponentiate(s, problem.scaleLog2);
      consumer.resetOutputs();
      consumer.packProbabilities(s);
      n--;
      isPending = true;
      takeRows();
    }
    for (; n >= task.first; n--) {
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
      if (n == task.first) releaseQueries();
      mask(s, n);
      const bool isMoved = consumer.exponentiate(s, problem.scaleLog2);
      wgmmaWait<0>();
      keepAfterWait(consumer.o);
      releaseValues();
      if (n == task.end - 1) {
        for (; skippedValues > 0; skippedValues--) valueRing.next();
        consumer.storeOutputs(lastScale, outStride, problem.headDim);
        consumer.resetOutputs();
        takeRows();
      } else if (isMoved) {
        consumer.rescaleOutputs();
      }
      consumer.packProbabilities(s);
    }
    consumer.finishRows(lseRow, lastScale, problem.scaleLog2);
    skipBefore = task.skipBefore;
  }
}

/**
 * Grid: at most one block per multiprocessor and per tile of BLOCK_QUERIES queries of a head. 1024 +
 * QUERY_STAGES GROUPS QUERY_BYTES + 2 STAGES KEY_BYTES + 512 bytes of shared memory. Maps [batch, position, head, column] with boxes of 64 columns by 64
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
  const u32 keyTiles = base + QUERY_STAGES * GROUPS * QUERY_BYTES;
  const u32 valueTiles = keyTiles + STAGES * KEY_BYTES;
  const u32 tasks = valueTiles + STAGES * KEY_BYTES;
  const Memory memory{base, keyTiles, valueTiles, tasks, tasks + QUERY_STAGES * GROUPS * TASK_BYTES};
  const Problem problem{numHeads, numKeyValueHeads, batch,  queries, keys, headDim, scaleLog2, isCausal,
                        window,   headsPerGroup};
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
    for (int stage = 0; stage < QUERY_STAGES; stage++)
      for (int group = 0; group < GROUPS; group++) {
        mbarrierInit(memory.queryFull(stage, group), 1);
        mbarrierInit(memory.queryEmpty(stage, group), 4);
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
