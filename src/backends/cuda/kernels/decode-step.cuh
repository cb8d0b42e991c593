// What the decoding steps of a Llama share: one launch, one block a multiprocessor, all of them in step. Here are the
// arguments, the barrier of the grid, attention over the cache and the end of a step with its greedy tokens.
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

/** Warps that compute; one that only copies comes on top. */
constexpr int WARPS = 16, THREADS = 32 * WARPS;
constexpr int TOKENS = 8 * TOKEN_TILES;
constexpr int GROUP_HEADS = HEADS / KV_HEADS, HALF_DIM = HEAD_DIM / 2;
constexpr int Q_WIDTH = HEADS * HEAD_DIM, KV_WIDTH = KV_HEADS * HEAD_DIM, QKV_ROWS = Q_WIDTH + 2 * KV_WIDTH;
constexpr int QKV_TILES = QKV_ROWS / 16;
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
  /** Scratch: [batch, HIDDEN], [batch, Q_WIDTH] twice, [batch, FEED_FORWARD]. */
  scalar_t *stream, *q, *mixed, *activated;
  /** Scratch of split attention, of decode-step-few.cu: [batch, maxSplits, Q_WIDTH] and [batch, maxSplits, HEADS]. */
  float *splitOut, *splitLse;
  /** [batch, blocks]: each block's best logit with its token. */
  u64* best;
  /** COUNTERS lines; zero before the first step. */
  u32* counters;
  /** Of decode-step-many.cu: partial sums [slice][tile][TOKENS * 16], and sums of squares [HIDDEN / 16][TOKENS]. */
  float *partials, *squares;
  int batch, capacity, numLayers, vocabSize, historyRows, maxSplits, teamWarps;
  float eps, scale;
  /** Tensor maps of qkv, o, gateUp, down, keys and values of each layer, and of the head. */
  const void* maps;
};

/** Parts of a layer in their order, and the head. */
constexpr int QKV = 0, ATTEND = 1, O = 2, GATE_UP = 3, DOWN = 4, HEAD = 5, END = 6;
/** Counters of blocks that are done with a part, and with a split of attention. */
constexpr int SPLIT = 7, COUNTERS = 8;

TY_INLINE int tilesOf(int phase, int vocabSize) {
  return phase == QKV       ? QKV_ROWS / 16
         : phase == GATE_UP ? FEED_FORWARD / 8
         : phase == HEAD    ? (vocabSize + 15) / 16
                            : HIDDEN / 16;
}

/** First of the 8 upper rows of a tile, and of its 8 lower ones: pairs that rope or SwiGLU joins share a tile. */
TY_INLINE int upperRow(int phase, int tile) {
  if (phase == QKV) return tile / (HALF_DIM / 8) * HEAD_DIM + tile % (HALF_DIM / 8) * 8;
  return tile * (phase == GATE_UP ? 8 : 16);
}
TY_INLINE int lowerRow(int phase, int tile) {
  return upperRow(phase, tile) + (phase == QKV ? HALF_DIM : phase == GATE_UP ? FEED_FORWARD : 8);
}

TY_INLINE const scalar_t* weightOf(const Step& step, const Layer& layer, int phase) {
  return phase == QKV       ? layer.qkv
         : phase == O       ? layer.o
         : phase == GATE_UP ? layer.gateUp
         : phase == DOWN    ? layer.down
                            : step.head;
}
TY_INLINE int inputsOf(int phase) { return phase == O ? Q_WIDTH : phase == DOWN ? FEED_FORWARD : HIDDEN; }

/** The addresses of all layers, in shared memory: they decide what is fetched next. */
TY_INLINE const Layer* copyLayers(const Step& step, void* shared) {
  for (int i = threadIdx.x; i < step.numLayers * (int)(sizeof(Layer) / 8); i += THREADS) {
    reinterpret_cast<u64*>(shared)[i] = reinterpret_cast<const u64*>(step.layers)[i];
  }
  __syncthreads();
  return reinterpret_cast<const Layer*>(shared);
}

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

