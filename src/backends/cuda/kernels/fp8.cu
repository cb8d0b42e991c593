// Casts of a 16-bit matrix [R, C] to 8-bit floats, in both orders and in one pass: products read factors along the summed
// dim only. What is cast may be an activation of what is read. Compute capability 8.9 and newer.
//
// A block has a tile of 128 x 128 numbers: a thread 8 neighbouring columns of 4 neighbouring rows at a time, so that it
// can transpose bytes in registers, four rows to a word, and words in shared memory. R is a multiple of 16, C of 8.
//
// FORMAT 0 e4m3, 1 e5m2. BY_ROWS 0: one scale; 1: one for each row of both orders. SOURCE, what is cast:
//   0 x   1 gelu(x)   2 x gelu'(other)   3 silu(gate) up of x = gate|up   4 dGate|dUp of x = dOut, other = gate|up
#include "activation.cuh"
#include "fp8.cuh"

#ifndef SOURCE
#define SOURCE 0
#define BY_ROWS 0
#endif

constexpr int TILE = 128, THREADS = 256, GROUP = 8, PASSES = 2, PASS_ROWS = 64;
/** Source 4 makes two columns of each that it reads: the first half of its tile is dGate, the second dUp. */
constexpr int TILE_COLUMNS = SOURCE == 4 ? TILE / 2 : TILE;
/** Steps that the scales follow: FP8_HISTORY of core/fp8.ts. */
constexpr int HISTORY = 16;
/** Numbers from slot to slot: FP8_SLOT_STRIDE of core/fp8.ts. */
constexpr int STRIDE = 4;
typedef Group<scalar_t, GROUP> group_t;

/** What is read: row r of x and of other. `columns` are those of the result; of one half for the gated sources. */
struct Source {
  const scalar_t* x;
  const scalar_t* other;
  i64 xStride, otherStride;
  int columns;
};

/** Eight numbers of a row, as they are read and as they are cast. */
struct Numbers {
  group_t a, b, c;

  TY_INLINE void load(const Source& from, i64 row, int column) {
    const scalar_t* x = from.x + row * from.xStride + column;
    const scalar_t* other = from.other + row * from.otherStride + column;
    a = loadGroup<GROUP>(x);
    if constexpr (SOURCE == 2 || SOURCE == 4) b = loadGroup<GROUP>(other);
    if constexpr (SOURCE == 3) b = loadGroup<GROUP>(x + from.columns);
    if constexpr (SOURCE == 4) c = loadGroup<GROUP>(other + from.columns);
  }
  /** @param isSecond  source 4: dUp instead of dGate */
  TY_INLINE float at(int j, bool isSecond) const {
    const float x = floatAt(a, j);
    if constexpr (SOURCE == 0) return x;
    if constexpr (SOURCE == 1) return GeluTanh()(x);
    if constexpr (SOURCE == 2) return x * GeluTanh().slope(floatAt(b, j));
    const float gate = SOURCE == 3 ? x : floatAt(b, j), s = sigmoid(gate);
    if constexpr (SOURCE == 3) return gate * s * floatAt(b, j);
    return isSecond ? x * gate * s : x * floatAt(c, j) * siluSlope(gate, s);
  }
};

/** Which part of the tile a thread has. */
struct Place {
  int lane, team;
  bool isSecond;
  /** Of the result, and of what is read. */
  int column, sourceColumn;
  bool isInside;

  TY_INLINE explicit Place(int columns) : lane(threadIdx.x & 15), team(threadIdx.x >> 4) {
    sourceColumn = blockIdx.x * TILE_COLUMNS + lane * GROUP % TILE_COLUMNS;
    isInside = sourceColumn < columns;
    isSecond = SOURCE == 4 && lane * GROUP >= TILE_COLUMNS;
    column = isSecond ? columns + sourceColumn : sourceColumn;
  }
  /** First of the thread's four rows in a pass. */
  TY_INLINE int row(int pass) const { return blockIdx.y * TILE + pass * PASS_ROWS + team * 4; }
};

/**
 * The transposed tile: 32 words of four rows for each of 128 columns. Word w of column c lies at w ^ 2 (c / 8), so that
 * neither the threads of a warp that write one word each nor those that read four meet in a bank.
 */
struct Transposed {
  u32 at[TILE][TILE / 4];

