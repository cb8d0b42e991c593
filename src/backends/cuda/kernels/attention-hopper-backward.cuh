// What the kernels of attention-hopper-backward.cu are made of: sizes and places in shared memory, masks, the fragments'
// way to global memory, rope's inverse, and the scale of integer sums.
#pragma once
#include "hopper.cuh"

#ifndef HEAD_DIM
#define HEAD_DIM 64
#endif
#ifndef BLOCK_QUERIES
#define BLOCK_QUERIES 128
#endif
/** Tiles of keys and values, and of queries, that are in shared memory at once. */
#ifndef KEY_STAGES
#define KEY_STAGES 2
#endif
#ifndef QUERY_STAGES
#define QUERY_STAGES 2
#endif
/** How the blocks' parts of a tile of dq are added: f32 in any order, f32 in the order of their keys, or integers in any order. */
#define ANY_ORDER 0
#define IN_TURNS 1
#define INTEGERS 2
#ifndef DQ_SUMS
#define DQ_SUMS IN_TURNS
#endif
/** Warps that add to dq by turns: each waits until its part has arrived in global memory. */
#ifndef WRITERS
#define WRITERS 3
#endif

/** 1: q and k were turned by rope, and dq and dk are turned back; for heads of exactly HEAD_DIM columns, 64 or 128. */
#ifndef UNROTATES
#define UNROTATES 0
#endif

static_assert(HEAD_DIM == 64 || HEAD_DIM == 96 || HEAD_DIM == 128, "HEAD_DIM");
static_assert(BLOCK_QUERIES == 64 || (BLOCK_QUERIES == 128 && HEAD_DIM == 64), "accumulators fit the registers");

constexpr float LOG2_E = 1.4426950408889634f;
constexpr int UNBOUNDED = 1 << 29;
constexpr int BLOCK_KEYS = 128;
constexpr int PANELS = (HEAD_DIM + 63) / 64;
constexpr u32 KEY_PANEL = BLOCK_KEYS * PANEL_ROW_BYTES;
constexpr u32 KEY_BYTES = PANELS * KEY_PANEL;
constexpr u32 QUERY_PANEL = BLOCK_QUERIES * PANEL_ROW_BYTES;
constexpr u32 QUERY_BYTES = PANELS * QUERY_PANEL;
/** Of lse, delta, the first visible key, and with integer sums their factor: a row of BLOCK_QUERIES each. */
constexpr int STATISTICS = DQ_SUMS == INTEGERS ? 4 : 3;
constexpr u32 STATISTICS_BYTES = 4 * STATISTICS * BLOCK_QUERIES;
/** Each warpgroup has 64 rows of dq (of 128), or half the columns. */
constexpr bool IS_DQ_BY_ROWS = BLOCK_QUERIES == 128;
constexpr int DQ_COLUMNS = IS_DQ_BY_ROWS ? 64 * PANELS : 32 * PANELS;
constexpr u32 DQ_BYTES = 64 * DQ_COLUMNS * 4;

constexpr u32 KEYS_AT = 0;
constexpr u32 VALUES_AT = KEYS_AT + KEY_STAGES * KEY_BYTES;
constexpr u32 QUERIES_AT = VALUES_AT + KEY_STAGES * KEY_BYTES;
constexpr u32 DOUT_AT = QUERIES_AT + QUERY_STAGES * QUERY_BYTES;
constexpr u32 DS_AT = DOUT_AT + QUERY_STAGES * QUERY_BYTES;
constexpr u32 DQ_AT = DS_AT + 2 * QUERY_PANEL;
constexpr u32 STATISTICS_AT = DQ_AT + 2 * DQ_BYTES;
constexpr u32 ITEMS_AT = STATISTICS_AT + QUERY_STAGES * STATISTICS_BYTES;
constexpr u32 BARRIERS_AT = ITEMS_AT + KEY_STAGES * 16;
/** Dynamic shared memory of attention_backward. */
constexpr u32 SHARED_BYTES = BARRIERS_AT + 8 * (2 * KEY_STAGES + 4 * QUERY_STAGES + 2 * WRITERS + 2);
static_assert(SHARED_BYTES <= 232448, "shared memory of a block");

/** Whether p is kept in f32 until ds is computed; where registers are short it is taken from its rounded form. */
constexpr bool KEEPS_P = BLOCK_QUERIES == 64;

constexpr int DS_IS_FULL = 1;
constexpr int DS_IS_EMPTY = 2;

TY_INLINE float exp2Fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

TY_INLINE float lowFloat(u32 x) {
#if TY_DTYPE == 1
  return __uint_as_float(x << 16);
#else
  return toFloat(f16_t{(u16)x});
#endif
}
TY_INLINE float highFloat(u32 x) {
#if TY_DTYPE == 1
  return __uint_as_float(x & 0xffff0000u);
#else
  return toFloat(f16_t{(u16)(x >> 16)});
#endif
}

/** Four 8 x 8 matrices, each transposed: lane 8 m + i has the address of column i of matrix m. */
TY_INLINE void storeMatricesTransposed(u32 address, u32 r0, u32 r1, u32 r2, u32 r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(r0), "r"(r1),
               "r"(r2), "r"(r3)
               : "memory");
}
TY_INLINE float2 loadShared8(u32 address) {
  float2 x;
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(address) : "memory");
  return x;
}
TY_INLINE float loadSharedFloat(u32 address) {
  float x;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(address) : "memory");
  return x;
}
TY_INLINE int loadSharedInt(u32 address) {
  int x;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
  return x;
}

