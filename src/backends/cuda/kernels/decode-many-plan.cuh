// What the warps of decode-step-many.cu have in common: how the work of a step is dealt out, and what lies where in shared memory.
#pragma once
#include "decode-attention.cuh"
#include "decode-tags.cuh"

/** The ring's bytes, and pairs of gate and up that a block has where it has some by itself: a multiple of 4, or 0. Where nothing is said, see decode-step.cuh. */
#ifndef RING_BYTES
#define RING_BYTES 65536
#define GATE_PAIRS (TOKEN_TILES == 8 ? 44 : 0)
#endif

/**
 * Blocks of a group; warpgroups that finish tiles and attend; warps that multiply, and that look at each panel of inputs; all warps: those,
 * those that multiply, two that copy and two that do nothing, because registers are dealt out to warpgroups.
 */
constexpr int RANKS = 4, FINISHERS = 2, MULTIPLIERS = 4, CHECKERS = 2, ALL_WARPS = WARPS + MULTIPLIERS + 4;
static_assert(WARPS == 4 * FINISHERS, "warpgroups");
/** Barriers of a block beside that of blockSync: 2 and 3 are those of warpgroups that finish. */
constexpr int ALL_MULTIPLIED = 4, GATE_SCALES = 5, GATES_STORED = 6;

/** What is dealt out of a weight: 16 pairs of rows that rope or SwiGLU joins, the upper ones and the lower ones. Two make a tile. */
constexpr int UNIT_PAIRS = 16, TILE_UNITS = 2;
/** Of a unit in 64 inputs. */
constexpr u32 UNIT_BYTES = 2 * UNIT_PAIRS * PANEL_ROW_BYTES;
/** A copy of the ring: a tile in two panels of inputs, a unit in four; or some positions of a key-value head, keys then values. */
constexpr int ENTRY_PIECES = 4;
constexpr u32 ENTRY_BYTES = ENTRY_PIECES * UNIT_BYTES;
static_assert(CHUNK_BYTES == ENTRY_BYTES, "a chunk of a cache in an entry");
/**
 * With more than 32 sequences a block has pairs of gate and up by itself, if these are at most 64, and multiplies all inputs: reading
 * those takes less than parts of that many sums to exchange. A copy is a panel of them, four pairs at a time: their gates, then their ups.
 */
constexpr bool HAS_OWN_GATES = GATE_PAIRS > 0;
constexpr int GATE_GROUP = 4, GATE_PANELS = HIDDEN / 64, GATE_BLOCKS = HAS_OWN_GATES ? (FEED_FORWARD + GATE_PAIRS - 1) / GATE_PAIRS : 0;
constexpr u32 GATE_BYTES = 2 * GATE_PAIRS * PANEL_ROW_BYTES;
static_assert(!HAS_OWN_GATES || GATE_PAIRS % GATE_GROUP == 0 && GATE_PAIRS <= 64 && TOKENS == 64, "the products of a block's own gates");
/** Copies that the ring has barriers for. */
constexpr int RING_SLOTS = HAS_OWN_GATES ? 16 : RING_BYTES / ENTRY_BYTES;
/** Inputs of a product in shared memory: all panels of a block's quarter if they are not more than this. Others come again for each tile. */
constexpr int INPUT_PANELS = 8;
/** Panels that are multiplied at a time. */
constexpr int PANELS_AT_ONCE = 2;
constexpr u32 INPUT_BYTES = TOKENS * PANEL_ROW_BYTES;
/** Sequences that a block owns, and pieces of 8 of them. */
constexpr int OWN_TOKENS = TOKENS / RANKS, OWN_TILES = OWN_TOKENS < 8 ? 1 : OWN_TOKENS / 8;
/** Partial sums of a tile that a block gets: 16 bytes of each lane, of each eight sequences, of each warp, of each rank. */
constexpr int PART_FLOATS = 128, BUFFERS = 2 * FINISHERS, EXCHANGE_FLOATS = RANKS * 4 * OWN_TILES * PART_FLOATS;
/**
 * Copies under way at a time: more would delay what blocks say to one another. Of the short products before and after attention, which
 * come early anyway; of caches and of the others; and of a block's own gates, which are smaller.
 */
constexpr int FEW_IN_FLIGHT = 1, IN_FLIGHT = 2, GATES_IN_FLIGHT = 3;
/** Clock cycles between sending a part of sums and asking for those of others: by then they are mostly there. */
constexpr u32 PATIENCE = TOKENS == 16 ? 600 : 1000;
static_assert(HIDDEN % 512 == 0 && Q_WIDTH % 512 == 0 && FEED_FORWARD % 512 == 0, "quarters of whole entries");

constexpr int FINISHER_REGISTERS = 160, MULTIPLIER_REGISTERS = 112, COPIER_REGISTERS = 80;

// ---- Shared memory: the ring, the inputs (where attention keeps what its warps have), barriers ----

