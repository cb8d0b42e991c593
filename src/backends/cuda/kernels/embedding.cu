// Rows of a table by id, and their gradient. The gradient is deterministic without float atomics: positions are sorted
// by id (a stable radix sort, integers only), the sorted list is cut into chunks of one length, each chunk sums its
// rows id by id, and an id that spans chunks gets its partial sums added in their order. So a frequent id is shared by
// many blocks, and no order depends on timing.
#include "prelude.cuh"

/** Copies rows by 16 bytes: `packsPerRow` of them, whatever the element type. */
TY_KERNEL embedding_packs(uint4* out, const uint4* table, const i32* ids, u32 packsPerRow, i64 packs) {
  constexpr int DEPTH = 4;
  const i64 first = (i64)blockIdx.x * DEPTH * blockDim.x + threadIdx.x;
  uint4 pack[DEPTH];
#pragma unroll
  for (int k = 0; k < DEPTH; k++) {
    const i64 i = first + k * (i64)blockDim.x;
    if (i >= packs) break;
    // 64-bit division is many instructions; a range of more than 2^32 packs is rare.
    const i64 n = i >> 32 ? i / packsPerRow : (i64)((u32)i / packsPerRow);
    pack[k] = table[ids[n] * (i64)packsPerRow + (i - n * packsPerRow)];
  }
#pragma unroll
  for (int k = 0; k < DEPTH; k++) {
    const i64 i = first + k * (i64)blockDim.x;
    if (i < packs) out[i] = pack[k];
  }
}

/** The same for any width and address. */
TY_KERNEL embedding_elements(scalar_t* out, const scalar_t* table, const i32* ids, i64 columns, i64 count) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const i64 n = i / columns;
  out[i] = table[ids[n] * columns + (i - n * columns)];
}

/** A position of the batch under its id: the id in the upper half, so that a pair is one integer. */
typedef u64 pair_t;
TY_INLINE u32 idOf(pair_t pair) { return (u32)(pair >> 32); }
TY_INLINE u32 positionOf(pair_t pair) { return (u32)pair; }

/** A sorting pass orders by 9 bits; a block sorts a tile of 512 threads times 4 pairs. As in embedding.ts. */
constexpr int RADIX_BITS = 9, RADIX = 1 << RADIX_BITS, SORT_THREADS = 512, SORT_WARPS = SORT_THREADS / 32,
              PAIRS_PER_THREAD = 4, TILE = SORT_THREADS * PAIRS_PER_THREAD;

/** counts[tile][digit] of the first pass; those of the later passes are set to 0. counts: [passes, tiles, RADIX]. */
TY_KERNEL sort_count(u32* counts, const i32* ids, u32 count, int passes) {
  __shared__ u32 histogram[RADIX];
  const u32 tile = blockIdx.x, tiles = gridDim.x;
  for (int digit = threadIdx.x; digit < RADIX; digit += SORT_THREADS) histogram[digit] = 0;
  __syncthreads();
#pragma unroll
  for (int k = 0; k < PAIRS_PER_THREAD; k++) {
    const u32 n = tile * TILE + k * SORT_THREADS + threadIdx.x;
    if (n < count) atomicAdd(&histogram[ids[n] & (RADIX - 1)], 1u);
  }
  __syncthreads();
  for (int digit = threadIdx.x; digit < RADIX; digit += SORT_THREADS) {
    counts[(i64)tile * RADIX + digit] = histogram[digit];
    for (int pass = 1; pass < passes; pass++) counts[((i64)pass * tiles + tile) * RADIX + digit] = 0;
  }
}

/**
 * One stable pass: pairs (of the ids themselves, where `source` is null) go to their place by digit number `pass`, and
 * the digits of the next pass are counted by the tile they land in.
 */