  TY_INLINE void put(int lane, int j, int word, u32 bytes) { at[lane * GROUP + j][word ^ (2 * lane)] = bytes; }
  TY_INLINE uint4 take(int column, int quarter) const {
    const int lane = column / GROUP;
    const uint4 words = reinterpret_cast<const uint4*>(at[column])[quarter ^ (lane >> 1)];
    return lane & 1 ? make_uint4(words.z, words.w, words.x, words.y) : words;
  }
};

/**
 * rows [R, C] and columns [C, R] of the numbers, times the scale (BY_ROWS: of row r, and of column c; powers of two whose
 * inverses are given) and rounded. partials [blocks of rows, C], if any, get sums over the rows of a block.
 * Grid: (C / TILE, R / TILE) rounded up.
 */
extern "C" __global__ void __launch_bounds__(THREADS)
    fp8_cast(u8* __restrict__ rows, u8* __restrict__ columns, const float* rowScale, const float* columnScale, u32* amax,
             float* __restrict__ partials, const scalar_t* __restrict__ x, const scalar_t* __restrict__ other,
             i64 xStride, i64 otherStride, int rowCount, int columnCount) {
  __shared__ Transposed tile;
  __shared__ float sums[16][TILE + 4];
  __shared__ float shared[32];
  constexpr int GATES = SOURCE == 4 ? 2 : 1;
  const Source from = {x, other, xStride, otherStride, columnCount / GATES};
  const Place place(from.columns);
  const float scale = BY_ROWS ? 1.f : *rowScale;
  float columnFactor[GROUP];
  if constexpr (BY_ROWS) {
#pragma unroll
    for (int j = 0; j < GROUP; j++) columnFactor[j] = place.isInside ? 1.f / columnScale[place.column + j] : 0.f;
  }
  float most = 0, columnSums[GROUP] = {};

#pragma unroll
  for (int pass = 0; pass < PASSES; pass++) {
    const int row = place.row(pass);
    if (!place.isInside || row >= rowCount) continue;
    Numbers numbers[4];
#pragma unroll
    for (int i = 0; i < 4; i++) numbers[i].load(from, row + i, place.sourceColumn);
    u32 low[4], high[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float v[GROUP], scaled[GROUP];
      const float factor = BY_ROWS ? 1.f / rowScale[row + i] : scale;
#pragma unroll
      for (int j = 0; j < GROUP; j++) {
        v[j] = numbers[i].at(j, place.isSecond);
        most = fmaxf(most, fabsf(v[j]));
        columnSums[j] += v[j];
        scaled[j] = v[j] * factor;
      }
      const uint2 bytes = {packFp8(scaled[0], scaled[1], scaled[2], scaled[3]),
                           packFp8(scaled[4], scaled[5], scaled[6], scaled[7])};
      *reinterpret_cast<uint2*>(rows + (i64)(row + i) * columnCount + place.column) = bytes;
      low[i] = bytes.x;
      high[i] = bytes.y;
      if constexpr (BY_ROWS) {
#pragma unroll
        for (int j = 0; j < GROUP; j++) v[j] *= columnFactor[j];
        low[i] = packFp8(v[0], v[1], v[2], v[3]);
        high[i] = packFp8(v[4], v[5], v[6], v[7]);
      }
    }
    transposeBytes(low);
    transposeBytes(high);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      tile.put(place.lane, j, pass * 16 + place.team, low[j]);
      tile.put(place.lane, j + 4, pass * 16 + place.team, high[j]);
    }
  }
  if (partials != nullptr) {
#pragma unroll
    for (int j = 0; j < GROUP; j++) sums[place.team][place.lane * GROUP + j] = columnSums[j];
  }
  __syncthreads();

#pragma unroll
  for (int k = 0; k < TILE * TILE / 16 / THREADS; k++) {
    const int unit = threadIdx.x + k * THREADS, inTile = unit >> 3, quarter = unit & 7;
    const int ofHalf = blockIdx.x * TILE_COLUMNS + inTile % TILE_COLUMNS;
    const int column = inTile < TILE_COLUMNS ? ofHalf : from.columns + ofHalf;
    const int row = blockIdx.y * TILE + quarter * 16;
    if (ofHalf >= from.columns || row >= rowCount) continue;
    *reinterpret_cast<uint4*>(columns + (i64)column * rowCount + row) = tile.take(inTile, quarter);
  }
  if (partials != nullptr && threadIdx.x < TILE) {
    const int ofHalf = blockIdx.x * TILE_COLUMNS + threadIdx.x % TILE_COLUMNS;
    const int column = threadIdx.x < TILE_COLUMNS ? ofHalf : from.columns + ofHalf;
    float sum = 0;
#pragma unroll
    for (int team = 0; team < 16; team++) sum += sums[team][threadIdx.x];
    if (ofHalf < from.columns) partials[(i64)blockIdx.y * columnCount + column] = sum;
  }
  if (amax != nullptr) {
    most = blockMax(most, shared);
    if (threadIdx.x == 0) raise(amax, most);
  }
}

