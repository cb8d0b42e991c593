// Softmax attention, forward, bf16 and f16 on Hopper (sm_90a): FlashAttention-3 (Shah et al. 2024, arXiv:2407.08608).
// A producer warp brings tiles by TMA; GROUPS warpgroups of 64 queries each multiply with wgmma, take turns on the
// tensor cores and overlap the softmax of a tile with the product of the tile before and its values. Persistent blocks
// draw tiles of queries, the longest first. K and V come in tiles of BLOCK_KEYS keys, in rings of STAGES.
// Heads of up to HEAD_DIM columns (a multiple of 8): TMA fills the rest with zeros, and leaves it out of what it stores.
//
// Exponentials are taken relative to the maximum of a row's first tile, not a running one: any shift gives the same
// result as long as nothing overflows, and sums that grow too large say when it would. Then the warp computes the scores
// of the tile again, by mma.sync from global memory, and takes their maximum as the new shift. This was 1 to 9 % faster
// than a running maximum (nine shapes).
//
// Tried and dropped (H100): a part of the exponentials as polynomials (D64 T1024 1 % faster, D128 13 % slower), one
// stream of tiles across tiles of queries (D64 T1024 1 % faster, D128 1 % slower), no turns (D128 T16384 11 % slower),
// 176 keys a tile (D128 5 to 9 % slower), all heads in one group (D64 T1024 12 % slower), two tiles of queries a
// warpgroup, each with products under way during the other's softmax (D64 T1024 13 % slower, T4096 30 %), two blocks a
// multiprocessor (D64 10 to 16 % slower).
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
/** Where results wait for TMA: where there is room a place of their own, otherwise that of the queries. */
constexpr bool HAS_OUT_TILES = HEAD_DIM <= 128;
/** Sum of a thread's exponentials of a tile and row up to which the shift is kept. bf16 has the range of f32. */
#if TY_DTYPE == 1
constexpr float LARGEST_SUM = 1099511627776.0f;
#else
constexpr float LARGEST_SUM = 32768.0f;
#endif
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
  u32 outs;
  u32 barriers;
  TY_INLINE u32 keyFull(int stage) const { return barriers + 8 * stage; }
  TY_INLINE u32 keyEmpty(int stage) const { return barriers + 8 * (STAGES + stage); }
  TY_INLINE u32 valueFull(int stage) const { return barriers + 8 * (2 * STAGES + stage); }
  TY_INLINE u32 valueEmpty(int stage) const { return barriers + 8 * (3 * STAGES + stage); }
  TY_INLINE u32 queryFull(int group) const { return barriers + 8 * (4 * STAGES + group); }
  TY_INLINE u32 queryEmpty(int group) const { return barriers + 8 * (4 * STAGES + GROUPS + group); }
  /** The tile whose queries are there: two places in turn, so that it can be read until its outputs are stored. */
  TY_INLINE u32 tile(int group, u32 parity) const {
    return barriers + 8 * (4 * STAGES + 2 * GROUPS) + 16 * (2 * group + parity);
  }
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

/** Of BLOCK_QUERIES queries; query0 -1: there are no more. */
struct Tile {
  int batch;
  int head;
  int query0;
  int padding;
};
TY_INLINE void storeTile(u32 address, const Tile& tile) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %3};" ::"r"(address), "r"(tile.batch), "r"(tile.head), "r"(tile.query0)
               : "memory");
}
TY_INLINE Tile loadTile(u32 address) {
  Tile tile;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(tile.batch), "=r"(tile.head), "=r"(tile.query0), "=r"(tile.padding)
               : "r"(address)
               : "memory");
  return tile;
}
TY_INLINE Tile tileOf(int number, const Problem& problem) {
  const int tilesPerHead = (problem.queries + BLOCK_QUERIES - 1) / BLOCK_QUERIES;
  const int tilesPerGroup = problem.headsPerGroup * tilesPerHead;
  const int head0 = number / tilesPerGroup * problem.headsPerGroup;
  const int heads = min(problem.headsPerGroup, problem.batch * problem.numHeads - head0);
  const int rest = number % tilesPerGroup;
  const int head = head0 + rest % heads;
  return {head / problem.numHeads, head % problem.numHeads, (tilesPerHead - 1 - rest / heads) * BLOCK_QUERIES, 0};
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
      storeTile(memory.tile(group, queryParity ^ 1), tile);
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
    storeTile(memory.tile(group, queryParity ^ 1), {0, 0, -1, 0});
    mbarrierArrive(memory.queryFull(group));
  }
  if (atomicAdd(&drawnTiles[1], 1u) == gridDim.x - 1) {
    drawnTiles[0] = 0;
    drawnTiles[1] = 0;
  }
}

