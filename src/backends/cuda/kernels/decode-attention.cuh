// Attention of a decoding step: one query a sequence. Keys and values come to shared memory by the copy engine, a chunk of
// positions of one key-value head at a time, ahead of the step; what the step itself appends is patched in when it is there.
// The query heads of a group are the rows of the products, 16 positions at a time their columns.
#pragma once
#include "decode-step.cuh"
#include "hopper.cuh"

/** Positions of a chunk, and warps that share one: each takes 16. */
constexpr int CHUNK_POSITIONS = 4096 / HEAD_DIM, UNITS = CHUNK_POSITIONS / 16;
/** A copy brings 32 rows of 64 columns: of weights, or positions of a cache. */
constexpr int BOX_ROWS = 32;
constexpr u32 BOX_BYTES = BOX_ROWS * PANEL_ROW_BYTES, CHUNK_BYTES = 4 * BOX_BYTES;
/** Tensor maps: qkv, o, gateUp, down, keys and values of each layer, and the head. */
constexpr int LAYER_MAPS = 6, GATE_UP_MAP = 2, KEYS_MAP = 4;

/** A policy of the second-level cache for what is read once a step: it must not drive out what blocks tell one another. */
TY_INLINE u64 readOncePolicy() {
  u64 policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
/** copyBox for what is read once. */
TY_INLINE void copyBoxOnce(u32 shared, const TensorMap& map, u32 barrier, int c0, int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(shared),
      "l"(&map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "l"(readOncePolicy())
      : "memory");
}

/** Brings a chunk, two boxes of keys and two of values: one below the other, or side by side where heads are wide. One thread. */
TY_INLINE void copyChunk(u32 to, const TensorMap* maps, u32 barrier, int sequence, int kvHead, int chunk) {
#pragma unroll
  for (int box = 0; box < 4; box++) {
    const int half = box % 2, column = kvHead * HEAD_DIM + (HEAD_DIM == 64 ? 0 : 64 * half);
    const int position = chunk * CHUNK_POSITIONS + (HEAD_DIM == 64 ? BOX_ROWS * half : 0);
    copyBoxOnce(to + box * BOX_BYTES, maps[KEYS_MAP + box / 2], barrier, column, position, sequence, 0);
  }
}
/** Where 16 bytes of a position lie from the chunk's keys or values on. */
TY_INLINE u32 inChunk(u32 base, int row, int piece) {
  return base + (HEAD_DIM == 64 ? 0 : piece / 8 * BOX_BYTES) + row * PANEL_ROW_BYTES + ((piece % 8 ^ (row & 7)) << 4);
}

TY_INLINE void loadMatrices(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
TY_INLINE void loadTransposed(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
TY_INLINE void storeShared16(u32 address, uint4 x) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}

/** Softmax attention of a group of query heads, by one warp: the heads are the rows of the products. */
struct HeadAttention {
  static constexpr int STEPS = HEAD_DIM / 16;
  u32 q[STEPS][4];
  float maximum[2] = {LOWEST, LOWEST}, sum[2] = {0, 0};
  float out[2 * STEPS][4] = {};

  /** Takes 16 positions of a chunk, from row `first` on, `count` of which there are. */
  TY_INLINE void take(u32 chunk, int first, int count, float scale) {
    const u32 keys = chunk, values = chunk + 2 * BOX_BYTES;
    const int lane = threadIdx.x & 31, t = lane & 3, row = lane & 7, matrix = lane >> 3;
    float scores[2][4] = {};
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      u32 k[4];
      loadMatrices(k, inChunk(keys, first + matrix / 2 * 8 + row, 2 * s + matrix % 2));
      multiply(scores[0], q[s][0], q[s][1], q[s][2], q[s][3], k[0], k[1]);
      multiply(scores[1], q[s][0], q[s][1], q[s][2], q[s][3], k[2], k[3]);
    }
    u32 p[2][2] = {};
#pragma unroll
    for (int half = 0; half < (HAS_UPPER ? 2 : 1); half++) {
      float top = maximum[half];
#pragma unroll
      for (int j = 0; j < 2; j++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
          float& score = scores[j][2 * half + i];
          score = j * 8 + 2 * t + i < count ? score * scale : LOWEST;
          top = fmaxf(top, score);
        }
      }
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      const float factor = exp2Fast(maximum[half] - top);
      maximum[half] = top;
      sum[half] *= factor;
#pragma unroll
      for (int n = 0; n < 2 * STEPS; n++) {
        out[n][2 * half] *= factor;
        out[n][2 * half + 1] *= factor;
      }
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const float low = exp2Fast(scores[j][2 * half] - top), high = exp2Fast(scores[j][2 * half + 1] - top);
        sum[half] += low + high;
        p[j][half] = packPair(low, high);
      }
    }
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      u32 v[4];
      loadTransposed(v, inChunk(values, first + matrix % 2 * 8 + row, 2 * s + matrix / 2));
      multiply(out[2 * s], p[0][0], p[0][1], p[1][0], p[1][1], v[0], v[1]);
      multiply(out[2 * s + 1], p[0][0], p[0][1], p[1][0], p[1][1], v[2], v[3]);
    }
  }

  /** Maximum and sum of each head to `stats`, [head row][2]; what was summed to `outputs`, [head row][HEAD_DIM]. */
  TY_INLINE void store(float* stats, float* outputs) {
    const int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
#pragma unroll
    for (int half = 0; half < (HAS_UPPER ? 2 : 1); half++) {
      sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
      sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
      const int row = half * 8 + g;
      if (t == 0) {
        stats[2 * row] = maximum[half];
        stats[2 * row + 1] = sum[half];
      }
#pragma unroll
      for (int n = 0; n < 2 * STEPS; n++) {
        *reinterpret_cast<float2*>(outputs + row * HEAD_DIM + n * 8 + 2 * t) = make_float2(out[n][2 * half], out[n][2 * half + 1]);
      }
    }
  }
};