extern "C" __global__ void __launch_bounds__(SORT_THREADS) sort_scatter(pair_t* sorted, const pair_t* source,
                                                                       const i32* ids, u32* counts, u32 count, int pass,
                                                                       int passes) {
  static_assert(SORT_THREADS == RADIX, "thread number d looks after digit d");
  // First the pairs of each digit that a warp has met, later where the warp's first of that digit goes.
  __shared__ u32 places[SORT_WARPS][RADIX];
  __shared__ u32 warpTotals[SORT_WARPS];
  const u32 tile = blockIdx.x, tiles = gridDim.x;
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int shift = pass * RADIX_BITS;
#pragma unroll
  for (int w = 0; w < SORT_WARPS; w++) places[w][thread] = 0;

  // Where digit `thread` of this tile begins: all smaller digits, then this digit in the tiles before.
  const u32* column = counts + (i64)pass * tiles * RADIX + thread;
  u32 before = 0, total = 0;
#pragma unroll 8
  for (u32 t = 0; t < tiles; t++) {
    const u32 value = column[(i64)t * RADIX];
    total += value;
    if (t < tile) before += value;
  }
  u32 scan = total;
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    const u32 lower = __shfl_up_sync(0xffffffffu, scan, step);
    if (lane >= step) scan += lower;
  }
  if (lane == 31) warpTotals[warp] = scan;
  __syncthreads();
  u32 begin = scan - total + before;
  for (int w = 0; w < warp; w++) begin += warpTotals[w];

  // A warp has 32 * PAIRS_PER_THREAD pairs in a row and meets them in order.
  pair_t pair[PAIRS_PER_THREAD];
  u32 rank[PAIRS_PER_THREAD];
  const u32 first = tile * TILE + warp * 32 * PAIRS_PER_THREAD + lane;
#pragma unroll
  for (int k = 0; k < PAIRS_PER_THREAD; k++) {
    const u32 n = first + k * 32;
    pair[k] = n >= count ? 0 : source == nullptr ? (pair_t)(u32)ids[n] << 32 | n : source[n];
  }
#pragma unroll
  for (int k = 0; k < PAIRS_PER_THREAD; k++) {
    const bool isReal = first + k * 32 < count;
    const u32 digit = isReal ? (idOf(pair[k]) >> shift) & (RADIX - 1) : RADIX;
    const u32 same = __match_any_sync(0xffffffffu, digit);
    const u32 lower = same & ((1u << lane) - 1);
    const u32 met = isReal ? places[warp][digit] : 0;
    rank[k] = met + __popc(lower);
    __syncwarp();
    if (isReal && lower == 0) places[warp][digit] = met + __popc(same);
    __syncwarp();
  }
  __syncthreads();
#pragma unroll
  for (int w = 0; w < SORT_WARPS; w++) {
    const u32 met = places[w][thread];
    places[w][thread] = begin;
    begin += met;
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < PAIRS_PER_THREAD; k++) {
    if (first + k * 32 >= count) break;
    const u32 id = idOf(pair[k]), place = places[warp][(id >> shift) & (RADIX - 1)] + rank[k];
    sorted[place] = pair[k];
    if (pass + 1 < passes) {
      const u32 next = (id >> (shift + RADIX_BITS)) & (RADIX - 1);
      atomicAdd(&counts[((i64)(pass + 1) * tiles + place / TILE) * RADIX + next], 1u);
    }
  }
}

/** Sorted pairs that one block sums. As in embedding.ts. */
constexpr int CHUNK = 64;

/** WIDTH neighbouring elements of f32 by the widest access they allow. */
template <int WIDTH>
TY_INLINE void loadColumns(float (&out)[WIDTH], const float* p) {
  if constexpr (WIDTH == 1) {
    out[0] = *p;
  } else {
#pragma unroll
    for (int i = 0; i < WIDTH; i += 4) {
      const Pack<float> pack = loadPack(p + i);
#pragma unroll
      for (int j = 0; j < 4; j++) out[i + j] = pack.at[j];
    }
  }
}
template <int WIDTH>
TY_INLINE void storeColumns(float* p, const float (&x)[WIDTH]) {
  if constexpr (WIDTH == 1) {
    *p = x[0];
  } else {
#pragma unroll
    for (int i = 0; i < WIDTH; i += 4) {
      Pack<float> pack;
#pragma unroll
      for (int j = 0; j < 4; j++) pack.at[j] = x[i + j];
      storePack(p + i, pack);
    }
  }
}

