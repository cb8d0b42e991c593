// What the attention kernels for mma.sync (sm_80 and up) share: tiles of [rows, HEAD_DIM] 16-bit elements in swizzled
// shared memory, the loads of matrix fragments from them, and which keys a query sees.
//
// Compiled for: TY_DTYPE 1 (bf16) or 2 (f16); HEAD_DIM, the head size padded to a multiple of 16 (the real one is an
// argument, the rest is zero); ALIGNED 1 if every address and row stride is a multiple of 16 bytes, else 0.
#pragma once
#include "attention-visibility.cuh"
#include "prelude.cuh"

#ifndef HEAD_DIM
#define HEAD_DIM 64
#endif
#ifndef ALIGNED
#define ALIGNED 1
#endif

static_assert(sizeof(scalar_t) == 2, "attention-mma serves bf16 and f16");
static_assert(HEAD_DIM % 16 == 0 && HEAD_DIM >= 16 && HEAD_DIM <= 256, "HEAD_DIM");

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;
#define NEGATIVE_INFINITY __int_as_float(0xff800000)
#define POSITIVE_INFINITY __int_as_float(0x7f800000)

// ---- Instructions ----

TY_INLINE float exp2Fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
TY_INLINE float log2Fast(float x) {
  float y;
  asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

TY_INLINE u32 packScalars(float low, float high) {
#if TY_DTYPE == 1
  return packBf16(low, high);
#else
  return packF16(low, high);
#endif
}

/** c += a b for a [16, 16], b [16, 8], one warp. Lane 4g + t holds c of rows g, g + 8 and columns 2t, 2t + 1. */
TY_INLINE void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if TY_DTYPE == 1
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

TY_INLINE void loadMatrix(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
TY_INLINE void loadMatrixTransposed(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

TY_INLINE u32 sharedAddress(const void* p) { return (u32)__cvta_generic_to_shared(p); }

/** Copies 16 bytes to shared memory without registers, or (reading nothing) writes 16 zero bytes. */
TY_INLINE void copyAsync16(u32 shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}
TY_INLINE void copyAsync16(u32 shared, const void* global, bool isValid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(isValid ? 16 : 0)
               : "memory");
}
TY_INLINE void copyAsync4(u32 shared, const void* global, bool isValid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global), "r"(isValid ? 4 : 0)
               : "memory");
}
TY_INLINE void commitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/** Waits for all copies of this thread; a barrier must follow before others read them. */
TY_INLINE void waitForCopies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

TY_INLINE void storeShared4(u32 address, u32 x) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}
TY_INLINE void storeShared16(u32 address, uint4 x) {
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
               : "memory");
}
TY_INLINE uint4 loadShared16(u32 address) {
  uint4 x;
  asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(address)
               : "memory");
  return x;
}

// ---- Tiles in shared memory ----
// A row is HEAD_DIM / 8 chunks of 16 bytes. Chunk c of row r lies at place c ^ swizzleOf(r), so that the same chunk of
// eight consecutive rows (what ldmatrix reads at once) falls into eight different groups of banks.

constexpr int CHUNKS = HEAD_DIM / 8;
constexpr int ROW_BYTES = HEAD_DIM * 2;
constexpr int SWIZZLE_MASK = CHUNKS % 8 == 0 ? 7 : CHUNKS % 4 == 0 ? 3 : 1;

TY_INLINE int swizzleOf(int row) {
  return SWIZZLE_MASK == 7 ? row & 7 : SWIZZLE_MASK == 3 ? (row >> 1) & 3 : (row >> 2) & 1;
}

/** Neighbouring threads that copy a row together: as many as keep the swizzle of a thread's chunks the same. */
constexpr int ROW_THREADS = SWIZZLE_MASK + 1;

/**
 * Copies tiles of ROWS rows that follow one another in memory into shared memory. A thread keeps its place in a row and
 * steps down the rows, so that a copy costs it one addition.
 */