/** Of a warpgroup that multiplies: its sums, and the softmax of the thread's rows (lane / 4 and 8 further). */
struct Consumer {
  float o[OUTPUTS];
  u32 p[SCORES / 2];
  /** What is subtracted from the scores times scaleLog2, -inf while a row has seen nothing. */
  float shift[2];
  /** Some row of the warp has seen nothing. */
  bool isBlind;
  float rowSum[2];

  TY_INLINE void reset() {
#pragma unroll
    for (int i = 0; i < OUTPUTS; i++) o[i] = 0.0f;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      shift[half] = NEGATIVE_INFINITY;
      rowSum[half] = 0.0f;
    }
    isBlind = true;
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

  /** The shift becomes the maximum of the rows so far, and what was summed is scaled to it. */
  TY_INLINE void shiftToMaximum(const float (&s)[SCORES], float scaleLog2) {
    bool isRowBlind = false;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float x = fmaxf(s[2 * half], s[2 * half + 1]);
#pragma unroll
      for (int i = 4; i < SCORES; i += 4) x = fmaxf(x, fmaxf(s[i + 2 * half], s[i + 2 * half + 1]));
      x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
      x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
      const float top = fmaxf(x * scaleLog2, shift[half]);
      const float factor = top == NEGATIVE_INFINITY ? 1.0f : exp2Fast(shift[half] - top);
      rowSum[half] *= factor;
#pragma unroll
      for (int i = 0; i < OUTPUTS; i += 4) {
        o[i + 2 * half] *= factor;
        o[i + 2 * half + 1] *= factor;
      }
      shift[half] = top;
      isRowBlind |= top == NEGATIVE_INFINITY;
    }
    isBlind = __any_sync(0xffffffffu, isRowBlind);
  }

  /** Replaces the scores of a tile by exponentials, and sums them by rows. False if the warp has too large a sum. */
  TY_INLINE bool exponentiate(float (&s)[SCORES], float (&sum)[2], float scaleLog2) const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float minusShift = shift[half] == NEGATIVE_INFINITY ? 0.0f : -shift[half];
      sum[half] = 0.0f;
#pragma unroll
      for (int i = 0; i < SCORES; i += 4) {
        float& x = s[i + 2 * half];
        float& y = s[i + 2 * half + 1];
        x = exp2Fast(fmaf(x, scaleLog2, minusShift));
        y = exp2Fast(fmaf(y, scaleLog2, minusShift));
        sum[half] += x + y;
      }
    }
    return __all_sync(0xffffffffu, fmaxf(sum[0], sum[1]) <= LARGEST_SUM);
  }

  TY_INLINE void packProbabilities(const float (&s)[SCORES]) {
#pragma unroll
    for (int i = 0; i < SCORES / 2; i++) p[i] = packScalars(s[2 * i], s[2 * i + 1]);
    keepAfterWait(p);
  }

  /** Normalises the thread's rows (query, query + 8), writes lse, and puts out into the panels at `outs`. */
  TY_INLINE void finish(u32 outs, float* lse, int query, int queries) {
    const int lane = threadIdx.x & 31;
    float scale[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = rowSum[half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const bool isRowBlind = sum == 0.0f;
      scale[half] = isRowBlind ? 0.0f : 1.0f / sum;
      const int row = query + 8 * half;
      float log2Sum;
      asm("lg2.approx.f32 %0, %1;" : "=f"(log2Sum) : "f"(sum));
      if (row < queries && (lane & 3) == 0)
        lse[row] = isRowBlind ? NEGATIVE_INFINITY : (shift[half] + log2Sum) * 0.6931471805599453f;
    }
    // Lane 8 m + i names row i of matrix m: rows 0 .. 7 and 8 .. 15 of 8 columns, then of the next 8.
    const int row = (threadIdx.x >> 5 & 3) * 16 + (lane & 15);
#pragma unroll
    for (int j = 0; j < HEAD_DIM / 8; j += 2) {
      u32 x[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int at = 4 * (j + i / 2) + 2 * (i % 2);
        x[i] = packScalars(o[at] * scale[i % 2], o[at + 1] * scale[i % 2]);
      }
      const int chunk = (j + (lane >> 4)) & 7;
      const u32 address = outs + j / 8 * QUERY_PANEL_BYTES + row * PANEL_ROW_BYTES + ((chunk ^ (row & 7)) << 4);
      asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(x[0]), "r"(x[1]),
                   "r"(x[2]), "r"(x[3])
                   : "memory");
    }
  }
};

/** The queries of a warpgroup, from query0 on; the thread's are `query` and `query + 8`. */
struct Rows {
  Tile tile;
  Visibility visible;
  int query0;
  int query;
  TY_INLINE Rows(const Tile& tile, int group, const int* docStart, const Problem& problem)
      : tile(tile),
        visible(visibilityOf(tile.batch, problem.queries, problem.keys, problem.isCausal, problem.window, docStart)),
        query0(tile.query0 + group * GROUP_QUERIES),
        query(query0 + (threadIdx.x >> 5 & 3) * 16 + (threadIdx.x >> 2 & 7)) {}
};