constexpr u32 ATTENTION_BYTES = WARPS * HEAD_ROWS * (HEAD_DIM + 2) * 4;
constexpr u32 INPUTS_AT = RING_BYTES;
constexpr u32 INPUTS_BYTES = INPUT_PANELS * INPUT_BYTES > ATTENTION_BYTES ? INPUT_PANELS * INPUT_BYTES : ATTENTION_BYTES;
constexpr u32 BARRIERS_AT = INPUTS_AT + INPUTS_BYTES;

typedef Place<RING_SLOTS> RingPlace;
typedef Place<INPUT_PANELS> InputPlace;

/** Where copies of the ring lie, from its start on: known when they are there. */
__shared__ u32 startOf[RING_SLOTS];

/** Addresses of this block's shared memory. */
struct Memory {
  u32 base;
  TY_INLINE u32 copy(int i) const { return base + (HAS_OWN_GATES ? startOf[i] : i * ENTRY_BYTES); }
  TY_INLINE u32 input(int i) const { return base + INPUTS_AT + i * INPUT_BYTES; }
  TY_INLINE u32 full(int i) const { return base + BARRIERS_AT + i * 16; }
  TY_INLINE u32 empty(int i) const { return full(i) + 8; }
  TY_INLINE u32 inputFull(int i) const { return full(RING_SLOTS + i); }
  TY_INLINE u32 inputEmpty(int i) const { return empty(RING_SLOTS + i); }
  TY_INLINE u32 inputChecked(int i) const { return full(RING_SLOTS + INPUT_PANELS) + i * 8; }
  /** Tiles take turns at these: this block has sent its part of one; it has read all parts of it. */
  TY_INLINE u32 sent(int i) const { return inputChecked(INPUT_PANELS) + i * 16; }
  TY_INLINE u32 read(int i) const { return sent(i) + 8; }
};

/** Where the next key and value of each sequence go. */
__shared__ i32 nextPosition[TOKENS];
/** What a block's own gates and ups of each sequence are scaled by. */
__shared__ float gateScales[TOKENS];

/**
 * Parts of sums go from block to block as numbers whose last bit says in which round of a buffer they were written: who
 * polls sees of each number by itself whether it is new. That bit counts for nothing.
 */
TY_INLINE void storePart(float* to, float a, float b, float c, float d, u32 round) {
  const auto tagged = [&](float x) { return (__float_as_uint(x) & ~1u) | round; };
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(to), "r"(tagged(a)), "r"(tagged(b)), "r"(tagged(c)), "r"(tagged(d))
               : "memory");
}
TY_INLINE bool isOfRound(const uint4& x, u32 round) { return ((x.x & x.y & x.z & x.w & 1) == round) && (((x.x | x.y | x.z | x.w) & 1) == round); }

TY_INLINE uint4 loadPiece(u32 at) {
  uint4 x;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "r"(at) : "memory");
  return x;
}
/** Waits so many clock cycles. */
TY_INLINE void wait(u32 cycles) {
  const u32 begin = clock();
  while ((u32)clock() - begin < cycles) {
  }
}
TY_INLINE void mbarrierArriveTwice(u32 barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], 2;" ::"r"(barrier) : "memory"); }

/** d [64, 2 * COUNT] += a [64, 16] b [16, 2 * COUNT], both from panels. */
TY_INLINE void multiplyPanels(float (&d)[8], u64 a, u64 b, int accumulate) { Wgmma<16>::shared<0, 0>(d, a, b, accumulate); }
TY_INLINE void multiplyPanels(float (&d)[16], u64 a, u64 b, int accumulate) { Wgmma<32>::shared<0, 0>(d, a, b, accumulate); }
TY_INLINE void multiplyPanels(float (&d)[32], u64 a, u64 b, int accumulate) { Wgmma<64>::shared<0, 0>(d, a, b, accumulate); }

/** Inputs of gate and up, or of the first product of a layer or of the head; and the sums of squares that their norms need. */
TY_INLINE scalar_t* scaledOf(const Step& step, bool isInner) { return step.scaled + (isInner ? (i64)TOKENS * HIDDEN : 0); }
TY_INLINE float* squaresOf(const Step& step, bool isInner) { return step.squares + (isInner ? HIDDEN / 32 * TOKENS : 0); }

// ---- What is to be done ----

/** Units of a product. */
TY_INLINE int unitsOf(int phase, int vocabSize) {
  return phase == QKV       ? QKV_ROWS / 32
         : phase == GATE_UP ? FEED_FORWARD / 16
         : phase == HEAD    ? (vocabSize + 31) / 32
                            : HIDDEN / 32;
}
constexpr int HEAD_UNITS = HALF_DIM / UNIT_PAIRS;
/** Whether blocks have something of a product by themselves. */
TY_INLINE bool isOfOwnGates(int phase) { return HAS_OWN_GATES && phase == GATE_UP; }
/** Panels of 64 inputs that a block multiplies. */
TY_INLINE int panelsOf(int phase) { return isOfOwnGates(phase) ? GATE_PANELS : inputsOf(phase) / RANKS / 64; }
/** A block's own gates begin with inputs of its own: so not all blocks ask for the same ones at a time. */
TY_INLINE int gatePanel(int i) { return (i + (int)blockIdx.x * 5) % GATE_PANELS; }
TY_INLINE bool hasGates() { return (int)blockIdx.x < GATE_BLOCKS; }
/** Copies of a tile of so many units. */
TY_INLINE int entriesOf(int phase, int units) { return (panelsOf(phase) * units + ENTRY_PIECES - 1) / ENTRY_PIECES; }