template <int ROWS, int THREADS>
struct TileLoader {
  static constexpr int ROWS_PER_STEP = THREADS / ROW_THREADS;
  static constexpr int STEPS = (ROWS + ROWS_PER_STEP - 1) / ROWS_PER_STEP;
  static_assert(ROWS % ROWS_PER_STEP == 0 || STEPS == 1, "the next tile begins where the last step ends");
  static_assert(STEPS == 1 || ROWS_PER_STEP % 8 == 0, "the swizzle repeats every 8 rows");

  const u8* from;
  i64 stepBytes;
  /** Where the thread's first chunk goes in a tile. */
  u32 target;
  int row;
  /** Columns from the thread's first one to the end of the row. */
  int columnCount;

  /** `source` is the first element of the first tile, `stride` the elements from row to row. */
  TY_INLINE TileLoader(const scalar_t* source, i64 stride, int headDim) {
    const int chunk = threadIdx.x % ROW_THREADS;
    row = threadIdx.x / ROW_THREADS;
    columnCount = headDim - chunk * 8;
    target = row * ROW_BYTES + ((chunk ^ swizzleOf(row)) << 4);
    stepBytes = (STEPS == 1 ? ROWS : ROWS_PER_STEP) * stride * 2;
    from = reinterpret_cast<const u8*>(source + row * stride + chunk * 8);
  }

  /** Starts the copy of the next tile, of which `rowCount` rows exist; the rest becomes zero. */
  TY_INLINE void load(u32 tile, int rowCount, int headDim) {
    const bool isWhole = rowCount >= ROWS && headDim == HEAD_DIM;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      const int r = row + step * ROWS_PER_STEP;
      if (ROWS % ROWS_PER_STEP == 0 || r < ROWS) {
        const u32 to = tile + target + step * ROWS_PER_STEP * ROW_BYTES;
#pragma unroll
        for (int n = 0; n < CHUNKS / ROW_THREADS; n++) {
#if ALIGNED
          if (isWhole) {
            copyAsync16(to + n * ROW_THREADS * 16, from + n * ROW_THREADS * 16);
          } else {
            const bool isValid = r < rowCount && n * ROW_THREADS * 8 < columnCount;
            copyAsync16(to + n * ROW_THREADS * 16, from + n * ROW_THREADS * 16, isValid);
          }
#else
          const scalar_t* source = reinterpret_cast<const scalar_t*>(from) + n * ROW_THREADS * 8;
          u32 x[8];
#pragma unroll
          for (int c = 0; c < 8; c++)
            x[c] = isWhole || (r < rowCount && n * ROW_THREADS * 8 + c < columnCount) ? source[c].bits : 0u;
          storeShared16(
              to + n * ROW_THREADS * 16,
              make_uint4(x[0] | x[1] << 16, x[2] | x[3] << 16, x[4] | x[5] << 16, x[6] | x[7] << 16));
#endif
        }
      }
      from += stepBytes;
    }
  }
};

/** Where a lane's part of a fragment lies in a tile, but for the row and column of the fragment. */
struct LaneOffset {
  u32 row;
  u32 chunk;
};
/** For a of `multiply` from [m, k] rows, and (transposed loads) for b from [k, n] rows. */
TY_INLINE LaneOffset laneOfRows() {
  const int lane = threadIdx.x & 31;
  return {(u32)((lane & 15) * ROW_BYTES), (u32)((lane >> 4 ^ swizzleOf(lane & 15)) << 4)};
}
/** For b of two neighbouring n-tiles from [n, k] rows. */
TY_INLINE LaneOffset laneOfColumns() {
  const int lane = threadIdx.x & 31;
  const int row = (lane & 7) + (lane >> 4) * 8;
  return {(u32)(row * ROW_BYTES), (u32)(((lane >> 3 & 1) ^ swizzleOf(row)) << 4)};
}
/** Address of the fragment at row `row` (a multiple of 8) and chunk `chunk` (even, a constant after unrolling). */
TY_INLINE u32 fragmentAddress(u32 tile, LaneOffset lane, int row, int chunk) {
  return tile + lane.row + (lane.chunk ^ (u32)((chunk & SWIZZLE_MASK) << 4)) +
         (u32)(row * ROW_BYTES + ((chunk & ~SWIZZLE_MASK) << 4));
}

