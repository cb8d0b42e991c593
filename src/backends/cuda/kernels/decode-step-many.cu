// One decoding step of a Llama for 9 to 64 sequences. Groups of four blocks share tiles of 64 rows of a weight; each block
// multiplies a quarter of the inputs and sends what it has to the block that owns the sequences.
// Weights and caches come by the copy engine into a ring that runs ahead over phases and layers; the inputs, which other
// blocks write, are brought by a warp that waits for them. Inputs lie in memory as the products read them: panels of 64
// columns of all sequences. Norms scale what a product gives, because a sequence's scale is one number.
#ifndef TOKEN_TILES
#define TOKEN_TILES 8
#endif
#define STEP_WARPS 8
#include "decode-attention.cuh"

constexpr int RANKS = 4, WARPGROUPS = 2;
static_assert(WARPS == 4 * WARPGROUPS, "warpgroups");

/** A ring entry: 64 rows of two panels of a weight, or some positions of a key-value head, keys then values. */
constexpr int ENTRY_COLUMNS = 128;
constexpr u32 WEIGHT_PANEL_BYTES = 64 * PANEL_ROW_BYTES, ENTRY_BYTES = 2 * WEIGHT_PANEL_BYTES;
static_assert(CHUNK_BYTES == ENTRY_BYTES, "a chunk of a cache in an entry");
/** Inputs of a product in shared memory: all panels of a block's quarter if they are not more than this. */
constexpr int INPUT_PANELS = 8;
constexpr u32 INPUT_BYTES = TOKENS * PANEL_ROW_BYTES;
/** Sequences that a warpgroup multiplies, that a block owns, and pieces of 8 of the latter. */
constexpr int GROUP_TOKENS = TOKENS / WARPGROUPS, OWN_TOKENS = TOKENS / RANKS, OWN_TILES = OWN_TOKENS < 8 ? 1 : OWN_TOKENS / 8;
/** Partial sums of a tile that a block gets: 16 bytes of each lane, of each eight sequences, of each warp, of each rank. */
constexpr int PART_FLOATS = 128, BUFFERS = 4, EXCHANGE_FLOATS = RANKS * 4 * OWN_TILES * PART_FLOATS;
/** Entries whose copies are under way at a time: of weights, where more delay what blocks say to one another, and of caches. */
#ifndef CACHE_IN_FLIGHT
#define CACHE_IN_FLIGHT 4
#endif
constexpr int IN_FLIGHT = 2;
static_assert(HIDDEN % 512 == 0 && Q_WIDTH % 512 == 0 && FEED_FORWARD % 512 == 0, "quarters of whole entries");

// ---- Shared memory: the ring, the inputs (where attention keeps what its warps have), barriers ----

constexpr u32 ATTENTION_BYTES = WARPS * HEAD_ROWS * (HEAD_DIM + 2) * 4;
constexpr u32 INPUTS_AT = RING_ENTRIES * ENTRY_BYTES;
constexpr u32 INPUTS_BYTES = INPUT_PANELS * INPUT_BYTES > ATTENTION_BYTES ? INPUT_PANELS * INPUT_BYTES : ATTENTION_BYTES;
constexpr u32 BARRIERS_AT = INPUTS_AT + INPUTS_BYTES;

/** A place in a ring of COUNT and the parity of its round. */
template <int COUNT>
struct Place {
  int entry = 0;
  u32 round = 0;
  TY_INLINE void advance() {
    if (++entry == COUNT) {
      entry = 0;
      round ^= 1;
    }
  }
};
typedef Place<RING_ENTRIES> RingPlace;
typedef Place<INPUT_PANELS> InputPlace;

/** Addresses of this block's shared memory. */
struct Memory {
  u32 base;
  TY_INLINE u32 entry(int i) const { return base + i * ENTRY_BYTES; }
  TY_INLINE u32 input(int i) const { return base + INPUTS_AT + i * INPUT_BYTES; }
  TY_INLINE u32 full(int i) const { return base + BARRIERS_AT + i * 16; }
  TY_INLINE u32 empty(int i) const { return full(i) + 8; }
  TY_INLINE u32 inputFull(int i) const { return full(RING_ENTRIES + i); }
  TY_INLINE u32 inputEmpty(int i) const { return empty(RING_ENTRIES + i); }
};

/**
 * Parts of sums go from block to block as numbers whose last bit says in which round of a buffer they were written: who
 * polls sees of each number by itself whether it is new. That bit counts for nothing.
 */