/** Largest absolute values of what will be cast, of each row and of each column. */
extern "C" __global__ void __launch_bounds__(THREADS)
    fp8_extremes(u32* rowMost, u32* columnMost, const scalar_t* __restrict__ x, const scalar_t* __restrict__ other,
                 i64 xStride, i64 otherStride, int rowCount, int columnCount) {
  __shared__ float columnsOf[16][TILE + 4];
  constexpr int GATES = SOURCE == 4 ? 2 : 1;
  const Source from = {x, other, xStride, otherStride, columnCount / GATES};
  const Place place(from.columns);
  float columnLargest[GROUP] = {};
#pragma unroll
  for (int pass = 0; pass < PASSES; pass++) {
    const int row = place.row(pass);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float ofRow = 0;
      if (place.isInside && row < rowCount) {
        Numbers numbers;
        numbers.load(from, row + i, place.sourceColumn);
#pragma unroll
        for (int j = 0; j < GROUP; j++) {
          const float v = fabsf(numbers.at(j, place.isSecond));
          ofRow = fmaxf(ofRow, v);
          columnLargest[j] = fmaxf(columnLargest[j], v);
        }
      }
#pragma unroll
      for (int step = 8; step > 0; step >>= 1) ofRow = fmaxf(ofRow, __shfl_xor_sync(0xffffffffu, ofRow, step));
      if (place.lane == 0 && row < rowCount) raise(rowMost + row + i, ofRow);
    }
  }
#pragma unroll
  for (int j = 0; j < GROUP; j++) columnsOf[place.team][place.lane * GROUP + j] = columnLargest[j];
  __syncthreads();
  if (threadIdx.x < TILE) {
    const int ofHalf = blockIdx.x * TILE_COLUMNS + threadIdx.x % TILE_COLUMNS;
    const int column = threadIdx.x < TILE_COLUMNS ? ofHalf : from.columns + ofHalf;
    float most = 0;
#pragma unroll
    for (int team = 0; team < 16; team++) most = fmaxf(most, columnsOf[team][threadIdx.x]);
    if (ofHalf < from.columns) raise(columnMost + column, most);
  }
}

TY_KERNEL fp8_zero(u32* x, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) x[i] = 0;
}

/** The largest power of two that brings amax to at most `largest`; 1 where there is nothing to bring. */
TY_INLINE float scaleFor(float amax, float largest) {
  if (!(amax > 0) || amax - amax != 0) return 1.f;
  const float power = __uint_as_float(__float_as_uint(largest / amax) & 0x7f800000u);
  return fminf(power, 8.507059173023462e37f);  // 2^126, whose inverse is a normal number
}

/** Largest absolute values become what the rows' bytes are multiplied by: 1 / scale. */
TY_KERNEL fp8_inverses(float* x, int count, float largest) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) x[i] = 1.f / scaleFor(x[i], largest);
}

/** A slot's first scale, from the largest number that a cast has seen. One thread. */
TY_KERNEL fp8_prime(float* scale, float* inverse, const float* amax, float largest) {
  *scale = scaleFor(*amax, largest);
  *inverse = 1.f / *scale;
}

/** Ends a step, a thread a slot: updateScales of core/fp8.ts. */
TY_KERNEL fp8_update_scales(float* scale, float* inverse, float* amax, const float* largest, float* history, int count) {
  const int slot = blockIdx.x * blockDim.x + threadIdx.x;
  if (slot >= count) return;
  float* own = history + slot * HISTORY;
  const int at = slot * STRIDE;
  const float now = amax[at];
  amax[at] = 0;
  const bool enters = now > 0 && now - now == 0;
  float most = enters ? now : 0;
  for (int i = HISTORY - 1; i > 0; i--) {
    const float value = enters ? own[i - 1] : own[i];
    own[i] = value;
    most = fmaxf(most, value);
  }
  if (enters) own[0] = now;
  else most = fmaxf(most, own[0]);
  if (most == 0) return;
  scale[at] = scaleFor(most, largest[slot]);
  inverse[at] = 1.f / scale[at];
}