/**
 * c[m][n] = a b^T: a is rows `rowA` .. of tile A (16 M of them), b is the 8 N rows of tile B; both over HEAD_DIM columns.
 */
template <int M, int N>
TY_INLINE void multiplyTiles(float (&c)[M][N][4], u32 tileA, int rowA, LaneOffset laneA, u32 tileB, LaneOffset laneB) {
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
      for (int r = 0; r < 4; r++) c[m][n][r] = 0.0f;
#pragma unroll
  for (int k = 0; k < HEAD_DIM / 16; k++) {
    u32 a[M][4];
#pragma unroll
    for (int m = 0; m < M; m++) loadMatrix(a[m], fragmentAddress(tileA, laneA, 16 * m, 2 * k) + rowA * ROW_BYTES);
#pragma unroll
    for (int n = 0; n < N / 2; n++) {
      u32 b[4];
      loadMatrix(b, fragmentAddress(tileB, laneB, 16 * n, 2 * k));
#pragma unroll
      for (int m = 0; m < M; m++) {
        multiply(c[m][2 * n], a[m], b[0], b[1]);
        multiply(c[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

/** c[m][d] += p b: p [16 M, 8 N] from registers (accumulators of `multiplyTiles`, packed), b the 8 N rows of a tile. */
template <int M, int N, int D>
TY_INLINE void multiplyRows(float (&c)[M][D][4], const u32 (&p)[M][N][2], u32 tile, LaneOffset lane) {
#pragma unroll
  for (int k = 0; k < N / 2; k++) {
#pragma unroll
    for (int d = 0; d < D / 2; d++) {
      u32 b[4];
      loadMatrixTransposed(b, fragmentAddress(tile, lane, 16 * k, 2 * d));
#pragma unroll
      for (int m = 0; m < M; m++) {
        const u32 a[4] = {p[m][2 * k][0], p[m][2 * k][1], p[m][2 * k + 1][0], p[m][2 * k + 1][1]};
        multiply(c[m][2 * d], a, b[0], b[1]);
        multiply(c[m][2 * d + 1], a, b[2], b[3]);
      }
    }
  }
}

/**
 * Writes a warp's accumulators [16 M, 8 D], times factor[m][upper or lower half], to rows `row` .. of a matrix, of which
 * `rowCount` rows from `row` on and `columnCount` columns exist. The warp's rows of tile `tile` are overwritten: nobody
 * else may be reading them.
 */
template <int M, int D>
TY_INLINE void storeRows(
    scalar_t* target,
    i64 stride,
    int rowCount,
    int columnCount,
    const float (&c)[M][D][4],
    const float (&factor)[M][2],
    u32 tile) {
  const int lane = threadIdx.x & 31;
  const int group = lane >> 2;
  const int pair = lane & 3;
#if ALIGNED
  __syncwarp();
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int d = 0; d < D; d++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = 16 * m + 8 * half + group;
        const float f = factor[m][half];
        storeShared4(
            tile + row * ROW_BYTES + ((d ^ swizzleOf(row)) << 4) + pair * 4,
            packScalars(c[m][d][2 * half] * f, c[m][d][2 * half + 1] * f));
      }
  __syncwarp();
#pragma unroll
  for (int step = 0; step < M * D / 2; step++) {
    const int i = step * 32 + lane;
    const int row = i / D;
    const int chunk = i % D;
    const uint4 x = loadShared16(tile + row * ROW_BYTES + ((chunk ^ swizzleOf(row)) << 4));
    if (row < rowCount && chunk * 8 < columnCount) *reinterpret_cast<uint4*>(target + row * stride + chunk * 8) = x;
  }
#else
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int d = 0; d < D; d++)
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const int row = 16 * m + (r >> 1) * 8 + group;
        const int column = 8 * d + 2 * pair + (r & 1);
        if (row < rowCount && column < columnCount)
          target[row * stride + column] = cast<scalar_t>(c[m][d][r] * factor[m][r >> 1]);
      }
#endif
}
