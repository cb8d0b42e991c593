// One decoding step of a Llama for 9 to 64 sequences. The inputs of a product are cut into slices of 512, each block
// keeps a slice of all sequences in shared memory, and its warpgroups multiply tiles of 16 rows a warp by it. Weights come
// through a ring of each warp's own that runs ahead over barriers and layers, straight into the registers of the products.
// The slices are summed in order behind a barrier: no block has room for all inputs of 64 sequences.
#ifndef TOKEN_TILES
#define TOKEN_TILES 2
#endif
#include "decode-step.cuh"
#include "hopper.cuh"

constexpr int ENTRY_INPUTS = 32, RING_BYTES = RING_ENTRIES * THREADS * 32;
constexpr int WARPGROUPS = WARPS / 4;
constexpr int SLICE = 512, TILE_ENTRIES = SLICE / ENTRY_INPUTS;
/** Ring entries that are taken and multiplied at a time. */
constexpr int DEPTH = 4;
/** The slice of all sequences in shared memory: panels of 64 columns. */
constexpr u32 PANEL_BYTES = TOKENS * PANEL_ROW_BYTES;
/** Floats that a warp adds to the partial sums of a tile. */
constexpr int TILE_FLOATS = 16 * TOKENS;
static_assert(HIDDEN % SLICE == 0 && Q_WIDTH % SLICE == 0 && FEED_FORWARD % SLICE == 0, "slices of the inputs");
static_assert(HEAD_DIM % 64 == 0, "head size");

/** A block's part of a product: tiles of one slice, which the blocks of that slice share. */
struct Part {
  int tiles, slice, begin, end;
  TY_INLINE Part(int phase, int vocabSize) {
    const int slices = inputsOf(phase) / SLICE, blocks = gridDim.x;
    tiles = tilesOf(phase, vocabSize);
    slice = blockIdx.x * slices / blocks;
    const int first = (slice * blocks + slices - 1) / slices, behind = ((slice + 1) * blocks + slices - 1) / slices;
    begin = tiles * (blockIdx.x - first) / (behind - first);
    end = tiles * (blockIdx.x - first + 1) / (behind - first);
  }
};

/** Fours of tiles go around the warpgroups, on from phase to phase: the first four of this warpgroup. */
struct Rotation {
  int start = 0;
  TY_INLINE int next(const Part& part) {
    const int fours = (((int)(threadIdx.x >> 7) - start) & (WARPGROUPS - 1));
    start += (part.end - part.begin + 3) / 4;
    return part.begin + 4 * fours;
  }
};

/** A walk over this warp's tiles of all products. */
struct TileWalk {
  Rotation rotation;
  int phase = QKV, layer = 0, tile, end, slice;

  TY_INLINE void enter(const Step& step) {
    const Part part(phase, step.vocabSize);
    tile = rotation.next(part) + (threadIdx.x >> 5 & 3);
    end = part.end;
    slice = part.slice;
  }
  /** Goes to the first tile at or behind the present one that is this warp's; `phase` is END behind the last. */
  TY_INLINE void seek(const Step& step) {
    while (tile >= end) {
      if (phase == DOWN && layer + 1 < step.numLayers) {
        phase = QKV;
        layer++;
      } else {
        phase += phase == QKV ? O - QKV : 1;
      }
      if (phase == END) return;
      enter(step);
    }
  }
  TY_INLINE void next(const Step& step) {
    tile += WARPS;
    seek(step);
  }
  /** The slice of row `row` of the 16 of the tile; behind the last row of the head stands the last. */
  TY_INLINE const scalar_t* rowOf(const Step& step, const Layer* layers, int row) const {
    const int at = row < 8 ? upperRow(phase, tile) + row : lowerRow(phase, tile) + row - 8;
    return weightOf(step, layers[layer], phase) +
           (i64)(phase == HEAD ? min(at, step.vocabSize - 1) : at) * inputsOf(phase) + slice * SLICE;
  }
};

/**
 * The weights of this warp in the order in which it uses them. Each lane fetches exactly what it will use: nothing but
 * its own copies has to be waited for.
 */
struct WeightStream {
  const Step& step;
  const Layer* layers;
  u32 ring;
  int entry = 0, left = 0;
  TileWalk walk;
  const scalar_t *upper = nullptr, *lower = nullptr;

  TY_INLINE WeightStream(const Step& step, const Layer* layers, const void* memory) : step(step), layers(layers) {
    ring = sharedAddress(memory) + threadIdx.x * 16;
    walk.enter(step);
    walk.seek(step);
    enterTile();
  }