TY_INLINE void storePart(float* to, float a, float b, float c, float d, u32 round) {
  const auto tagged = [&](float x) { return (__float_as_uint(x) & ~1u) | round; };
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(to), "r"(tagged(a)), "r"(tagged(b)), "r"(tagged(c)), "r"(tagged(d))
               : "memory");
}
TY_INLINE uint4 loadPart(const float* from) {
  uint4 x;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(from) : "memory");
  return x;
}
TY_INLINE void copyBulk(u32 to, const void* from, u32 bytes, u32 barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
               "r"(bytes), "r"(barrier)
               : "memory");
}

#if TY_DTYPE == 1
#define TY_TYPES ".f32.bf16.bf16"
#else
#define TY_TYPES ".f32.f16.f16"
#endif
/** d [64, 2 * COUNT] += a [64, 16] b [16, 2 * COUNT], both from panels. */
TY_INLINE void multiplyPanels(float (&d)[4], u64 a, u64 b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\nwgmma.mma_async.sync.aligned.m64n8k16" TY_TYPES
      " {%0,%1,%2,%3}, %4, %5, p, 1, 1, 0, 0;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "l"(a), "l"(b), "r"(accumulate));
}
TY_INLINE void multiplyPanels(float (&d)[8], u64 a, u64 b, int accumulate) { Wgmma<16>::shared<0, 0>(d, a, b, accumulate); }
TY_INLINE void multiplyPanels(float (&d)[16], u64 a, u64 b, int accumulate) { Wgmma<32>::shared<0, 0>(d, a, b, accumulate); }

// ---- What is to be done ----

/** Tiles of 32 pairs of rows, the upper ones and the lower ones: pairs that rope or SwiGLU joins share a tile. */
TY_INLINE int pairTilesOf(int phase, int vocabSize) {
  return phase == QKV       ? QKV_ROWS / 64
         : phase == GATE_UP ? FEED_FORWARD / 32
         : phase == HEAD    ? (vocabSize + 63) / 64
                            : HIDDEN / 64;
}
constexpr int HEAD_TILES = HALF_DIM / 32;
TY_INLINE int upperPairOf(int phase, int tile) {
  return phase == QKV ? tile / HEAD_TILES * HEAD_DIM + tile % HEAD_TILES * 32 : tile * (phase == GATE_UP ? 32 : 64);
}
TY_INLINE int lowerPairOf(int phase, int tile) {
  return upperPairOf(phase, tile) + (phase == QKV ? HALF_DIM : phase == GATE_UP ? FEED_FORWARD : 32);
}

/** An item of attention is a sequence and a key-value head; teams of warps take one each. */
struct Item {
  int sequence, kvHead, length, chunks;
  TY_INLINE Item(const Step& step, int item) {
    sequence = item / KV_HEADS;
    kvHead = item % KV_HEADS;
    length = item < step.batch * KV_HEADS ? positionOf(step, sequence) + 1 : 0;
    chunks = (length + CHUNK_POSITIONS - 1) / CHUNK_POSITIONS;
  }
};
TY_INLINE int teamsOf(const Step& step) { return WARPS / step.teamWarps; }
TY_INLINE int attendWorkOf(const Step& step) { return (step.batch * KV_HEADS + teamsOf(step) - 1) / teamsOf(step); }

/** Where the work of a phase begins to go around `count` blocks or clusters: on from phase to phase. */
struct Rotation {
  int index, count, start = 0;
  TY_INLINE Rotation(int index, int count) : index(index), count(count) {}
  TY_INLINE int next(int work) {
    const int first = (index + count - start) % count;
    start = (start + work) % count;
    return first;
  }
};

/** Arrivals that end a phase of a layer. */
TY_INLINE u32 expectedOf(const Step& step, int phase, int layer) {
  const int blocks = gridDim.x;
  const int each = phase == EMBED    ? blocks
                   : phase == ATTEND ? min(attendWorkOf(step), blocks)
                                     : RANKS * min(pairTilesOf(phase, step.vocabSize), blocks / RANKS);
  return (u32)((layer + 1) * each);
}

/** Element `column` of a sequence in panels [column / 64][TOKENS][64]. */
TY_INLINE scalar_t* inPanels(scalar_t* panels, int column, int token) {
  return panels + (i64)(column / 64) * (TOKENS * 64) + token * 64 + ((column / 8 % 8 ^ (token & 7)) << 3) + column % 8;
}

// ---- Warps that copy: one thread each ----

struct Producer {
  const Step& step;
  const Memory& memory;
  const TensorMap* maps;
  int rank;
  RingPlace place, landing;
  int underWay = 0;

