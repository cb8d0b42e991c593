// One decoding step of a Llama for up to 8 sequences. Products are tiles of 16 rows of a weight over all inputs: each
// warp takes a sixteenth of the inputs, kept in registers, and streams its part of the rows through a ring of its own
// that runs ahead over barriers and layers, because weights depend on nothing. So memory is busy while blocks wait.
#include "decode-step.cuh"

/** Elements of the rows that one ring entry of a warp covers: two rows of 32 elements for each of its quads. */
constexpr int ENTRY_INPUTS = 32, RING_BYTES = RING_ENTRIES * THREADS * 32;
/** Sums of a tile are laid out [token][row] with gaps that keep the banks apart. */
constexpr int TOKEN_STRIDE = 20, WARP_SUMS = TOKENS * TOKEN_STRIDE, TILE_SUMS = WARPS * WARP_SUMS;
static_assert(HIDDEN % (WARPS * ENTRY_INPUTS) == 0 && Q_WIDTH % (WARPS * ENTRY_INPUTS) == 0, "inputs of a warp");
static_assert(FEED_FORWARD % (WARPS * ENTRY_INPUTS) == 0 && HEAD_DIM % 64 == 0, "inputs of a warp");

/** A walk over this block's tiles of all products. Tiles go around the blocks, on from phase to phase. */
struct TileWalk {
  int phase = QKV, layer = 0, tile = blockIdx.x, start = 0;

  /** Goes to the first tile at or behind the present one that is this block's; `phase` is END behind the last. */
  TY_INLINE void seek(const Step& step) {
    while (phase != END) {
      const int tiles = tilesOf(phase, step.vocabSize);
      if (tile < tiles) return;
      start = (start + tiles) % gridDim.x;
      if (phase == DOWN && layer + 1 < step.numLayers) {
        phase = QKV;
        layer++;
      } else {
        phase++;
      }
      tile = (blockIdx.x + gridDim.x - start) % gridDim.x;
    }
  }
  TY_INLINE void next(const Step& step) {
    tile += gridDim.x;
    seek(step);
  }
  /** Row `row` of the 16 of the tile; behind the last row of the head stands the last. */
  TY_INLINE const scalar_t* rowOf(const Step& step, const Layer* layers, int row) const {
    const int at = row < 8 ? upperRow(phase, tile) + row : lowerRow(phase, tile) + row - 8;
    return weightOf(step, layers[layer], phase) + (i64)(phase == HEAD ? min(at, step.vocabSize - 1) : at) * inputsOf(phase);
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
    ring = (u32)__cvta_generic_to_shared(memory) + threadIdx.x * 16;
    walk.seek(step);
    enterTile();
  }

  TY_INLINE void enterTile() {
    if (walk.phase == END) {
      upper = nullptr;
      left = 0x7fffffff;
      return;
    }
    const int warp = threadIdx.x >> 5, g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3, inputs = inputsOf(walk.phase);
    const int column = warp * (inputs / WARPS) + t * 8;
    upper = walk.rowOf(step, layers, g) + column;
    lower = walk.rowOf(step, layers, g + 8) + column;
    left = inputs / (WARPS * ENTRY_INPUTS);
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

  /** Waits for the oldest entry, hands it out and fetches another in its place. */
  TY_INLINE void take(uint4& a, uint4& b) {
    asm volatile("cp.async.wait_group %0;" ::"n"(RING_ENTRIES - 1));
    const u32 from = ring + entry * (THREADS * 32);
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(a.x), "=r"(a.y), "=r"(a.z), "=r"(a.w) : "r"(from));
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(b.x), "=r"(b.y), "=r"(b.z), "=r"(b.w)
                 : "r"(from + THREADS * 16));
    fetch();
  }
};

/** This lane's part of the inputs [token][K]: tokens g, g + 8 ..; 8 elements of each 32 of the warp's share. */
template <int K>
struct Inputs {
  static constexpr int ENTRIES = K / (WARPS * ENTRY_INPUTS);
  uint4 at[ENTRIES][TOKEN_TILES];