/**
 * Transposes 4 x 4 words among the four lanes of a quad: lane t gives the words t of four rows and gets row t. What was
 * two columns of each of four tiles of 8 becomes the 8 columns of one of them.
 */
TY_INLINE void transposeQuad(u32 (&a)[4]) {
  const bool isOdd = threadIdx.x & 1;
  const bool isHigh = threadIdx.x & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const u32 got = __shfl_xor_sync(0xffffffffu, isOdd ? a[i] : a[i + 1], 1);
    if (isOdd) a[i] = got;
    else a[i + 1] = got;
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const u32 got = __shfl_xor_sync(0xffffffffu, isHigh ? a[i] : a[i + 2], 2);
    if (isHigh) a[i] = got;
    else a[i + 2] = got;
  }
}

/** Which queries and keys meet: query i sees keys from i + firstOffset on, up to i + endOffset. */
struct Bounds {
  int queries;
  int keys;
  int firstOffset;
  int endOffset;

  TY_INLINE Bounds(int queries, int keys, int isCausal, int window)
      : queries(queries),
        keys(keys),
        firstOffset(window > 0 ? keys - queries - window + 1 : -UNBOUNDED),
        endOffset(isCausal ? keys - queries + 1 : UNBOUNDED) {}
  /** Tiles of queries that see one of the keys from key0 on are tileFirst .. tileEnd - 1 (documents may end them sooner). */
  TY_INLINE int tileFirst(int key0) const { return max(0, key0 + 1 - endOffset) / BLOCK_QUERIES; }
  TY_INLINE int tileEnd(int key0) const {
    const int end = min(queries, max(0, key0 + BLOCK_KEYS - firstOffset));
    return (end + BLOCK_QUERIES - 1) / BLOCK_QUERIES;
  }
};

/** The larger of two floats that are not negative, or NaN if one is: the order of their bits. */
TY_INLINE float maximumOrNan(float a, float b) {
  return __uint_as_float(max(__float_as_uint(a), __float_as_uint(b)));
}
TY_INLINE float warpMaximumOrNan(float x) {
  return __uint_as_float(__reduce_max_sync(0xffffffffu, __float_as_uint(x)));
}

/**
 * The power of two that makes integers of the parts of a row of dq whose entries cannot exceed `bound`: that becomes less
 * than 2^30. NaN for a bound that is not finite. Its inverse is a normal number.
 */
TY_INLINE float integerFactor(float bound) {
  const int exponent = (__float_as_int(bound) >> 23) & 255;
  return __int_as_float(exponent == 255 ? 0x7fc00000 : (283 - max(exponent, 30)) << 23);
}

/**
 * Stores 64 rows of a warpgroup, times `factor`: element 4 j + i of lane 4 g + t as in hopper.cuh. Of the columns only
 * `columnCount`, a multiple of 8; the others are padding.
 */
template <int COLUMNS>
TY_INLINE void storeRows(
    scalar_t* to, i64 stride, int rowCount, int columnCount, const float (&x)[COLUMNS / 2], float factor) {
  const int lane = threadIdx.x & 31;
  const int row = ((threadIdx.x >> 5) & 3) * 16 + (lane >> 2);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    scalar_t* const target = to + (row + 8 * half) * stride + (lane & 3) * 8;
#pragma unroll
    for (int j = 0; j < COLUMNS / 8; j += 4) {
      u32 words[4];
#pragma unroll
      for (int i = 0; i < 4; i++)
        words[i] = packScalars(x[4 * (j + i) + 2 * half] * factor, x[4 * (j + i) + 2 * half + 1] * factor);
      transposeQuad(words);
      if (row + 8 * half < rowCount && (lane & 3) * 8 + j * 8 < columnCount)
        *reinterpret_cast<uint4*>(target + j * 8) = make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
}

/** Rope's tables, f32 [positions, HEAD_DIM / 2], and the position of each row of q and k. */
struct Rotation {
  const int* positions;
  const float* cosines;
  const float* sines;

  /**
   * Turns pairs (a, b) of `PAIRS` fragments of 8 columns back; a begins at the head's first column. `row`: of the fragment.
   * Rows after `last` are padding, and turned as that one is: where a condition gave them position 0 instead, CUDA 13.0's
   * code read the tables at wrong addresses.
   */
  template <int PAIRS>
  TY_INLINE void undo(float* a, float* b, i64 row, int below, i64 last) const {
    const i64 own = row + 8 * below;
    const i64 at = (i64)positions[own < last ? own : last] * (HEAD_DIM / 2) + 2 * (threadIdx.x & 3);
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
      const float2 c = *reinterpret_cast<const float2*>(cosines + at + 8 * j);
      const float2 s = *reinterpret_cast<const float2*>(sines + at + 8 * j);
      const int i = 4 * j + 2 * below;
      const float a0 = a[i], a1 = a[i + 1], b0 = b[i], b1 = b[i + 1];
      a[i] = a0 * c.x + b0 * s.x;
      a[i + 1] = a1 * c.y + b1 * s.y;
      b[i] = b0 * c.x - a0 * s.x;
      b[i + 1] = b1 * c.y - a1 * s.y;
    }
  }
};