  /** Waits for room for the next entry, and until fewer than `limit` copies are under way. */
  TY_INLINE void open(int limit) {
    mbarrierWait(memory.empty(place.entry), place.round ^ 1);
    for (; underWay >= limit; underWay--) {
      mbarrierWait(memory.full(landing.entry), landing.round);
      landing.advance();
    }
    underWay++;
    mbarrierExpect(memory.full(place.entry), ENTRY_BYTES);
  }
  TY_INLINE void copy(int box, const TensorMap& map, int x, int y, int z) const {
    copyBoxOnce(memory.entry(place.entry) + box * BOX_BYTES, map, memory.full(place.entry), x, y, z);
  }

  TY_INLINE void copyTile(const TensorMap& map, int phase, int tile) {
    const int quarter = inputsOf(phase) / RANKS, upper = upperPairOf(phase, tile), lower = lowerPairOf(phase, tile);
    for (int x = rank * quarter; x < (rank + 1) * quarter; x += ENTRY_COLUMNS) {
      open(IN_FLIGHT);
      for (int half = 0; half < 2; half++) {
        copy(2 * half, map, x + 64 * half, upper, 0);
        copy(2 * half + 1, map, x + 64 * half, lower, 0);
      }
      place.advance();
    }
  }

  TY_INLINE void copyCaches(const TensorMap* layerMaps, int work) {
    const int teams = teamsOf(step);
    const Item items[2] = {Item(step, work * teams), Item(step, teams == 1 ? step.batch * KV_HEADS : work * teams + 1)};
    for (int chunk = 0; chunk < max(items[0].chunks, items[1].chunks); chunk++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        if (chunk >= items[i].chunks) continue;
        open(CACHE_IN_FLIGHT);
        copyChunk(memory.entry(place.entry), layerMaps, memory.full(place.entry), items[i].sequence, items[i].kvHead, chunk);
        place.advance();
      }
    }
  }

  TY_INLINE void run() {
    Rotation tiles(blockIdx.x / RANKS, gridDim.x / RANKS), items(blockIdx.x, gridDim.x);
    for (int layer = 0; layer <= step.numLayers; layer++) {
      const bool isHead = layer == step.numLayers;
      for (int phase = isHead ? HEAD : QKV; phase < (isHead ? END : HEAD); phase++) {
        const TensorMap* layerMaps = maps + layer * LAYER_MAPS;
        if (phase == ATTEND) {
          const int work = attendWorkOf(step);
          for (int at = items.next(work); at < work; at += gridDim.x) copyCaches(layerMaps, at);
        } else {
          const int work = pairTilesOf(phase, step.vocabSize);
          for (int tile = tiles.next(work); tile < work; tile += tiles.count) copyTile(layerMaps[isHead ? 0 : phase - (phase > ATTEND)], phase, tile);
        }
      }
    }
  }
};

/** Brings the inputs of this block's products as soon as they are there. */
TY_INLINE void bringInputs(const Step& step, const Memory& memory, int rank) {
  Rotation tiles(blockIdx.x / RANKS, gridDim.x / RANKS);
  InputPlace place;
  for (int layer = 0; layer <= step.numLayers; layer++) {
    const bool isHead = layer == step.numLayers;
    for (int phase = isHead ? HEAD : QKV; phase < (isHead ? END : HEAD); phase++) {
      if (phase == ATTEND) continue;
      const int work = pairTilesOf(phase, step.vocabSize), first = tiles.next(work);
      if (first >= work) continue;
      const bool isFirst = phase == QKV || phase == HEAD;
      const int before = isFirst ? (layer == 0 ? EMBED : DOWN) : phase - 1;
      const u32 arrivals = expectedOf(step, before, layer - (isFirst && layer > 0));
      while (loadAcquire(step.counters + before * COUNTER_WORDS) < arrivals) {
      }
      // Others wrote with ordinary stores what the copy engine reads.
      asm volatile("fence.proxy.async;" ::: "memory");
      const int panels = inputsOf(phase) / RANKS / 64, passes = panels > INPUT_PANELS ? (work - first + tiles.count - 1) / tiles.count : 1;
      const scalar_t* from = (phase == O ? step.mixed : phase == DOWN ? step.activated : step.scaled) + (i64)rank * panels * (TOKENS * 64);
      for (int pass = 0; pass < passes; pass++) {
        for (int panel = 0; panel < panels; panel++) {
          mbarrierWait(memory.inputEmpty(place.entry), place.round ^ 1);
          mbarrierExpect(memory.inputFull(place.entry), INPUT_BYTES);
          copyBulk(memory.input(place.entry), from + (i64)panel * (TOKENS * 64), INPUT_BYTES, memory.inputFull(place.entry));
          place.advance();
        }
      }
    }
  }
}

// ---- Warps that compute ----