  static TY_INLINE int column(int entry) {
    return (threadIdx.x >> 5) * (K / WARPS) + entry * ENTRY_INPUTS + (threadIdx.x & 3) * 8;
  }
  static TY_INLINE int token(int tile) { return tile * 8 + ((threadIdx.x & 31) >> 2); }

  /** `pieceOf(token, column)` gives 16 bytes. */
  template <typename PieceOf>
  TY_INLINE void load(int batch, PieceOf&& pieceOf) {
#pragma unroll
    for (int e = 0; e < ENTRIES; e++) {
#pragma unroll
      for (int n = 0; n < TOKEN_TILES; n++) {
        at[e][n] = token(n) < batch ? pieceOf(token(n), column(e)) : make_uint4(0, 0, 0, 0);
      }
    }
  }

  /** RMSNorm of each token over all warps: x * rstd * weight. */
  TY_INLINE void normalize(const scalar_t* weight, float eps, float* shared) {
    const int warp = threadIdx.x >> 5, t = threadIdx.x & 3;
    uint4 scales[ENTRIES];
#pragma unroll
    for (int e = 0; e < ENTRIES; e++) scales[e] = *reinterpret_cast<const uint4*>(weight + column(e));
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++) {
      float sum = 0;
#pragma unroll
      for (int e = 0; e < ENTRIES; e++) {
        const Pack<scalar_t>& x = reinterpret_cast<const Pack<scalar_t>&>(at[e][n]);
#pragma unroll
        for (int i = 0; i < 8; i++) sum = fmaf(toFloat(x.at[i]), toFloat(x.at[i]), sum);
      }
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      if (t == 0) shared[warp * TOKENS + token(n)] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < WARPS; w++) sum += shared[w * TOKENS + token(n)];
      const float rstd = rsqrtf(sum / K + eps);
#pragma unroll
      for (int e = 0; e < ENTRIES; e++) {
        const Pack<scalar_t>& x = reinterpret_cast<const Pack<scalar_t>&>(at[e][n]);
        const Pack<scalar_t>& scale = reinterpret_cast<const Pack<scalar_t>&>(scales[e]);
        u32 y[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          y[i] = packPair(toFloat(x.at[2 * i]) * rstd * toFloat(scale.at[2 * i]),
                          toFloat(x.at[2 * i + 1]) * rstd * toFloat(scale.at[2 * i + 1]));
        }
        at[e][n] = make_uint4(y[0], y[1], y[2], y[3]);
      }
    }
  }
};

/**
 * This block's tiles of a product: `use(tile, row, token, upper, lower, operands)` gets the sums of row `row` of both
 * halves of a tile, from one thread, and what `prepare(tile, row, token)` gave before: loads that the sums need not wait
 * for. Warps of a tile's end take turns, except where `isFixed`.
 */
template <int K, bool isFixed, typename Prepare, typename Use>
TY_INLINE void product(WeightStream& stream, const Inputs<K>& x, int first, int tiles, int batch, float* sums,
                       Prepare&& prepare, Use&& use) {
  constexpr int WORKERS = 8 * TOKENS, TURNS = isFixed ? 1 : THREADS / WORKERS;
  const int warp = threadIdx.x >> 5, g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
  int turn = 0;
  for (int tile = first; tile < tiles; tile += gridDim.x) {
    const int worker = (int)threadIdx.x - turn % TURNS * WORKERS, row = worker & 7, token = worker >> 3;
    const bool isWorker = worker >= 0 && token < batch && token < TOKENS;
    float2 operands = make_float2(0, 0);
    if (isWorker) operands = prepare(tile, row, token);
    float even[TOKEN_TILES][4] = {}, odd[TOKEN_TILES][4] = {};
#pragma unroll
    for (int e = 0; e < Inputs<K>::ENTRIES; e++) {
      uint4 a, b;
      stream.take(a, b);
#pragma unroll
      for (int n = 0; n < TOKEN_TILES; n++) {
        multiply(even[n], a.x, b.x, a.y, b.y, x.at[e][n].x, x.at[e][n].y);
        multiply(odd[n], a.z, b.z, a.w, b.w, x.at[e][n].z, x.at[e][n].w);
      }
    }
    // Two buffers: who still reads one has not yet come to the barrier of the other.
    float* buffer = sums + (turn & 1) * TILE_SUMS;
    float* to = buffer + warp * WARP_SUMS + g;
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        to[(n * 8 + 2 * t + (i & 1)) * TOKEN_STRIDE + (i >> 1) * 8] = even[n][i] + odd[n][i];
      }
    }
    __syncthreads();
    if (isWorker) {
      const float* from = buffer + token * TOKEN_STRIDE + row;
      float upper = 0, lower = 0;
#pragma unroll
      for (int w = 0; w < WARPS; w++) {
        upper += from[w * WARP_SUMS];
        lower += from[w * WARP_SUMS + 8];
      }
      use(tile, row, token, upper, lower, operands);
    }
    turn++;
  }
  // The buffers are free for what comes next.
  __syncthreads();
}