/** Loads past the first-level cache: what other blocks wrote since the kernel began. */
TY_INLINE uint4 loadShared16(const void* p) {
  uint4 x;
  asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(p));
  return x;
}
TY_INLINE float4 loadSharedFloats(const float* p) {
  float4 x;
  asm volatile("ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "l"(p));
  return x;
}
TY_INLINE u32 loadSharedPair(const scalar_t* p) {
  u32 x;
  asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(x) : "l"(p));
  return x;
}
TY_INLINE float loadShared(const float* p) {
  float x;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(x) : "l"(p));
  return x;
}
TY_INLINE float loadShared(const scalar_t* p) {
  scalar_t x;
  asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(x.bits) : "l"(p));
  return toFloat(x);
}

/** Waits for the threads of the block that compute: all but a warp that only copies. */
TY_INLINE void blockSync() { asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory"); }

TY_INLINE u32 addRelease(u32* p, u32 x) {
  u32 old;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;" : "=r"(old) : "l"(p), "r"(x) : "memory");
  return old;
}
TY_INLINE u32 loadAcquire(const u32* p) {
  u32 x;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
  return x;
}

/** Every block has come here, and sees what all wrote before. `target` counts the arrivals of this launch. */
TY_INLINE void gridBarrier(const Step& step, u32& target) {
  __syncthreads();
  target += gridDim.x;
  if (threadIdx.x == 0) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(step.counters) : "memory");
    while (loadAcquire(step.counters) < target) {
    }
  }
  __syncthreads();
}

/** Words between two counters: each has a line of its own. */
constexpr int COUNTER_WORDS = 32;
/** Says that this block is done with `phase`; all its computing threads have passed a blockSync since. */
TY_INLINE void arrive(const Step& step, int phase) {
  if (threadIdx.x == 0) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(step.counters + phase * COUNTER_WORDS) : "memory");
  }
}
/** Waits until `arrivals` blocks were done with `phase` in this launch, and sees what they wrote before. */
TY_INLINE void await(const Step& step, int phase, u32 arrivals) {
  if (threadIdx.x == 0) {
    while (loadAcquire(step.counters + phase * COUNTER_WORDS) < arrivals) {
    }
  }
  blockSync();
}

TY_INLINE float silu(float x) { return x / (1 + exp2Fast(-x * LOG2_E)); }

/** Cosine and sine of the angle by which a sequence's next position turns dims `dim` and dim + HALF_DIM. */
TY_INLINE float2 angleOf(const Step& step, int dim, int token) {
  const i64 at = (i64)positionOf(step, token) * HALF_DIM + dim;
  return make_float2(step.cos[at], step.sin[at]);
}

/** These dims of a head of q, k or v: turned, then to q or to the sequence's next cache position. */
TY_INLINE void storeHead(const Step& step, const Layer& layer, int head, int dim, int token, float2 angle, float upper,
                         float lower) {
  const int position = positionOf(step, token);
  if (head < HEADS + KV_HEADS) {
    const float turned = upper * angle.x - lower * angle.y;
    lower = lower * angle.x + upper * angle.y;
    upper = turned;
  }
  const i64 cached = ((i64)token * step.capacity + position) * KV_WIDTH + dim;
  scalar_t* to = head < HEADS              ? step.q + (i64)token * Q_WIDTH + head * HEAD_DIM + dim
                 : head < HEADS + KV_HEADS ? layer.keys + cached + (head - HEADS) * HEAD_DIM
                                           : layer.values + cached + (head - HEADS - KV_HEADS) * HEAD_DIM;
  fromFloat(to[0], upper);
  fromFloat(to[HALF_DIM], lower);
}

/** Rows of the accumulators that hold heads: a group of up to 8 query heads, or of up to 16. */
constexpr bool HAS_UPPER = GROUP_HEADS > 8;
constexpr int HEAD_ROWS = HAS_UPPER ? 16 : 8;
/** Floats of shared memory that attention needs: a maximum, a sum and an output of every head and warp. */
constexpr int ATTENTION_FLOATS = WARPS * HEAD_ROWS * (HEAD_DIM + 2);