/** Elements of dOut as loaded: a pack, or one. */
template <int WIDTH>
struct Loaded {
  Pack<scalar_t> pack;
  TY_INLINE void load(const scalar_t* p) { pack = loadPack(p); }
  TY_INLINE float at(int j) const { return toFloat(pack.at[j]); }
};
template <>
struct Loaded<1> {
  scalar_t element;
  TY_INLINE void load(const scalar_t* p) { element = *p; }
  TY_INLINE float at(int) const { return toFloat(element); }
};

/**
 * Sums the rows of dOut of one chunk, id by id. An id that lies in this chunk alone is added to its row of the table;
 * of one that goes on, the sum is put into partials[chunk]: row 0 if it began in an earlier chunk, row 1 if here.
 * partials: [chunks, 2, columns]. Grid: chunks by column blocks.
 */
template <int WIDTH>
TY_INLINE void sumChunk(float* dTable, float* partials, const scalar_t* dOut, const pair_t* sorted, i64 count,
                        i64 columns) {
  // One pair before the chunk and one behind it tell which ids go on.
  __shared__ pair_t pairs[CHUNK + 2];
  constexpr u64 NONE = ~0ull;
  constexpr int DEPTH = 4;
  const i64 begin = (i64)blockIdx.x * CHUNK;
  const int length = count - begin < CHUNK ? (int)(count - begin) : CHUNK;
  for (int i = threadIdx.x; i < length + 2; i += blockDim.x) {
    const i64 place = begin + i - 1;
    pairs[i] = place < 0 || place >= count ? NONE : sorted[place];
  }
  __syncthreads();
  const i64 column = ((i64)blockIdx.y * blockDim.x + threadIdx.x) * WIDTH;
  if (column >= columns) return;
  float sum[WIDTH];
#pragma unroll
  for (int j = 0; j < WIDTH; j++) sum[j] = 0;
  bool beganHere = idOf(pairs[0]) != idOf(pairs[1]);
  for (int first = 0; first < length; first += DEPTH) {
    // Rows of dOut and of the table are fetched for several pairs before any is used. An id's run ends inside the
    // chunk in at most one place, so what is read of the table is not written before.
    Loaded<WIDTH> row[DEPTH];
    float old[DEPTH][WIDTH];
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      // Behind the end the last row again, unused: a branch here would make each load wait for the one before.
      const int i = first + k < length ? first + k : length - 1;
      const u32 id = idOf(pairs[i + 1]);
      row[k].load(dOut + positionOf(pairs[i + 1]) * columns + column);
      if (id != idOf(pairs[i + 2])) loadColumns<WIDTH>(old[k], dTable + id * columns + column);
    }
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      const int i = first + k;
      if (i >= length) break;
#pragma unroll
      for (int j = 0; j < WIDTH; j++) sum[j] += row[k].at(j);
      const u32 id = idOf(pairs[i + 1]);
      const bool endsHere = id != idOf(pairs[i + 2]);
      if (!endsHere && i + 1 < length) continue;
      if (endsHere && beganHere) {
#pragma unroll
        for (int j = 0; j < WIDTH; j++) sum[j] += old[k][j];
        storeColumns<WIDTH>(dTable + id * columns + column, sum);
      } else {
        storeColumns<WIDTH>(partials + ((i64)blockIdx.x * 2 + beganHere) * columns + column, sum);
      }
#pragma unroll
      for (int j = 0; j < WIDTH; j++) sum[j] = 0;
      beganHere = true;
    }
  }
}

TY_KERNEL embedding_sum_packs(float* dTable, float* partials, const scalar_t* dOut, const pair_t* sorted, i64 count,
                              i64 columns) {
  sumChunk<Pack<scalar_t>::size>(dTable, partials, dOut, sorted, count, columns);
}
TY_KERNEL embedding_sum_elements(float* dTable, float* partials, const scalar_t* dOut, const pair_t* sorted, i64 count,
                                 i64 columns) {
  sumChunk<1>(dTable, partials, dOut, sorted, count, columns);
}