  TY_INLINE void ask() const {
    const int lane = threadIdx.x & 31;
    if (walk.phase == END || lane >= 16) return;
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(walk.rowOf(step, layers, lane)),
                 "r"(SLICE * (u32)sizeof(scalar_t)));
  }

  TY_INLINE void enterTile() {
    // Memory is fast for long pieces: a lane asks for one row's whole slice before its parts are fetched.
    ask();
    if (walk.phase == END) {
      upper = nullptr;
      left = 0x7fffffff;
      return;
    }
    const int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
    upper = walk.rowOf(step, layers, g) + t * 8;
    lower = walk.rowOf(step, layers, g + 8) + t * 8;
    left = TILE_ENTRIES;
  }

  /** Starts the next copies into the ring entry that was used last; a group of its own even where nothing is left. */
  TY_INLINE void fetch() {
    if (upper != nullptr) {
      const u32 to = ring + entry * (THREADS * 32);
      asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(upper));
      asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to + THREADS * 16), "l"(lower));
      upper += ENTRY_INPUTS;
      lower += ENTRY_INPUTS;
      if (--left == 0) {
        walk.next(step);
        enterTile();
      }
    }
    asm volatile("cp.async.commit_group;");
    entry = entry + 1 == RING_ENTRIES ? 0 : entry + 1;
  }

  /** Waits for the oldest entry, hands it out, upper row then lower, and fetches another in its place. */
  TY_INLINE void take(u32* a) {
    asm volatile("cp.async.wait_group %0;" ::"n"(RING_ENTRIES - 1));
    const u32 from = ring + entry * (THREADS * 32);
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(from));
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[4]), "=r"(a[5]), "=r"(a[6]), "=r"(a[7])
                 : "r"(from + THREADS * 16));
    fetch();
  }
};

/** Pieces of 8 elements of a slice that a thread brings: all of one column, sequences THREADS / 64 apart. */
constexpr int SLICE_PIECES = SLICE / 8, PIECES = TOKENS * SLICE_PIECES / THREADS, TOKEN_STEP = THREADS / SLICE_PIECES;

/** Brings a slice of x [batch][width]; with a norm's weight each sequence is normalised by its sums of squares. */
TY_INLINE void loadSlice(const Step& step, const scalar_t* x, int width, int slice, const scalar_t* norm, u8* panels, float* sums) {
  const int column = threadIdx.x % SLICE_PIECES * 8, first = threadIdx.x / SLICE_PIECES;
  uint4 pieces[PIECES];
#pragma unroll
  for (int i = 0; i < PIECES; i++) {
    const int token = first + i * TOKEN_STEP;
    pieces[i] = token < step.batch ? loadShared16(x + (i64)token * width + slice * SLICE + column) : make_uint4(0, 0, 0, 0);
  }
  if (norm != nullptr) {
    constexpr int PARTS = THREADS / TOKENS, TILES = HIDDEN / 16;
    const int token = threadIdx.x % TOKENS, part = threadIdx.x / TOKENS;
    float sum = 0;
#pragma unroll 8
    for (int tile = part; tile < TILES; tile += PARTS) sum += loadShared(step.squares + tile * TOKENS + token);
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < TOKENS) {
      float total = 0;
#pragma unroll
      for (int p = 0; p < PARTS; p++) total += sums[p * TOKENS + threadIdx.x];
      sums[threadIdx.x] = rsqrtf(total / HIDDEN + step.eps);
    }
    __syncthreads();
    const Pack<scalar_t> scale = loadPack(norm + slice * SLICE + column);
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
      const float rstd = sums[first + i * TOKEN_STEP];
      const Pack<scalar_t>& from = reinterpret_cast<const Pack<scalar_t>&>(pieces[i]);
      u32 y[4];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        y[j] = packPair(toFloat(from.at[2 * j]) * rstd * toFloat(scale.at[2 * j]),
                        toFloat(from.at[2 * j + 1]) * rstd * toFloat(scale.at[2 * j + 1]));
      }
      pieces[i] = make_uint4(y[0], y[1], y[2], y[3]);
    }
  }
  // In the order of the lanes' weights: elements 8 t .. 8 t + 7 of each 32 are columns 2 t, 2 t + 1, 2 t + 8 and 2 t + 9
  // of two steps of 16.
  const int step16 = column / 32 % 2 * 2, t = column / 8 % 4;