/** This thread's sums of a finished tile: one sequence, rows `row`, row + 1, row + 8 and row + 9 of both halves. */
struct Sums {
  float2 upper[2], lower[2];
};

struct Computer {
  const Step& step;
  const Memory& memory;
  int rank;
  RingPlace ring;
  InputPlace inputs;
  u32 sent = 0;

  TY_INLINE int lane() const { return threadIdx.x & 31; }
  TY_INLINE int warpgroup() const { return threadIdx.x >> 7; }
  /** Which rows and sequences of a tile this thread finishes: warps of a warpgroup share the rows and the sequences. */
  TY_INLINE int row() const { return (threadIdx.x >> 5 & 1) * 16 + (lane() >> 2 & 6); }
  TY_INLINE int ownTile() const { return threadIdx.x >> 6 & 1; }
  TY_INLINE int token() const {
    const int pair = 2 * (lane() & 3) + (lane() >> 2 & 1);
    return OWN_TOKENS < 8 ? rank / 2 * 8 + pair : rank * OWN_TOKENS + ownTile() * 8 + pair;
  }
  /** Whether this thread finishes anything: `token` is one of the block's and of the batch. */
  TY_INLINE bool isOwner() const {
    return ownTile() < OWN_TILES && token() < step.batch && (OWN_TOKENS >= 8 || (lane() & 3) / 2 == (rank & 1));
  }

  TY_INLINE u32 wait() const {
    mbarrierWait(memory.full(ring.entry), ring.round);
    return memory.entry(ring.entry);
  }
  TY_INLINE void release(u32 barrier) const {
    if (lane() == 0) mbarrierArrive(barrier);
  }