/** Where the tiles of a phase begin to go around the blocks: the same as in TileWalk. */
struct Rotation {
  int start = 0;
  TY_INLINE int next(int tiles) {
    const int first = (blockIdx.x + gridDim.x - start) % gridDim.x;
    start = (start + tiles) % gridDim.x;
    return first;
  }
};

/** Joins the splits of the attention: [batch][Q_WIDTH] in shared memory, rows 8 elements apart from the banks. */
TY_INLINE void joinSplits(const Step& step, scalar_t* mixed) {
  for (int i = threadIdx.x * 4; i < step.batch * Q_WIDTH; i += THREADS * 4) {
    const int sequence = i / Q_WIDTH, column = i % Q_WIDTH;
    const int splits = splitsOf(positionOf(step, sequence) + 1, step.maxSplits);
    const i64 base = (i64)sequence * step.maxSplits;
    float top = LOWEST, total = 0;
    float4 value = make_float4(0, 0, 0, 0);
    for (int s = 0; s < splits; s++) {
      const float lse = loadShared(step.splitLse + (base + s) * HEADS + column / HEAD_DIM);
      const float4 x = loadSharedFloats(step.splitOut + (base + s) * Q_WIDTH + column);
      const float higher = fmaxf(top, lse), old = exp2Fast(top - higher), now = exp2Fast(lse - higher);
      top = higher;
      total = total * old + now;
      value.x = value.x * old + x.x * now;
      value.y = value.y * old + x.y * now;
      value.z = value.z * old + x.z * now;
      value.w = value.w * old + x.w * now;
    }
    u32* to = reinterpret_cast<u32*>(mixed + sequence * (Q_WIDTH + 8) + column);
    to[0] = packPair(value.x / total, value.y / total);
    to[1] = packPair(value.z / total, value.w / total);
  }
  __syncthreads();
}