/**
 * Softmax attention of one query a sequence over its cache, for many sequences: an item is a sequence and a key-value head;
 * a team of warps takes one at a time, 16 positions a warp. All query heads of the group share what is read: they are the
 * rows of the products, positions or dims the columns. Lanes own whole 16-byte pieces: the order of the inner dim is
 * permuted alike on both sides.
 */
TY_INLINE void attendCache(const Step& step, const Layer& layer, float* shared) {
  constexpr int INNER = HEAD_DIM / 32, OUTER = HEAD_DIM / 64;
  float* stats = shared;
  float* outputs = shared + 2 * WARPS * HEAD_ROWS;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int teamWarps = step.teamWarps, teams = WARPS / teamWarps, team = warp / teamWarps, member = warp % teamWarps;
  const int items = step.batch * KV_HEADS;
  for (int first = 0; first < items; first += gridDim.x * teams) {
    const int item = first + team * gridDim.x + blockIdx.x;
    const int kvHead = item % KV_HEADS, sequence = item / KV_HEADS;
    const bool isActive = item < items;
    const int end = isActive ? positionOf(step, sequence) + 1 : 0;
    float maximum[2] = {LOWEST, LOWEST}, sum[2] = {0, 0};
    float out[OUTER * 8][4] = {};
    if (member * 16 < end) {
      const scalar_t* queries = step.q + (i64)sequence * Q_WIDTH + kvHead * GROUP_HEADS * HEAD_DIM + t * 8;
      uint4 q[INNER][2] = {};
#pragma unroll
      for (int c = 0; c < INNER; c++) {
        if (g < GROUP_HEADS) q[c][0] = loadShared16(queries + g * HEAD_DIM + c * 32);
        if (HAS_UPPER && g + 8 < GROUP_HEADS) q[c][1] = loadShared16(queries + (g + 8) * HEAD_DIM + c * 32);
      }
      const i64 start = (i64)sequence * step.capacity * KV_WIDTH + kvHead * HEAD_DIM;
      const scalar_t *keys = layer.keys + start + t * 8, *values = layer.values + start + g * 8;
      for (int position = member * 16; position < end; position += teamWarps * 16) {
        uint4 k[2][INNER], v[4][OUTER];
#pragma unroll
        for (int j = 0; j < 2; j++) {
          // Positions behind the end are masked, but must not be read: their memory may hold anything.
          const scalar_t* row = keys + (i64)min(position + j * 8 + g, end - 1) * KV_WIDTH;
#pragma unroll
          for (int c = 0; c < INNER; c++) k[j][c] = loadShared16(row + c * 32);
        }
#pragma unroll
        for (int r = 0; r < 4; r++) {
          const scalar_t* row = values + (i64)min(position + 2 * t + (r & 1) + (r >> 1) * 8, end - 1) * KV_WIDTH;
#pragma unroll
          for (int c = 0; c < OUTER; c++) v[r][c] = loadShared16(row + c * 64);
        }
        float scores[2][4] = {};
#pragma unroll
        for (int j = 0; j < 2; j++) {
#pragma unroll
          for (int c = 0; c < INNER; c++) {
            const uint4 &a = q[c][0], &b = q[c][1];
            multiply(scores[j], a.x, b.x, a.y, b.y, k[j][c].x, k[j][c].y);
            multiply(scores[j], a.z, b.z, a.w, b.w, k[j][c].z, k[j][c].w);
          }
        }
        float weights[2][2] = {};
        u32 p[2][2] = {};
#pragma unroll
        for (int half = 0; half < (HAS_UPPER ? 2 : 1); half++) {
          float top = maximum[half];
#pragma unroll
          for (int j = 0; j < 2; j++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
              float& score = scores[j][2 * half + i];
              score = position + j * 8 + 2 * t + i < end ? score * (step.scale * LOG2_E) : LOWEST;
              top = fmaxf(top, score);
            }
          }
          top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
          top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
          const float factor = exp2Fast(maximum[half] - top);
          maximum[half] = top;
          sum[half] *= factor;
#pragma unroll
          for (int n = 0; n < OUTER * 8; n++) {
            out[n][2 * half] *= factor;
            out[n][2 * half + 1] *= factor;
          }
#pragma unroll
          for (int j = 0; j < 2; j++) {
            weights[0][half] = exp2Fast(scores[j][2 * half] - top);
            weights[1][half] = exp2Fast(scores[j][2 * half + 1] - top);
            sum[half] += weights[0][half] + weights[1][half];
            p[j][half] = packPair(weights[0][half], weights[1][half]);
          }
        }
#pragma unroll
        for (int c = 0; c < OUTER; c++) {
          const u32* rows[4] = {&v[0][c].x, &v[1][c].x, &v[2][c].x, &v[3][c].x};
#pragma unroll
          for (int e = 0; e < 8; e++) {
            const u32 select = e & 1 ? 0x7632 : 0x5410;
            const u32 b0 = __byte_perm(rows[0][e / 2], rows[1][e / 2], select);
            const u32 b1 = __byte_perm(rows[2][e / 2], rows[3][e / 2], select);
            multiply(out[c * 8 + e], p[0][0], p[0][1], p[1][0], p[1][1], b0, b1);
          }
        }
      }
#pragma unroll
      for (int half = 0; half < 2; half++) {
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
      }
    }
#pragma unroll
    for (int half = 0; half < (HAS_UPPER ? 2 : 1); half++) {
      const int row = warp * HEAD_ROWS + half * 8 + g;
      if (t == 0) {
        stats[2 * row] = maximum[half];
        stats[2 * row + 1] = sum[half];
      }
      // This lane's columns of the products are dims 16 t .. 16 t + 15 of each 64.
#pragma unroll
      for (int c = 0; c < OUTER; c++) {
        float* to = outputs + row * HEAD_DIM + c * 64 + t * 16;
#pragma unroll
        for (int e = 0; e < 8; e++) {
          to[e] = out[c * 8 + e][2 * half];
          to[8 + e] = out[c * 8 + e][2 * half + 1];
        }
      }
    }
    __syncthreads();
    if (isActive) {
      for (int i = threadIdx.x - team * teamWarps * 32; i < GROUP_HEADS * HEAD_DIM; i += teamWarps * 32) {
        const int row = i / HEAD_DIM, dim = i % HEAD_DIM, base = team * teamWarps * HEAD_ROWS + row;
        float top = LOWEST;
        for (int w = 0; w < teamWarps; w++) top = fmaxf(top, stats[2 * (base + w * HEAD_ROWS)]);
        float total = 0, value = 0;
        for (int w = 0; w < teamWarps; w++) {
          const int at = base + w * HEAD_ROWS;
          const float factor = exp2Fast(stats[2 * at] - top);
          total += stats[2 * at + 1] * factor;
          value += outputs[at * HEAD_DIM + dim] * factor;
        }
        const int head = kvHead * GROUP_HEADS + row;
        value = total > 0 ? value / total : 0;
        fromFloat(step.mixed[(i64)sequence * Q_WIDTH + head * HEAD_DIM + dim], value);
      }
    }
    __syncthreads();
  }
}

/** A logit and its token as one number: the larger logit, then the smaller token, is the larger number. */
TY_INLINE u64 rankOf(float logit, u32 token) {
  const u32 bits = __float_as_uint(logit);
  const u32 ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (u64)ordered << 32 | (0xffffffffu - token);
}
TY_INLINE u64 larger(u64 a, u64 b) { return a > b ? a : b; }

/** The last block to come here takes the best token of each sequence, moves on by one and resets the barrier. */
TY_INLINE void finishStep(const Step& step) {
  __shared__ bool isLast;
  blockSync();
  if (threadIdx.x == 0) isLast = addRelease(step.counters + END * COUNTER_WORDS, 1) == gridDim.x - 1;
  blockSync();
  if (!isLast) return;
  const int lane = threadIdx.x & 31;
  const i32 row = *step.made;
  for (int sequence = threadIdx.x >> 5; sequence < step.batch; sequence += WARPS) {
    u64 best = 0;
    for (int block = lane; block < gridDim.x; block += 32) {
      u64 candidate;
      asm volatile("ld.global.cg.u64 %0, [%1];" : "=l"(candidate) : "l"(step.best + (i64)sequence * gridDim.x + block));
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
}