  /** d = this block's quarter of a tile. The inputs are let go with `isLast`, and are new where `isNew`. */
  template <int K>
  TY_INLINE void multiplyTile(float (&d)[GROUP_TOKENS / 2], bool isNew, bool isLast) {
    constexpr int ENTRIES = K / RANKS / ENTRY_COLUMNS;
    InputPlace at = inputs, usedInputs = inputs;
    RingPlace used = ring;
    const auto releaseUsed = [&] {
      release(memory.empty(used.entry));
      used.advance();
      for (int half = 0; half < 2; half++) {
        if (isLast) release(memory.inputEmpty(usedInputs.entry));
        usedInputs.advance();
      }
    };
#pragma unroll 1
    for (int e = 0; e < ENTRIES; e++) {
      const u32 weight = wait();
      if (isNew) {
        InputPlace next = at;
        mbarrierWait(memory.inputFull(at.entry), at.round);
        next.advance();
        mbarrierWait(memory.inputFull(next.entry), next.round);
      }
      wgmmaFence();
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const u64 a = descriptorOfRows(weight + half * WEIGHT_PANEL_BYTES);
        const u64 b = descriptorOfRows(memory.input(at.entry) + warpgroup() * (GROUP_TOKENS * PANEL_ROW_BYTES));
#pragma unroll
        for (int k = 0; k < 4; k++) multiplyPanels(d, advance(a, k * 32), advance(b, k * 32), e + half + k > 0);
        at.advance();
      }
      wgmmaCommit();
      ring.advance();
      // The products before these are done.
      wgmmaWait<1>();
      if (e > 0) releaseUsed();
    }
    wgmmaWait<0>();
    releaseUsed();
    keepAfterWait(d);
    if (isLast) inputs = at;
  }

  /** Where a block of this group finds the parts of a tile, in buffers by turns. */
  TY_INLINE float* partsOf(int owner, u32 tile) const {
    return step.partials + (i64)((blockIdx.x / RANKS * RANKS + owner) * BUFFERS + tile % BUFFERS) * EXCHANGE_FLOATS + lane() * 4;
  }
  /** The last bit of the parts of a tile; memory begins as zeros. */
  static TY_INLINE u32 roundOf(u32 tile) { return tile / BUFFERS & 1 ^ 1; }

  /** Sends what this block has of a tile to the blocks that own the sequences. */
  TY_INLINE void send(const float (&d)[GROUP_TOKENS / 2]) {
    const int warp = threadIdx.x >> 5 & 3;
#pragma unroll
    for (int j = 0; j < GROUP_TOKENS / 8; j++) {
      const int token = warpgroup() * GROUP_TOKENS + j * 8 + 2 * (lane() & 3);
      const int tile = OWN_TOKENS < 8 ? 0 : token % OWN_TOKENS / 8;
      float* to = partsOf(token / OWN_TOKENS, sent) + ((rank * 4 + warp) * OWN_TILES + tile) * PART_FLOATS;
      storePart(to, d[4 * j], d[4 * j + 1], d[4 * j + 2], d[4 * j + 3], roundOf(sent));
    }
    sent++;
  }

  /** The sums of tile number `tile` of all that were sent, parts in the order of the ranks; lanes swap so that each has one sequence. */
  TY_INLINE Sums sumsOfTile(u32 tile) const {
    const float* parts = partsOf(rank, tile) + ((threadIdx.x >> 5 & 1) * OWN_TILES + ownTile()) * PART_FLOATS;
    const u32 round = roundOf(tile);
    const bool isNeeded = OWN_TOKENS >= 8 || (lane() & 3) / 2 == (rank & 1);
    uint4 x[2][RANKS];
    bool isNew;
    do {
      isNew = true;
#pragma unroll
      for (int i = 0; i < 2 * RANKS; i++) {
        uint4& part = x[i / RANKS][i % RANKS];
        part = loadPart(parts + ((i % RANKS) * 4 + i / RANKS * 2) * OWN_TILES * PART_FLOATS);
      }
#pragma unroll
      for (int i = 0; i < 2 * RANKS; i++) {
        const uint4 part = x[i / RANKS][i % RANKS];
        isNew &= ((part.x & part.y & part.z & part.w & 1) == round) && (((part.x | part.y | part.z | part.w) & 1) == round);
      }
    } while (!isNew && isNeeded);
    __syncwarp();
    float4 half[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      half[h] = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int r = 0; r < RANKS; r++) {
        half[h].x += __uint_as_float(x[h][r].x & ~1u);
        half[h].y += __uint_as_float(x[h][r].y & ~1u);
        half[h].z += __uint_as_float(x[h][r].z & ~1u);
        half[h].w += __uint_as_float(x[h][r].w & ~1u);
      }
    }
    Sums sums;
    const bool isOdd = lane() >> 2 & 1;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float4 x = half[h];
      const float a = __shfl_xor_sync(0xffffffffu, isOdd ? x.x : x.y, 4), b = __shfl_xor_sync(0xffffffffu, isOdd ? x.z : x.w, 4);
      float2* out = h == 0 ? sums.upper : sums.lower;
      out[0] = isOdd ? make_float2(a, x.y) : make_float2(x.x, a);
      out[1] = isOdd ? make_float2(b, x.w) : make_float2(x.z, b);
    }
    return sums;
  }

  /**
   * This block's tiles of a product of K inputs. A tile is sent when it is multiplied, and the one before it finished then, by the
   * warpgroups in turns, while the other one goes on. Before a tile is sent all warps have read the parts of the last but one.
   * So four buffers are enough: who had all parts of tile n - 2 knows that nobody still reads those of n - 4.
   * `prepare(tile)` loads what `finish(tile, operands, sums)` needs beside the sums.
   */
  template <int K, typename Prepare, typename Finish>
  TY_INLINE void product(int first, int tiles, Prepare&& prepare, Finish&& finish) {
    constexpr bool isStreamed = K / RANKS / 64 > INPUT_PANELS;
    const int step = gridDim.x / RANKS;
    for (int tile = first; tile < tiles + step; tile += step) {
      const u32 before = sent - 1;
      if (tile < tiles) {
        float d[GROUP_TOKENS / 2];
        multiplyTile<K>(d, isStreamed || tile == first, isStreamed || tile + step >= tiles);
        if (tile > first) blockSync();
        send(d);
      }
      if (tile > first && warpgroup() == (before & 1) && ownTile() < OWN_TILES) {
        const auto operands = prepare(tile - step);
        const Sums sums = sumsOfTile(before);
        finish(tile - step, operands, sums);
      }
    }
    blockSync();
  }

  /** Softmax attention of this block's items. */
  TY_INLINE void attend(const Layer& layer, int work, float* area, scalar_t* mixed) {
    const int warp = threadIdx.x >> 5, teamWarps = step.teamWarps, teams = teamsOf(step), team = warp / teamWarps, member = warp % teamWarps;
    float* stats = area;
    float* outputs = area + 2 * WARPS * HEAD_ROWS;
    const Item own(step, work * teams + team);
    const int otherChunks = teams == 1 ? 0 : Item(step, work * teams + (team ^ 1)).chunks;
    // Positions of a chunk that this warp takes, and of how many chunks it takes which.
    const int part = member % UNITS * 16, turn = member / UNITS, turns = teamWarps / UNITS;
    HeadAttention attention;
    Newest newest;
    if (own.chunks > 0) {
      attention.load(step, own.sequence, own.kvHead);
      newest.load(step, layer, own.sequence, own.kvHead);
    }
    for (int chunk = 0; chunk < max(own.chunks, otherChunks); chunk++) {
#pragma unroll
      for (int which = 0; which < 2; which++) {
        const bool isOwn = which == team;
        if (chunk >= (isOwn ? own.chunks : otherChunks)) continue;
        const u32 at = wait();
        const int count = own.length - chunk * CHUNK_POSITIONS - part;
        if (isOwn && count > 0 && (chunk & (turns - 1)) == turn) {
          if (count <= 16) newest.patch(at, part + count - 1, part + 16);
          attention.take(at, part, count, step.scale * LOG2_E);
        }
        __syncwarp();
        release(memory.empty(ring.entry));
        ring.advance();
      }
    }
    attention.store(stats + 2 * warp * HEAD_ROWS, outputs + warp * HEAD_ROWS * HEAD_DIM);
    blockSync();
    if (own.chunks > 0) {
      for (int i = (threadIdx.x - team * teamWarps * 32) * 2; i < GROUP_HEADS * HEAD_DIM; i += teamWarps * 64) {
        MergedHead a, b;
        const int from = team * teamWarps, row = i / HEAD_DIM, dim = i % HEAD_DIM;
        const float x = a.value(stats, outputs, from, from + teamWarps, row, dim);
        const float y = b.value(stats, outputs, from, from + teamWarps, row, dim + 1);
        *reinterpret_cast<u32*>(inPanels(mixed, own.kvHead * GROUP_HEADS * HEAD_DIM + i, own.sequence)) = packPair(x, y);
      }
    }
    // The area belongs to the copies of inputs.
    fenceAsyncProxy();
    blockSync();
  }
};