#pragma unroll
  for (int i = 0; i < PIECES; i++) {
    const int token = first + i * TOKEN_STEP;
    u8* row = panels + column / 64 * PANEL_BYTES + token * PANEL_ROW_BYTES + t * 4;
    const u32 words[4] = {pieces[i].x, pieces[i].y, pieces[i].z, pieces[i].w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int chunk = (step16 + j / 2) * 2 + j % 2;
      *reinterpret_cast<u32*>(row + ((chunk ^ (token & 7)) << 4)) = words[j];
    }
  }
  fenceAsyncProxy();
  __syncthreads();
}

/** This block's part of a product of x [batch][width], to the partial sums. */
TY_INLINE void multiplySlice(const Step& step, WeightStream& stream, Rotation& rotation, int phase, const scalar_t* x,
                             const scalar_t* norm, u8* panels, float* sums) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const Part part(phase, step.vocabSize);
  loadSlice(step, x, inputsOf(phase), part.slice, norm, panels, sums);
  const u64 inputs = descriptorOfRows(sharedAddress(panels));
  for (int four = rotation.next(part); four < part.end; four += WARPS) {
    const int tile = four + (warp & 3);
    const bool isMine = tile < part.end;
    float d[TOKENS / 2];
#pragma unroll 1
    for (int e = 0; e < TILE_ENTRIES; e += DEPTH) {
      // Two rows of each quad for DEPTH entries; the last four may have less than four tiles.
      u32 a[8 * DEPTH] = {};
      if (isMine) {
#pragma unroll
        for (int i = 0; i < DEPTH; i++) stream.take(a + 8 * i);
      }
      wgmmaFence();
#pragma unroll
      for (int i = 0; i < DEPTH; i++) {
        const u32* row = a + 8 * i;
        const u64 b = advance(inputs, (e + i) / 2 * PANEL_BYTES + i % 2 * 64);
        Wgmma<TOKENS>::registers<0>(d, row[0], row[4], row[1], row[5], b, e + i > 0);
        Wgmma<TOKENS>::registers<0>(d, row[2], row[6], row[3], row[7], advance(b, 32), 1);
      }
      wgmmaCommit();
      wgmmaWait<0>();
      keepAfterWait(d);
      keepAfterWait(a);
    }
    if (!isMine) continue;
    float* partial = step.partials + ((i64)part.slice * part.tiles + tile) * TILE_FLOATS + lane * 4;
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++) {
      *reinterpret_cast<float4*>(partial + n * 128) = make_float4(d[4 * n], d[4 * n + 1], d[4 * n + 2], d[4 * n + 3]);
    }
  }
}

/**
 * Sums the slices of a product in their order, after the grid's barrier: warps take eight sequences of a tile each.
 * `use(tile, row, token, upper, lower)` gets the sums of both halves of a tile; with `hasSquares` it gives the squares of
 * what it stored, whose sums over the tile are kept for the next norm.
 */
template <int phase, bool hasSquares, typename Use>
TY_INLINE void sumSlices(const Step& step, Use&& use) {
  constexpr int SLICES = (phase == O ? Q_WIDTH : phase == DOWN ? FEED_FORWARD : HIDDEN) / SLICE;
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int tiles = tilesOf(phase, step.vocabSize);
  for (int task = blockIdx.x + (threadIdx.x >> 5) * gridDim.x; task < tiles * TOKEN_TILES; task += gridDim.x * WARPS) {
    const int tile = task / TOKEN_TILES, n = task % TOKEN_TILES;
    if (n * 8 >= step.batch) continue;
    const float* from = step.partials + (i64)tile * TILE_FLOATS + n * 128 + lane * 4;
    float4 parts[SLICES];
#pragma unroll
    for (int s = 0; s < SLICES; s++) parts[s] = loadSharedFloats(from + (i64)s * tiles * TILE_FLOATS);
    float4 sum = parts[0];
#pragma unroll
    for (int s = 1; s < SLICES; s++) {
      sum.x += parts[s].x;
      sum.y += parts[s].y;
      sum.z += parts[s].z;
      sum.w += parts[s].w;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int token = n * 8 + 2 * t + i;
      float squares = 0;
      if (token < step.batch) squares = use(tile, g, token, i == 0 ? sum.x : sum.y, i == 0 ? sum.z : sum.w);
      if (hasSquares) {
#pragma unroll
        for (int distance = 4; distance < 32; distance <<= 1) squares += __shfl_xor_sync(0xffffffffu, squares, distance);
        if (g == 0) step.squares[tile * TOKENS + token] = squares;
      }
    }
  }
}