/** Hides what the thread's rows do not see: keys from their end on, or keys before their first. */
TY_INLINE void maskAfter(float (&s)[SCORES], const Rows& rows, int key0) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int end = endKey(rows.visible, rows.query + 8 * half) - key0 - 2 * (threadIdx.x & 3);
#pragma unroll
    for (int i = 0; i < SCORES; i += 4)
#pragma unroll
      for (int c = 0; c < 2; c++)
        if (2 * i + c >= end) s[i + 2 * half + c] = NEGATIVE_INFINITY;
  }
}
TY_INLINE void maskBefore(float (&s)[SCORES], const Rows& rows, int key0) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int first = firstKey(rows.visible, rows.query + 8 * half) - key0 - 2 * (threadIdx.x & 3);
#pragma unroll
    for (int i = 0; i < SCORES; i += 4)
#pragma unroll
      for (int c = 0; c < 2; c++)
        if (2 * i + c < first) s[i + 2 * half + c] = NEGATIVE_INFINITY;
  }
}

/** A m16n8k16 product of a warp: the same layout of results as wgmma. */
TY_INLINE void multiplyFew(float* d, const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
#if TY_DTYPE == 1
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#else
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#endif
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/** q and k in global memory, for scores that are needed a second time. Strides in elements. */
struct Operands {
  const scalar_t* q;
  const scalar_t* k;
  i64 qStride;
  i64 kStride;
};

/** The masked scores of the warp's queries and the keys from key0 on. Slow. */
TY_INLINE void multiplyAgain(
    float (&s)[SCORES], const Operands& all, const Rows& rows, int key0, const Problem& problem) {
  const int batch = rows.tile.batch;
  const int head = rows.tile.head;
  const scalar_t* const q = all.q + (i64)batch * problem.queries * all.qStride + (i64)head * problem.headDim;
  const scalar_t* const k = all.k + (i64)batch * problem.keys * all.kStride +
      (i64)head * problem.numKeyValueHeads / problem.numHeads * problem.headDim;
  const int pair = 2 * (threadIdx.x & 3);
  // Loops that stay loops, with results in local memory, take few registers from what runs always.
  float results[SCORES];
#pragma unroll 1
  for (int j = 0; j < SCORES; j += 4) {
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    const int key = key0 + 2 * j + (threadIdx.x >> 2 & 7);
    const scalar_t* const from = k + min(key, problem.keys - 1) * all.kStride;
#pragma unroll 1
    for (int column = pair; column < problem.headDim; column += 16) {
      u32 a[4], b[2];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int at = column + i / 2 * 8;
        const scalar_t* const row = q + min(rows.query + i % 2 * 8, problem.queries - 1) * all.qStride;
        a[i] = at < problem.headDim ? *reinterpret_cast<const u32*>(row + at) : 0;
        if (i % 2 == 0) b[i / 2] = at < problem.headDim ? *reinterpret_cast<const u32*>(from + at) : 0;
      }
      multiplyFew(d, a, b[0], b[1]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = rows.query + i / 2 * 8;
      const int seen = key0 + 2 * j + pair + i % 2;
      results[j + i] = seen >= firstKey(rows.visible, row) && seen < endKey(rows.visible, row) ? d[i] : NEGATIVE_INFINITY;
    }
  }
#pragma unroll
  for (int i = 0; i < SCORES; i++) s[i] = results[i];
}

/** A warpgroup that multiplies. */
TY_INLINE void consume(
    const Memory& memory,
    int group,
    const TensorMap& outMap,
    const Operands& operands,
    float* lse,
    const int* docStart,
    const Problem& problem) {
  const bool isLeader = (threadIdx.x & 31) == 0;
  const bool isStorer = (threadIdx.x & 127) == 0;
  const u32 queries = memory.queries + group * QUERY_BYTES;
  const u32 outs = (HAS_OUT_TILES ? memory.outs : memory.queries) + group * QUERY_BYTES;
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
  const auto syncGroup = [&]() { barrierSync(1 + GROUPS + group, 128); };
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
    const u32 place = memory.tile(group, queryParity);
    queryParity ^= 1;
    // Looked up where it is needed: registers are scarce.
    const auto lookUp = [&]() { return Rows(loadTile(place), group, docStart, problem); };
    const Rows rows = lookUp();
    if (rows.tile.query0 < 0) break;
    const bool hasRows = rows.query0 < problem.queries;
    const KeyTiles all = keyTilesOf(rows.visible, rows.tile.query0, BLOCK_QUERIES);
    KeyTiles own = keyTilesOf(rows.visible, rows.query0, GROUP_QUERIES);
    if (!hasRows || own.end <= own.first) own = {all.first, all.first};
    // All of the warpgroup's queries see [firstMost, endLeast).
    const int firstMost = firstKey(rows.visible, rows.query0 + GROUP_QUERIES - 1);
    const int endLeast = endKey(rows.visible, rows.query0);
    const auto mask = [&](float(&s)[SCORES], int n) {
      const int key0 = n * BLOCK_KEYS;
      if (key0 + BLOCK_KEYS > endLeast) maskAfter(s, lookUp(), key0);
      if (key0 < firstMost) maskBefore(s, lookUp(), key0);
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
        if (HAS_OUT_TILES && n == own.first) releaseQueries();
        mask(s, n);
        consumer.shiftToMaximum(s, problem.scaleLog2);
        consumer.exponentiate(s, consumer.rowSum, problem.scaleLog2);
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
        if (HAS_OUT_TILES && n == own.first) releaseQueries();
        mask(s, n);
        const auto moveShift = [&]() {
          wgmmaWait<0>();
          keepAfterWait(consumer.o);
          consumer.shiftToMaximum(s, problem.scaleLog2);
        };
        if (consumer.isBlind) moveShift();
        float sum[2];
        // At most twice: sums that are not numbers stay so.
        for (bool isAgain = false; !consumer.exponentiate(s, sum, problem.scaleLog2) && !isAgain; isAgain = true) {
          multiplyAgain(s, operands, lookUp(), n * BLOCK_KEYS, problem);
          moveShift();
        }
        consumer.rowSum[0] += sum[0];
        consumer.rowSum[1] += sum[1];
        wgmmaWait<0>();
        keepAfterWait(consumer.o);
        releaseValues();
        consumer.packProbabilities(s);
      }
      mbarrierWait(memory.valueFull(valueRing.stage), valueRing.parity);
      consumer.multiplyValues(memory.values + valueRing.stage * KEY_BYTES);
      wgmmaCommit();
      wgmmaWait<0>();
      keepAfterWait(consumer.o);
      releaseValues();
    } else if (HAS_OUT_TILES) {
      __syncwarp();
      releaseQueries();
    }
    for (; n >= all.first; n--) skip();
    if (hasRows) {
      const Rows rows = lookUp();
      if (HAS_OUT_TILES && isStorer) waitBulkRead<0>();
      syncGroup();
      const i64 head = (i64)rows.tile.batch * problem.numHeads + rows.tile.head;
      consumer.finish(outs, lse + head * problem.queries, rows.query, problem.queries);
      fenceAsyncProxy();
      syncGroup();
      if (isStorer) {
#pragma unroll
        for (int panel = 0; panel < PANELS; panel++)
          storeBox(outMap, outs + panel * QUERY_PANEL_BYTES, 64 * panel, rows.tile.head, rows.query0, rows.tile.batch);
        commitBulk();
        if (!HAS_OUT_TILES) waitBulkRead<0>();
      }
    }
    if (!HAS_OUT_TILES) {
      syncGroup();
      releaseQueries();
    }
  }
  if (isStorer) waitBulkRead<0>();
}