constexpr int COMBINE_THREADS = 256, COMBINE_WARPS = COMBINE_THREADS / 32;

/**
 * Adds up the partial sums of the id that begins in chunk blockIdx.x and goes on behind it, if there is one: each warp
 * takes neighbouring chunks in their order, then the warps are added in theirs. Grid: chunks by column blocks of
 * `columnsPerBlock`, a multiple of 32 * WIDTH.
 */
template <int WIDTH>
TY_INLINE void combineChunks(float* dTable, const float* partials, const pair_t* sorted, i64 count, i64 columns,
                             i64 columnsPerBlock) {
  __shared__ float shared[COMBINE_WARPS][32 * WIDTH];
  const i64 chunk = blockIdx.x, begin = chunk * CHUNK, next = begin + CHUNK;
  if (next >= count) return;
  const u32 id = idOf(sorted[next - 1]), firstId = idOf(sorted[begin]), nextId = idOf(sorted[next]);
  const u32 idBefore = begin > 0 ? idOf(sorted[begin - 1]) : ~id;
  const bool beganHere = firstId != id || idBefore != id;
  if (nextId != id || !beganHere) return;

  // Chunks behind this one whose first pair still has the id.
  const i64 chunks = (count + CHUNK - 1) / CHUNK;
  i64 following = 0;
  for (;;) {
    const i64 other = chunk + 1 + following + threadIdx.x;
    const int found = __syncthreads_count(other < chunks && idOf(sorted[other * CHUNK]) == id);
    following += found;
    if (found < COMBINE_THREADS) break;
  }

  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const i64 rows = following + 1, rowsPerWarp = (rows + COMBINE_WARPS - 1) / COMBINE_WARPS;
  const i64 from = warp * rowsPerWarp, to = from + rowsPerWarp < rows ? from + rowsPerWarp : rows;
  const i64 firstColumn = (i64)blockIdx.y * columnsPerBlock;
  for (i64 base = firstColumn; base < firstColumn + columnsPerBlock && base < columns; base += 32 * WIDTH) {
    const i64 column = base + lane * WIDTH;
    float sum[WIDTH];
#pragma unroll
    for (int j = 0; j < WIDTH; j++) sum[j] = 0;
    if (column < columns) {
#pragma unroll 8
      for (i64 row = from; row < to; row++) {
        float part[WIDTH];
        // The chunk where the id begins has it in row 1, those that follow in row 0.
        loadColumns<WIDTH>(part, partials + ((chunk + row) * 2 + (row == 0)) * columns + column);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) sum[j] += part[j];
      }
    }
#pragma unroll
    for (int j = 0; j < WIDTH; j++) shared[warp][lane + 32 * j] = sum[j];
    __syncthreads();
    if (warp == 0 && column < columns) {
      float old[WIDTH];
      loadColumns<WIDTH>(old, dTable + id * columns + column);
#pragma unroll
      for (int j = 0; j < WIDTH; j++) {
        float total = 0;
#pragma unroll
        for (int w = 0; w < COMBINE_WARPS; w++) total += shared[w][lane + 32 * j];
        old[j] += total;
      }
      storeColumns<WIDTH>(dTable + id * columns + column, old);
    }
    __syncthreads();
  }
}

TY_KERNEL embedding_combine_packs(float* dTable, const float* partials, const pair_t* sorted, i64 count, i64 columns,
                                  i64 columnsPerBlock) {
  combineChunks<4>(dTable, partials, sorted, count, columns, columnsPerBlock);
}
TY_KERNEL embedding_combine_elements(float* dTable, const float* partials, const pair_t* sorted, i64 count, i64 columns,
                                     i64 columnsPerBlock) {
  combineChunks<1>(dTable, partials, sorted, count, columns, columnsPerBlock);
}