TY_KERNEL __launch_bounds__(THREADS, 1) decode_step_few(const Step step) {
  extern __shared__ uint4 memory[];
  float* area = reinterpret_cast<float*>(memory) + RING_BYTES / 4;
  float* squares = area + AREA_BYTES / 4;
  const Layer* layers = copyLayers(step, squares + WARPS * TOKENS);
  WeightStream weights(step, layers, memory);
  for (int i = 0; i < RING_ENTRIES; i++) weights.fetch();

  const int batch = step.batch;
  Rotation rotation;
  u32 arrivals = 0;
  const auto fromStream = [&](int token, int column) { return loadShared16(step.stream + (i64)token * HIDDEN + column); };
  const auto residual = [&](int tile, int row, int token) {
    const scalar_t* from = step.stream + (i64)token * HIDDEN + tile * 16 + row;
    return make_float2(loadShared(from), loadShared(from + 8));
  };
  const auto addToStream = [&](int tile, int row, int token, float upper, float lower, float2 old) {
    scalar_t* to = step.stream + (i64)token * HIDDEN + tile * 16 + row;
    fromFloat(to[0], old.x + upper);
    fromFloat(to[8], old.y + lower);
  };
  const auto nothing = [](int, int, int) { return make_float2(0, 0); };
  // The residual stream starts as the tokens' embeddings.
  for (int i = (blockIdx.x * THREADS + threadIdx.x) * 8; i < batch * HIDDEN; i += gridDim.x * THREADS * 8) {
    const scalar_t* row = step.table + (i64)step.tokens[i / HIDDEN] * HIDDEN;
    storePack(step.stream + i, loadPack(row + i % HIDDEN));
  }

  for (int l = 0; l < step.numLayers; l++) {
    const Layer& layer = layers[l];
    {
      Inputs<HIDDEN> x;
      if (l == 0) {
        x.load(batch, [&](int token, int column) {
          return loadShared16(step.table + (i64)step.tokens[token] * HIDDEN + column);
        });
      } else {
        x.load(batch, fromStream);
      }
      x.normalize(layer.inputNorm, step.eps, squares);
      constexpr int TILES = QKV_ROWS / 16;
      product<HIDDEN, false>(weights, x, rotation.next(TILES), TILES, batch, area,
                             [&](int tile, int row, int token) {
        return angleOf(step, tile % (HALF_DIM / 8) * 8 + row, token);
      }, [&](int tile, int row, int token, float upper, float lower, float2 angle) {
        storeHead(step, layer, tile / (HALF_DIM / 8), tile % (HALF_DIM / 8) * 8 + row, token, angle, upper, lower);
      });
    }
    gridBarrier(step, arrivals);
    attendCache(step, layer, area);
    gridBarrier(step, arrivals);
    {
      Inputs<Q_WIDTH> x;
      if (step.maxSplits > 1) {
        scalar_t* mixed = reinterpret_cast<scalar_t*>(area);
        joinSplits(step, mixed);
        x.load(batch, [&](int token, int column) {
          return *reinterpret_cast<const uint4*>(mixed + token * (Q_WIDTH + 8) + column);
        });
        __syncthreads();
      } else {
        x.load(batch, [&](int token, int column) { return loadShared16(step.mixed + (i64)token * Q_WIDTH + column); });
      }
      product<Q_WIDTH, false>(weights, x, rotation.next(HIDDEN / 16), HIDDEN / 16, batch, area, residual, addToStream);
    }
    gridBarrier(step, arrivals);
    {
      Inputs<HIDDEN> x;
      x.load(batch, fromStream);
      x.normalize(layer.postNorm, step.eps, squares);
      constexpr int TILES = FEED_FORWARD / 8;
      product<HIDDEN, false>(weights, x, rotation.next(TILES), TILES, batch, area,
                             nothing,
                             [&](int tile, int row, int token, float gate, float up, float2) {
        step.activated[(i64)token * FEED_FORWARD + tile * 8 + row] = cast<scalar_t>(silu(gate) * up);
      });
    }
    gridBarrier(step, arrivals);
    {
      Inputs<FEED_FORWARD> x;
      x.load(batch,
             [&](int token, int column) { return loadShared16(step.activated + (i64)token * FEED_FORWARD + column); });
      product<FEED_FORWARD, false>(weights, x, rotation.next(HIDDEN / 16), HIDDEN / 16, batch, area, residual, addToStream);
    }
    gridBarrier(step, arrivals);
  }

  Inputs<HIDDEN> x;
  x.load(batch, fromStream);
  x.normalize(step.finalNorm, step.eps, squares);
  u64 best = 0;
  const int tiles = tilesOf(HEAD, step.vocabSize);
  product<HIDDEN, true>(weights, x, rotation.next(tiles), tiles, batch, area, nothing,
                        [&](int tile, int row, int token, float upper, float lower, float2) {
    const int a = tile * 16 + row, b = a + 8;
    float* logits = step.logits == nullptr ? nullptr : step.logits + (i64)token * step.vocabSize;
    if (a < step.vocabSize) {
      best = larger(best, rankOf(upper, a));
      if (logits != nullptr) logits[a] = upper;
    }
    if (b < step.vocabSize) {
      best = larger(best, rankOf(lower, b));
      if (logits != nullptr) logits[b] = lower;
    }
  });
  // The eight rows of a token lie in neighbouring lanes.
#pragma unroll
  for (int distance = 1; distance < 8; distance <<= 1) {
    best = larger(best, __shfl_xor_sync(0xffffffffu, best, distance));
  }
  const int token = threadIdx.x >> 3;
  if ((threadIdx.x & 7) == 0 && token < batch) step.best[(i64)token * gridDim.x + blockIdx.x] = best;
  finishStep(step);
}
