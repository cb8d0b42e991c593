// What the decoding steps of a Llama share: one launch, one block a multiprocessor, all of them in step. Here are the
// arguments and the end of a step with its greedy tokens.
//
// HIDDEN, FEED_FORWARD, HEADS, KV_HEADS and HEAD_DIM are the model's sizes, TOKEN_TILES the sequences in eights.
#pragma once
#include "prelude.cuh"

/** A Llama of 1.1 billion parameters, where nothing is said (checks that compile the file by itself). */
#ifndef HIDDEN
#define HIDDEN 2048
#define FEED_FORWARD 5632
#define HEADS 32
#define KV_HEADS 4
#define HEAD_DIM 64
#define RING_ENTRIES 4
#define AREA_BYTES 65536
#endif
#ifndef TOKEN_TILES
#define TOKEN_TILES 1
#endif

/** Warps that compute; those that only copy come on top. */
#ifndef STEP_WARPS
#define STEP_WARPS 16
#endif
constexpr int WARPS = STEP_WARPS, THREADS = 32 * WARPS;
constexpr int TOKENS = 8 * TOKEN_TILES;
constexpr int GROUP_HEADS = HEADS / KV_HEADS, HALF_DIM = HEAD_DIM / 2;
constexpr int Q_WIDTH = HEADS * HEAD_DIM, KV_WIDTH = KV_HEADS * HEAD_DIM, QKV_ROWS = Q_WIDTH + 2 * KV_WIDTH;
constexpr float LOG2_E = 1.4426950408889634f;
/** Below every score, and finite: no infinity minus infinity. */
constexpr float LOWEST = -1e30f;

/** Weights [out, in], gateUp and qkv stacked; the cache of a layer [batch, capacity, KV_WIDTH]. */
struct Layer {
  const scalar_t *inputNorm, *qkv, *o, *postNorm, *gateUp, *down;
  scalar_t *keys, *values;
};

/** The kernel's argument; decode-step.ts lays it out in this order. */
struct Step {
  const Layer* layers;
  const scalar_t *table, *finalNorm, *head;
  /** [positions, HALF_DIM] */
  const float *cos, *sin;
  /** [batch]: the token to read, replaced by the one that follows; positions in the cache, one more afterwards. */
  i32 *tokens, *lengths;
  /** [historyRows, batch]: the tokens made; row `made` is written. */
  i32 *history, *made;
  /** [batch, vocabSize] or null. */
  float* logits;
  /** Scratch: the stream [batch, HIDDEN], queries with new keys and values [batch, QKV_ROWS], [batch, Q_WIDTH], [batch, FEED_FORWARD]. */
  scalar_t *stream, *q, *mixed, *activated;
  /** Scratch of split attention, of decode-step-few.cu: [batch, maxSplits, Q_WIDTH] and [batch, maxSplits, HEADS]. */
  float *splitOut, *splitLse;
  /** [batch, slots]: the best logit with its token of each block, or of each group of blocks. */
  u64* best;
  /** COUNTERS lines, a number for each group of blocks and the number of launches; zero before the first step. */
  u32* counters;
  /**
   * Of decode-step-many.cu: parts of sums that groups of blocks exchange; sums of squares [2][HIDDEN / 32][TOKENS]; the stream times the
   * weights of the norm that reads it next, [2] for the two norms of a layer. With `mixed` and `activated` these lie in panels
   * [columns / 64][TOKENS][64].
   */
  float *partials, *squares;
  scalar_t* scaled;
  int batch, capacity, numLayers, vocabSize, historyRows, maxSplits, teamWarps;
  float eps, scale;
  /** Tensor maps of qkv, o, gateUp, down, keys and values of each layer, and of the head. */
  const void* maps;
};

/** Parts of a layer in their order, and the head. */
constexpr int QKV = 0, ATTEND = 1, O = 2, GATE_UP = 3, DOWN = 4, HEAD = 5, END = 6;
/** Counters of blocks that are done with a part, or with the embeddings. */
constexpr int EMBED = 7, COUNTERS = 8;

TY_INLINE const scalar_t* weightOf(const Step& step, const Layer& layer, int phase) {
  return phase == QKV       ? layer.qkv
         : phase == O       ? layer.o
         : phase == GATE_UP ? layer.gateUp
         : phase == DOWN    ? layer.down
                            : step.head;
}
TY_INLINE int inputsOf(int phase) { return phase == O ? Q_WIDTH : phase == DOWN ? FEED_FORWARD : HIDDEN; }