/** Which group of four blocks this one is of, and which quarter of the inputs it multiplies. */
struct Member {
  int groups, group, rank;
  TY_INLINE Member() : groups(gridDim.x / RANKS), group(blockIdx.x / RANKS), rank(blockIdx.x % RANKS) {}
};

/** A group's units of a product. */
struct Share {
  int first, end;
};
TY_INLINE int tilesOf(int units) { return (units + TILE_UNITS - 1) / TILE_UNITS; }

/**
 * Deals units out to the groups in runs; which groups have one more goes around from product to product. The products that add to the
 * stream are dealt out always the same: what a thread adds to is what it wrote itself.
 */
struct Dealer {
  int group, groups, start = 0;
  TY_INLINE Dealer(const Member& member) : group(member.group), groups(member.groups) {}
  TY_INLINE Share next(const Step& step, int phase) {
    const bool isFixed = phase == O || phase == DOWN;
    const int units = unitsOf(phase, step.vocabSize), each = units / groups, more = units % groups;
    const int at = isFixed ? group : (group + groups - start) % groups;
    if (!isFixed) start = (start + more) % groups;
    const int first = at * each + min(at, more);
    return {first, first + each + (at < more)};
  }
};

/** An item of attention is a sequence and a key-value head; teams of warps take one each. */
struct Item {
  int sequence, kvHead, length, chunks;
  TY_INLINE Item(const Step& step, int item) {
    sequence = item / KV_HEADS;
    kvHead = item % KV_HEADS;
    length = item < step.batch * KV_HEADS ? nextPosition[sequence] + 1 : 0;
    chunks = (length + CHUNK_POSITIONS - 1) / CHUNK_POSITIONS;
  }
};
TY_INLINE int teamsOf(const Step& step) { return WARPS / step.teamWarps; }
TY_INLINE int attendWorkOf(const Step& step) { return (step.batch * KV_HEADS + teamsOf(step) - 1) / teamsOf(step); }
/** Copies of a block's turn of attention: those of its teams. */
TY_INLINE int chunksOf(const Step& step, int work) {
  const int teams = teamsOf(step);
  return Item(step, work * teams).chunks + (teams == 1 ? 0 : Item(step, work * teams + 1).chunks);
}

/** Arrivals of a phase in a layer: of blocks, or of each warpgroup that finishes tiles of a product. */
TY_INLINE u32 arrivalsOf(const Step& step, int phase) {
  const int blocks = gridDim.x, groups = blocks / RANKS;
  if (phase == EMBED) return blocks;
  if (phase == ATTEND) return min(attendWorkOf(step), blocks);
  if (isOfOwnGates(phase)) return GATE_BLOCKS;
  const int units = unitsOf(phase, step.vocabSize), each = units / groups, more = units % groups;
  return RANKS * (more * min(FINISHERS, tilesOf(each + 1)) + (groups - more) * min(FINISHERS, tilesOf(each)));
}
/** Arrivals that end a phase of a layer. */
TY_INLINE u32 expectedOf(const Step& step, int phase, int layer) { return (layer + 1) * arrivalsOf(step, phase); }
/** Those with which it is worth looking for queries: waiting for the rest then finds them sooner, where attention is a large part of a layer. */
TY_INLINE u32 queriesOf(const Step& step, int layer) { return expectedOf(step, QKV, layer) - (TOKENS == 64 ? arrivalsOf(step, QKV) / 8 : 0); }

/** Element `column` of a sequence in panels [column / 64][TOKENS][64]. */
TY_INLINE scalar_t* inPanels(scalar_t* panels, int column, int token) {
  return panels + (i64)(column / 64) * (TOKENS * 64) + token * 64 + ((column / 8 % 8 ^ (token & 7)) << 3) + column % 8;
}

/**
 * Calls `attention(layer)`, `gates(layer)` where a block has some by itself, and `product(phase, layer)`, in the order in which every warp of
 * every block goes through a step.
 */
template <typename Attention, typename Gates, typename Product>
TY_INLINE void forEachPhase(const Step& step, Attention&& attention, Gates&& gates, Product&& product) {
#pragma unroll 1
  for (int layer = 0; layer <= step.numLayers; layer++) {
    const bool isHead = layer == step.numLayers;
#pragma unroll 1
    for (int phase = isHead ? HEAD : QKV; phase < (isHead ? END : HEAD); phase++) {
      if (phase == ATTEND) {
        attention(layer);
      } else if (!isOfOwnGates(phase)) {
        product(phase, layer);
      } else if constexpr (HAS_OWN_GATES) {
        if (hasGates()) gates(layer);
      }
    }
  }
}