/** Sums of squares of parts of a sequence, of which RMSNorm's scale is made: [HIDDEN / 32][TOKENS]; four lanes share a sequence. */
constexpr int SQUARES = HIDDEN / 32;
TY_INLINE float scaleOf(const Step& step, int token) {
  float sum = 0;
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int i = 0; i < SQUARES / 4; i++) sum += loadShared(step.squares + (i * 4 + (lane >> 3)) * TOKENS + token);
  sum += __shfl_xor_sync(0xffffffffu, sum, 8);
  sum += __shfl_xor_sync(0xffffffffu, sum, 16);
  return rsqrtf(sum / HIDDEN + step.eps);
}

/** The scale of a sequence, waited for once, when the first tile of a product needs it. */
struct LateScale {
  float value = 0;
  bool isThere = false;

  TY_INLINE void await(const Step& step, int token) {
    if (!isThere) value = scaleOf(step, token), isThere = true;
  }
};

TY_INLINE float2 unpackPair(u32 x) {
  scalar_t low, high;
  low.bits = (u16)x;
  high.bits = (u16)(x >> 16);
  return make_float2(toFloat(low), toFloat(high));
}
TY_INLINE u32 constantPair(const scalar_t* p) { return *reinterpret_cast<const u32*>(p); }

/** The residual stream starts as the tokens' embeddings: a warp a sequence and tile. */
TY_INLINE void embedTokens(const Step& step, const scalar_t* norm) {
  const int lane = threadIdx.x & 31;
  for (int task = blockIdx.x * WARPS + (threadIdx.x >> 5); task < step.batch * (HIDDEN / 64); task += gridDim.x * WARPS) {
    const int token = task / (HIDDEN / 64), tile = task % (HIDDEN / 64), column = tile * 64 + lane * 2;
    const u32 x = constantPair(step.table + (i64)step.tokens[token] * HIDDEN + column);
    const float2 pair = unpackPair(x), weight = unpackPair(constantPair(norm + column));
    *reinterpret_cast<u32*>(step.stream + (i64)token * HIDDEN + column) = x;
    *reinterpret_cast<u32*>(inPanels(step.scaled, column, token)) = packPair(pair.x * weight.x, pair.y * weight.y);
    const float sum = warpSum(pair.x * pair.x + pair.y * pair.y);
    if (lane < 2) step.squares[(tile * 2 + lane) * TOKENS + token] = lane == 0 ? sum : 0;
  }
}

struct Nothing {};
/** What is added to the stream, and the weights of the norm that reads it next. */
struct Residual {
  u32 old[2][2], norm[2][2];
};
struct Angles {
  float2 cos[2], sin[2];
};