/** Where a sequence's new key and value go: a full cache keeps its last position for what no longer fits. */
TY_INLINE int positionOf(const Step& step, int sequence) { return min(step.lengths[sequence], step.capacity - 1); }

TY_INLINE float exp2Fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/** Two floats as two elements. */
TY_INLINE u32 packPair(float low, float high) {
#if TY_DTYPE == 1
  return packBf16(low, high);
#else
  return packF16(low, high);
#endif
}

/** d [16, 8] += a [16, 16] b [16, 8]. */
TY_INLINE void multiply(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#if TY_DTYPE == 1
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/** A load past the first-level cache, which may have what was there before this kernel wrote it. */
TY_INLINE u32 loadSharedPair(const scalar_t* p) {
  u32 x;
  asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(x) : "l"(p));
  return x;
}

/** Waits for the threads of the block that compute: all but a warp that only copies. */
TY_INLINE void blockSync() { asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory"); }

TY_INLINE u32 addRelease(u32* p, u32 x) {
  u32 old;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;" : "=r"(old) : "l"(p), "r"(x) : "memory");
  return old;
}

/** Words between two counters: each has a line of its own. */
constexpr int COUNTER_WORDS = 32;

/** Where the work of a phase begins to go around the blocks: on from phase to phase. */
struct Rotation {
  int start = 0;
  TY_INLINE int next(int work) {
    const int first = (blockIdx.x + gridDim.x - start) % gridDim.x;
    start = (start + work) % gridDim.x;
    return first;
  }
};

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
  TY_INLINE void skip(int count) {
    entry += count;
    round ^= entry / COUNT & 1;
    entry %= COUNT;
  }
};

/** RMSNorm's scale, of the sum of squares of a token: no number where that is infinite, too. */
TY_INLINE float rmsScale(float squares, float eps) { return rsqrtf(squares / HIDDEN + eps) + 0 * squares; }
TY_INLINE float silu(float x) { return __fdividef(x, 1 + exp2Fast(-x * LOG2_E)); }

/** Cosine and sine of the angle by which a sequence's next position turns dims `dim` and dim + HALF_DIM. */
TY_INLINE float2 angleOf(const Step& step, int dim, int token) {
  const i64 at = (i64)positionOf(step, token) * HALF_DIM + dim;
  return make_float2(step.cos[at], step.sin[at]);
}

/** Rows of the accumulators that hold heads: a group of up to 8 query heads, or of up to 16. */
constexpr bool HAS_UPPER = GROUP_HEADS > 8;
constexpr int HEAD_ROWS = HAS_UPPER ? 16 : 8;
/** A logit and its token as one number: the larger logit, then the smaller token, is the larger number. */
TY_INLINE u64 rankOf(float logit, u32 token) {
  const u32 bits = __float_as_uint(logit);
  const u32 ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (u64)ordered << 32 | (0xffffffffu - token);
}
TY_INLINE u64 larger(u64 a, u64 b) { return a > b ? a : b; }

/**
 * The last block to come here takes the best token of each sequence out of `slots`, moves on by one and resets the counters.
 * @returns whether this is that block
 */
TY_INLINE bool finishStep(const Step& step, int slots) {
  __shared__ bool isLast;
  blockSync();
  if (threadIdx.x == 0) isLast = addRelease(step.counters + END * COUNTER_WORDS, 1) == gridDim.x - 1;
  blockSync();
  if (!isLast) return false;
  const int lane = threadIdx.x & 31;
  const i32 row = *step.made;
  for (int sequence = threadIdx.x >> 5; sequence < step.batch; sequence += WARPS) {
    u64 best = 0;
    for (int slot = lane; slot < slots; slot += 32) {
      u64 candidate;
      asm volatile("ld.global.cg.u64 %0, [%1];" : "=l"(candidate) : "l"(step.best + (i64)sequence * slots + slot));
      best = larger(best, candidate);
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) {
      best = larger(best, __shfl_xor_sync(0xffffffffu, best, distance));
    }
    if (lane == 0) {
      const i32 token = (i32)(0xffffffffu - (u32)best);
      step.tokens[sequence] = token;
      step.lengths[sequence] = min(step.lengths[sequence] + 1, step.capacity);
      if (row < step.historyRows) step.history[(i64)row * step.batch + sequence] = token;
    }
  }
  blockSync();
  if (threadIdx.x < COUNTERS) step.counters[threadIdx.x * COUNTER_WORDS] = 0;
  if (threadIdx.x == 0) *step.made = row + 1;
  return true;
}