/** The residual stream starts as the tokens' embeddings; their squares stand where the first tile's do. */
TY_INLINE void embedTokens(const Step& step) {
  const int lane = threadIdx.x & 31;
  for (int token = blockIdx.x * WARPS + (threadIdx.x >> 5); token < TOKENS; token += gridDim.x * WARPS) {
    float sum = 0;
    if (token < step.batch) {
      const scalar_t* row = step.table + (i64)step.tokens[token] * HIDDEN;
      for (int i = lane * 8; i < HIDDEN; i += 256) {
        const Pack<scalar_t> piece = loadPack(row + i);
#pragma unroll
        for (int j = 0; j < 8; j++) sum = fmaf(toFloat(piece.at[j]), toFloat(piece.at[j]), sum);
        storePack(step.stream + (i64)token * HIDDEN + i, piece);
      }
    }
    sum = warpSum(sum);
    for (int tile = lane; tile < HIDDEN / 16; tile += 32) step.squares[tile * TOKENS + token] = tile == 0 ? sum : 0;
  }
}

TY_KERNEL __launch_bounds__(THREADS, 1) decode_step_many(const Step step) {
  extern __shared__ __align__(1024) u8 memory[];
  __shared__ u64 best[TOKENS];
  u8* panels = memory;
  float* words = reinterpret_cast<float*>(memory);
  float* sums = reinterpret_cast<float*>(memory + AREA_BYTES + RING_BYTES);
  const Layer* layers = copyLayers(step, sums + THREADS);
  WeightStream weights(step, layers, memory + AREA_BYTES);
  for (int i = 0; i < RING_ENTRIES; i++) weights.fetch();

  Rotation rotation;
  u32 arrivals = 0;
  if (threadIdx.x < TOKENS) best[threadIdx.x] = 0;
  const auto addToStream = [&](int tile, int row, int token, float upper, float lower) {
    scalar_t* to = step.stream + (i64)token * HIDDEN + tile * 16 + row;
    const scalar_t a = cast<scalar_t>(loadShared(to) + upper), b = cast<scalar_t>(loadShared(to + 8) + lower);
    to[0] = a;
    to[8] = b;
    return toFloat(a) * toFloat(a) + toFloat(b) * toFloat(b);
  };
  embedTokens(step);
  gridBarrier(step, arrivals);
  for (int l = 0, phase = QKV;; phase++) {
    const Layer& layer = layers[l];
    const scalar_t* x = phase == O ? step.mixed : phase == DOWN ? step.activated : step.stream;
    const scalar_t* norm = phase == QKV       ? layer.inputNorm
                           : phase == GATE_UP ? layer.postNorm
                           : phase == HEAD    ? step.finalNorm
                                              : nullptr;
    multiplySlice(step, weights, rotation, phase, x, norm, panels, sums);
    gridBarrier(step, arrivals);
    if (phase == HEAD) break;
    if (phase == QKV) {
      sumSlices<QKV, false>(step, [&](int tile, int row, int token, float upper, float lower) {
        const int dim = tile % (HALF_DIM / 8) * 8 + row;
        storeHead(step, layer, tile / (HALF_DIM / 8), dim, token, angleOf(step, dim, token), upper, lower);
        return 0.f;
      });
      gridBarrier(step, arrivals);
      attendCache(step, layer, words);
      phase = ATTEND;
    } else if (phase == O) {
      sumSlices<O, true>(step, addToStream);
    } else if (phase == GATE_UP) {
      sumSlices<GATE_UP, false>(step, [&](int tile, int row, int token, float gate, float up) {
        step.activated[(i64)token * FEED_FORWARD + tile * 8 + row] = cast<scalar_t>(silu(gate) * up);
        return 0.f;
      });
    } else {
      sumSlices<DOWN, true>(step, addToStream);
      if (l + 1 < step.numLayers) {
        l++;
        phase = QKV - 1;
      }
    }
    gridBarrier(step, arrivals);
  }
  sumSlices<HEAD, false>(step, [&](int tile, int row, int token, float upper, float lower) {
    const int a = tile * 16 + row, b = a + 8;
    u64 rank = 0;
    float* logits = step.logits == nullptr ? nullptr : step.logits + (i64)token * step.vocabSize;
    if (a < step.vocabSize) {
      rank = rankOf(upper, a);
      if (logits != nullptr) logits[a] = upper;
    }
    if (b < step.vocabSize) {
      rank = larger(rank, rankOf(lower, b));
      if (logits != nullptr) logits[b] = lower;
    }
    if (rank > best[token]) atomicMax(reinterpret_cast<unsigned long long*>(best + token), rank);
    return 0.f;
  });
  __syncthreads();
  if (threadIdx.x < step.batch) step.best[(i64)threadIdx.x * gridDim.x + blockIdx.x] = best[threadIdx.x];
  finishStep(step);
}