TY_KERNEL __launch_bounds__(THREADS + 64, 1) decode_step_many(const Step step) {
  extern __shared__ __align__(1024) u8 sharedMemory[];
  const Memory memory{sharedAddress(sharedMemory)};
  const int rank = blockIdx.x % RANKS, warp = threadIdx.x >> 5;
  if (threadIdx.x == 0) {
    for (int i = 0; i < RING_ENTRIES + INPUT_PANELS; i++) {
      mbarrierInit(memory.full(i), 1);
      mbarrierInit(memory.empty(i), WARPS);
    }
    mbarrierInitFence();
  }
  __syncthreads();
  const TensorMap* maps = reinterpret_cast<const TensorMap*>(step.maps);
  if (warp == WARPS && (threadIdx.x & 31) == 0) {
    Producer producer{step, memory, maps, rank};
    producer.run();
  } else if (warp == WARPS + 1 && (threadIdx.x & 31) == 0) {
    bringInputs(step, memory, rank);
  } else if (warp < WARPS) {
    Computer computer{step, memory, rank};
    // Tiles that this group has sent since its buffers were zeros.
    u32* sent = step.counters + COUNTERS * COUNTER_WORDS + blockIdx.x / RANKS;
    computer.sent = *sent;
    const Layer* layers = step.layers;
    float* area = reinterpret_cast<float*>(sharedMemory + INPUTS_AT);
    const int token = computer.token(), row = computer.row();
    const bool isOwner = computer.isOwner();
    Rotation tiles(blockIdx.x / RANKS, gridDim.x / RANKS), items(blockIdx.x, gridDim.x);
    embedTokens(step, layers[0].inputNorm);
    blockSync();
    arrive(step, EMBED);

    const auto loadResidual = [&](int tile, const scalar_t* norm) {
      Residual x = {};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int column = tile * 64 + row + i % 2 * 8 + i / 2 * 32;
        if (isOwner) x.old[i / 2][i % 2] = loadSharedPair(step.stream + (i64)token * HIDDEN + column);
        x.norm[i / 2][i % 2] = constantPair(norm + column);
      }
      return x;
    };
    const auto addToStream = [&](int tile, const Residual& x, const Sums& sums) {
      float squares = 0;
      if (isOwner) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int column = tile * 64 + row + i % 2 * 8 + i / 2 * 32;
          const float2 old = unpackPair(x.old[i / 2][i % 2]), norm = unpackPair(x.norm[i / 2][i % 2]);
          const float2 sum = (i / 2 == 0 ? sums.upper : sums.lower)[i % 2];
          const u32 rounded = packPair(old.x + sum.x, old.y + sum.y);
          const float2 y = unpackPair(rounded);
          *reinterpret_cast<u32*>(step.stream + (i64)token * HIDDEN + column) = rounded;
          *reinterpret_cast<u32*>(inPanels(step.scaled, column, token)) = packPair(y.x * norm.x, y.y * norm.y);
          squares += y.x * y.x + y.y * y.y;
        }
      }
      squares += __shfl_xor_sync(0xffffffffu, squares, 8);
      squares += __shfl_xor_sync(0xffffffffu, squares, 16);
      if (isOwner && computer.lane() < 8) step.squares[(tile * 2 + row / 16) * TOKENS + token] = squares;
    };

    for (int l = 0; l < step.numLayers; l++) {
      const Layer layer = layers[l];
      constexpr int QKV_TILES_64 = QKV_ROWS / 64, STREAM_TILES = HIDDEN / 64, FEED_FORWARD_TILES = FEED_FORWARD / 32;
      if (const int first = tiles.next(QKV_TILES_64); first < QKV_TILES_64) {
        LateScale scale;
        computer.product<HIDDEN>(first, QKV_TILES_64, [&](int tile) {
          scale.await(step, token);
          Angles angles = {};
          if (isOwner) {
            const i64 at = (i64)positionOf(step, token) * HALF_DIM + tile % HEAD_TILES * 32 + row;
#pragma unroll
            for (int i = 0; i < 2; i++) {
              angles.cos[i] = *reinterpret_cast<const float2*>(step.cos + at + i * 8);
              angles.sin[i] = *reinterpret_cast<const float2*>(step.sin + at + i * 8);
            }
          }
          return angles;
        }, [&](int tile, const Angles& angles, const Sums& sums) {
          if (!isOwner) return;
          const int head = tile / HEAD_TILES, dim = tile % HEAD_TILES * 32 + row;
          const i64 cached = ((i64)token * step.capacity + positionOf(step, token)) * KV_WIDTH + dim;
          scalar_t* to = head < HEADS              ? step.q + (i64)token * Q_WIDTH + head * HEAD_DIM + dim
                         : head < HEADS + KV_HEADS ? layer.keys + cached + (head - HEADS) * HEAD_DIM
                                                   : layer.values + cached + (head - HEADS - KV_HEADS) * HEAD_DIM;
#pragma unroll
          for (int i = 0; i < 2; i++) {
            float2 upper = make_float2(sums.upper[i].x * scale.value, sums.upper[i].y * scale.value);
            float2 lower = make_float2(sums.lower[i].x * scale.value, sums.lower[i].y * scale.value);
            if (head < HEADS + KV_HEADS) {
              const float2 c = angles.cos[i], s = angles.sin[i];
              const float2 turned = make_float2(upper.x * c.x - lower.x * s.x, upper.y * c.y - lower.y * s.y);
              lower = make_float2(lower.x * c.x + upper.x * s.x, lower.y * c.y + upper.y * s.y);
              upper = turned;
            }
            *reinterpret_cast<u32*>(to + i * 8) = packPair(upper.x, upper.y);
            *reinterpret_cast<u32*>(to + i * 8 + HALF_DIM) = packPair(lower.x, lower.y);
          }
        });
        arrive(step, QKV);
      }
      const int work = attendWorkOf(step);
      if (const int first = items.next(work); first < work) {
        await(step, QKV, expectedOf(step, QKV, l));
        for (int at = first; at < work; at += gridDim.x) computer.attend(layer, at, area, step.mixed);
        arrive(step, ATTEND);
      }
      if (const int first = tiles.next(STREAM_TILES); first < STREAM_TILES) {
        computer.product<Q_WIDTH>(first, STREAM_TILES, [&](int tile) { return loadResidual(tile, layer.postNorm); }, addToStream);
        arrive(step, O);
      }
      if (const int first = tiles.next(FEED_FORWARD_TILES); first < FEED_FORWARD_TILES) {
        LateScale scale;
        computer.product<HIDDEN>(first, FEED_FORWARD_TILES, [&](int) {
          scale.await(step, token);
          return Nothing();
        }, [&](int tile, Nothing, const Sums& sums) {
          if (!isOwner) return;
#pragma unroll
          for (int i = 0; i < 2; i++) {
            const float x = silu(sums.upper[i].x * scale.value) * (sums.lower[i].x * scale.value);
            const float y = silu(sums.upper[i].y * scale.value) * (sums.lower[i].y * scale.value);
            *reinterpret_cast<u32*>(inPanels(step.activated, tile * 32 + row + i * 8, token)) = packPair(x, y);
          }
        });
        arrive(step, GATE_UP);
      }
      const scalar_t* nextNorm = l + 1 < step.numLayers ? layers[l + 1].inputNorm : step.finalNorm;
      if (const int first = tiles.next(STREAM_TILES); first < STREAM_TILES) {
        computer.product<FEED_FORWARD>(first, STREAM_TILES, [&](int tile) { return loadResidual(tile, nextNorm); }, addToStream);
        arrive(step, DOWN);
      }
    }

    const int tileCount = pairTilesOf(HEAD, step.vocabSize);
    LateScale scale;
    u64 best = 0;
    if (const int first = tiles.next(tileCount); first < tileCount) {
      computer.product<HIDDEN>(first, tileCount, [&](int) {
        scale.await(step, token);
        return Nothing();
      }, [&](int tile, Nothing, const Sums& sums) {
        if (!isOwner) return;
#pragma unroll
        for (int i = 0; i < 8; i++) {
          const float2 pair = (i / 4 == 0 ? sums.upper : sums.lower)[i / 2 % 2];
          const int id = tile * 64 + i / 4 * 32 + row + i / 2 % 2 * 8 + i % 2;
          if (id >= step.vocabSize) continue;
          const float logit = (i % 2 == 0 ? pair.x : pair.y) * scale.value;
          best = larger(best, rankOf(logit, id));
          if (step.logits != nullptr) step.logits[(i64)token * step.vocabSize + id] = logit;
        }
      });
    }
    // The area is free: nothing comes after the head.
    u64* bests = reinterpret_cast<u64*>(area);
    bests[threadIdx.x] = isOwner ? best : 0;
    blockSync();
    const int own = threadIdx.x;
    if (own < OWN_TOKENS && rank * OWN_TOKENS + own < step.batch) {
      u64 top = 0;
      // Threads of this sequence: lanes of its pair and parity, in every warp of its eight.
      const int pair = OWN_TOKENS < 8 ? rank % 2 * 4 + own : own % 8, tile = OWN_TOKENS < 8 ? 0 : own / 8;
      for (int w = 0; w < WARPS; w++) {
        if ((w >> 1 & 1) != tile) continue;
        for (int g = pair & 1; g < 8; g += 2) top = larger(top, bests[w * 32 + g * 4 + pair / 2]);
      }
      step.best[(i64)(rank * OWN_TOKENS + own) * (gridDim.x / RANKS) + blockIdx.x / RANKS] = top;
    }
    if (rank == 0 && threadIdx.x == 0) *sent = computer.sent;
    finishStep(step, gridDim.x / RANKS);
  }
}