/** The key and value that this step appended, 16 bytes a lane. */
struct Newest {
  static constexpr int PIECES = HEAD_DIM / 8;
  uint4 x;

  /** They go to row `row` of the chunk; the values up to row `end` become zeros, because what is there may be anything. */
  TY_INLINE void patch(u32 chunk, int row, int end) const {
    const int lane = threadIdx.x & 31, piece = lane & 15;
    const u32 keys = chunk, values = chunk + 2 * BOX_BYTES;
    if (piece < PIECES) storeShared16(inChunk(lane < 16 ? keys : values, row, piece), x);
    for (int i = lane; i < (end - row - 1) * PIECES; i += 32) {
      storeShared16(inChunk(values, row + 1 + i / PIECES, i % PIECES), make_uint4(0, 0, 0, 0));
    }
    // The next copy into this place must come after these.
    fenceAsyncProxy();
    __syncwarp();
  }
};

/** What the warps from `first` to before `end` have of a head, the row `row` of theirs. */
struct MergedHead {
  float top = LOWEST, total = 0;

  TY_INLINE float value(const float* stats, const float* outputs, int first, int end, int row, int dim) {
    float value = 0;
    for (int w = first; w < end; w++) top = fmaxf(top, stats[2 * (w * HEAD_ROWS + row)]);
    for (int w = first; w < end; w++) {
      const int at = w * HEAD_ROWS + row;
      const float factor = exp2Fast(stats[2 * at] - top);
      total += stats[2 * at + 1] * factor;
      value += outputs[at * HEAD_DIM + dim] * factor;
    }
    return value / total;
  }

  /** Two columns: less to load for who has many; few sequences have a thread for each column, and are 1 to 4 % slower with pairs. */
  TY_INLINE float2 pair(const float* stats, const float* outputs, int first, int end, int row, int dim) {
    float2 value = make_float2(0, 0);
    for (int w = first; w < end; w++) top = fmaxf(top, stats[2 * (w * HEAD_ROWS + row)]);
    for (int w = first; w < end; w++) {
      const int at = w * HEAD_ROWS + row;
      const float factor = exp2Fast(stats[2 * at] - top);
      const float2 part = *reinterpret_cast<const float2*>(outputs + at * HEAD_DIM + dim);
      total += stats[2 * at + 1] * factor;
      value.x += part.x * factor;
      value.y += part.y * factor;
    }
    return make_float2(value.x / total, value.y / total);
  }
};