/**
 * Grid: at most one block per multiprocessor and per tile of BLOCK_QUERIES queries of a head. Shared memory: 1024 +
 * GROUPS QUERY_BYTES (twice with HAS_OUT_TILES) + 2 STAGES KEY_BYTES + 512 bytes. Maps [batch, position, head, column]
 * with boxes of 64 columns by 64 queries (q and out) or BLOCK_KEYS keys. q and k are also given by address, with strides in
 * elements.
 */
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward(
    const __grid_constant__ TensorMap qMap,
    const __grid_constant__ TensorMap kMap,
    const __grid_constant__ TensorMap vMap,
    const __grid_constant__ TensorMap outMap,
    const scalar_t* q,
    const scalar_t* k,
    float* lse,
    const int* docStart,
    i64 qStride,
    i64 kStride,
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
  const u32 outTiles = valueTiles + STAGES * KEY_BYTES;
  const Memory memory{base, keyTiles, valueTiles, outTiles, outTiles + (HAS_OUT_TILES ? GROUPS * QUERY_BYTES : 0)};
  const Problem problem{
      numHeads, numKeyValueHeads, batch, queries, keys, headDim, scaleLog2, isCausal, window, headsPerGroup};
  if (threadIdx.x == 0) {
    prefetchTensorMap(qMap);
    prefetchTensorMap(kMap);
    prefetchTensorMap(vMap);
    prefetchTensorMap(outMap);
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
    consume(memory, warpgroup - 1, outMap, {q, k, qStride, kStride}, lse, docStart, problem);
  }
}
