// One decoding step of a Llama for up to 8 sequences. A warp of its own brings weights and caches by bulk copies into a ring in
// shared memory, in the order in which they are used and ahead of barriers and layers, because they depend on nothing of
// the step: so memory is busy while blocks wait. Products are tiles of 16 rows of a weight over all inputs: each of the
// other warps takes a sixteenth of the inputs, kept in registers.
#include "decode-cache-splits.cuh"

/** A chunk of a weight: 16 rows of PIECE inputs, of which each warp has PIECE / WARPS; 64 bytes apart from the banks. */
constexpr int PIECE = 512, WARP_PIECE = PIECE / WARPS;
constexpr u32 PIECE_BYTES = PIECE * 2, PIECE_PITCH = PIECE_BYTES + 64, WEIGHT_CHUNK_BYTES = 16 * PIECE_PITCH;
constexpr u32 ENTRY_BYTES = WEIGHT_CHUNK_BYTES;
static_assert(CHUNK_BYTES <= ENTRY_BYTES && ENTRY_BYTES % 1024 == 0, "a chunk of a cache in an entry");
/** Entries whose copies are under way at a time: more would only lengthen the queues in front of memory. */
constexpr int IN_FLIGHT = 3;
/** Sums of a tile are laid out [token][row] with gaps that keep the banks apart. */
constexpr int TOKEN_STRIDE = 20, WARP_SUMS = TOKENS * TOKEN_STRIDE, TILE_SUMS = WARPS * WARP_SUMS;
static_assert(HIDDEN % PIECE == 0 && Q_WIDTH % PIECE == 0 && FEED_FORWARD % PIECE == 0, "inputs of a warp");

/** Tiles of a product or items of attention. */
TY_INLINE int workOf(const Step& step, int phase) {
  return phase == ATTEND ? step.batch * KV_HEADS * step.maxSplits : tilesOf(phase, step.vocabSize);
}

/** Where the work of a phase begins to go around the blocks: on from phase to phase. */
struct Rotation {
  int start = 0;
  TY_INLINE int next(int work) {
    const int first = (blockIdx.x + gridDim.x - start) % gridDim.x;
    start = (start + work) % gridDim.x;
    return first;
  }
};

/** Barriers of a ring entry: it is full, it is empty. */
TY_INLINE u32 fullOf(u32 barriers, int entry) { return barriers + entry * 16; }
TY_INLINE u32 emptyOf(u32 barriers, int entry) { return barriers + entry * 16 + 8; }

/** A place in the ring and how often it went around. */
struct RingPlace {
  int entry = 0;
  u32 round = 0;
  TY_INLINE void advance() {
    if (++entry == RING_ENTRIES) {
      entry = 0;
      round ^= 1;
    }
  }
};

TY_INLINE void copyBulk(u32 to, const void* from, u32 bytes, u32 barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
               "r"(bytes), "r"(barrier)
               : "memory");
}

/** The warp that copies, for the whole step. */
struct Producer {
  const Step& step;
  u32 ring, barriers;
  RingPlace place, landing;
  int started = 0;

  /** Waits for room, then announces `bytes`; the lanes' copies follow. */
  TY_INLINE u32 open(u32 bytes) {
    mbarrierWait(emptyOf(barriers, place.entry), place.round ^ 1);
    if (started >= IN_FLIGHT) {
      mbarrierWait(fullOf(barriers, landing.entry), landing.round);
      landing.advance();
    }
    started++;
    if ((threadIdx.x & 31) == 0) mbarrierExpect(fullOf(barriers, place.entry), bytes);
    __syncwarp();
    return ring + place.entry * ENTRY_BYTES;
  }

  TY_INLINE void copyTile(const Layer& layer, int phase, int tile) {
    const int row = threadIdx.x & 15, inputs = inputsOf(phase);
    const int at = row < 8 ? upperRow(phase, tile) + row : lowerRow(phase, tile) + row - 8;
    // Behind the last row of the head stands the last.
    const scalar_t* from = weightOf(step, layer, phase) + (i64)(phase == HEAD ? min(at, step.vocabSize - 1) : at) * inputs;
    for (int piece = 0; piece < inputs; piece += PIECE) {
      const u32 to = open(16 * PIECE_BYTES);
      if ((threadIdx.x & 31) < 16) {
        copyBulk(to + row * PIECE_PITCH, from + piece, PIECE_BYTES, fullOf(barriers, place.entry));
      }
      place.advance();
    }
  }

  TY_INLINE void copyCache(const TensorMap* maps, int item) {
    const Span span(step, item);
    for (int chunk = span.begin; chunk < span.end; chunk++) {
      const u32 to = open(CHUNK_BYTES);
      if ((threadIdx.x & 31) == 0) copyChunk(to, maps, fullOf(barriers, place.entry), span.sequence, span.kvHead, chunk);
      place.advance();
    }
  }

  TY_INLINE void run(const Layer* layers) {
    Rotation rotation;
    const TensorMap* maps = reinterpret_cast<const TensorMap*>(step.maps);
    for (int layer = 0; layer <= step.numLayers; layer++) {
      const bool isHead = layer == step.numLayers;
      for (int phase = isHead ? HEAD : QKV; phase < (isHead ? END : HEAD); phase++) {
        const int work = workOf(step, phase);
        for (int at = rotation.next(work); at < work; at += gridDim.x) {
          if (phase == ATTEND) copyCache(maps + layer * LAYER_MAPS, at);
          else copyTile(layers[layer], phase, at);
        }
      }
    }
  }
};

/** The other side of the ring, of each computing warp. */
struct Ring {
  u32 ring, barriers;
  RingPlace place;

  /** Waits for the next entry and gives its address. */
  TY_INLINE u32 wait() const {
    mbarrierWait(fullOf(barriers, place.entry), place.round);
    return ring + place.entry * ENTRY_BYTES;
  }
  /** The warp has read the entry. */
  TY_INLINE void release() {
    __syncwarp();
    if ((threadIdx.x & 31) == 0) mbarrierArrive(emptyOf(barriers, place.entry));
    place.advance();
  }
  /** This lane's part of a chunk of a weight: 8 inputs of rows g and g + 8. */
  TY_INLINE void take(uint4& a, uint4& b) {
    const int lane = threadIdx.x & 31;
    const u32 from = wait() + (lane >> 2) * PIECE_PITCH + (threadIdx.x >> 5) * WARP_PIECE * 2 + (lane & 3) * 16;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(a.x), "=r"(a.y), "=r"(a.z), "=r"(a.w) : "r"(from) : "memory");
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(b.x), "=r"(b.y), "=r"(b.z), "=r"(b.w)
                 : "r"(from + 8 * PIECE_PITCH)
                 : "memory");
    release();
  }
};

/** This lane's part of the inputs [token][K]: tokens g, g + 8 ..; 8 elements of each piece. */
template <int K>
struct Inputs {
  static constexpr int ENTRIES = K / PIECE;
  uint4 at[ENTRIES][TOKEN_TILES];

  static TY_INLINE int column(int entry) {
    return entry * PIECE + (threadIdx.x >> 5) * WARP_PIECE + (threadIdx.x & 3) * 8;
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

  /** The part of a norm's weight that this lane needs: loaded before the inputs are waited for. */
  struct Weight {
    uint4 at[ENTRIES];
    TY_INLINE Weight(const scalar_t* weight) {
#pragma unroll
      for (int e = 0; e < ENTRIES; e++) at[e] = *reinterpret_cast<const uint4*>(weight + column(e));
    }
  };

  /** RMSNorm of each token over all warps: x * rstd * weight. */
  TY_INLINE void normalize(const Weight& weight, float eps, float* shared) {
    const int warp = threadIdx.x >> 5, t = threadIdx.x & 3;
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
    blockSync();
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < WARPS; w++) sum += shared[w * TOKENS + token(n)];
      const float rstd = rsqrtf(sum / K + eps);
#pragma unroll
      for (int e = 0; e < ENTRIES; e++) {
        const Pack<scalar_t>& x = reinterpret_cast<const Pack<scalar_t>&>(at[e][n]);
        const Pack<scalar_t>& scale = reinterpret_cast<const Pack<scalar_t>&>(weight.at[e]);
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
TY_INLINE void product(Ring& ring, const Inputs<K>& x, int first, int tiles, int batch, float* sums,
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
      ring.take(a, b);
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
    blockSync();
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
  blockSync();
}

TY_KERNEL __launch_bounds__(THREADS + 32, 1) decode_step_few(const Step step) {
  extern __shared__ __align__(1024) u8 memory[];
  __shared__ __align__(8) u64 barrierWords[2 * RING_ENTRIES];
  const u32 ringAt = sharedAddress(memory), barriers = sharedAddress(barrierWords);
  float* area = reinterpret_cast<float*>(memory + RING_ENTRIES * ENTRY_BYTES);
  float* squares = area + AREA_BYTES / 4;
  Layer* layers = reinterpret_cast<Layer*>(squares + WARPS * TOKENS);
  for (int i = threadIdx.x; i < step.numLayers * (int)(sizeof(Layer) / 8); i += blockDim.x) {
    reinterpret_cast<u64*>(layers)[i] = reinterpret_cast<const u64*>(step.layers)[i];
  }
  if (threadIdx.x == 0) {
    for (int i = 0; i < RING_ENTRIES; i++) {
      mbarrierInit(fullOf(barriers, i), 1);
      mbarrierInit(emptyOf(barriers, i), WARPS);
    }
    mbarrierInitFence();
  }
  __syncthreads();
  if (threadIdx.x >= THREADS) {
    Producer producer{step, ringAt, barriers};
    producer.run(layers);
    return;
  }

  Ring ring{ringAt, barriers};
  const int batch = step.batch, items = workOf(step, ATTEND), blocks = gridDim.x;
  const bool isSplit = hasSplits(step);
  Rotation rotation;
  // Blocks that are done with a phase once it is over: those that have a part in it, in every layer.
  const auto expected = [&](int phase, int layer) { return (u32)((layer + 1) * min(workOf(step, phase), blocks)); };
  const auto fromStream = [&](int token, int column) { return loadShared16(step.stream + (i64)token * HIDDEN + column); };
  const auto fromTable = [&](int token, int column) {
    return *reinterpret_cast<const uint4*>(step.table + (i64)step.tokens[token] * HIDDEN + column);
  };
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

  for (int l = 0; l < step.numLayers; l++) {
    const Layer& layer = layers[l];
    if (const int first = rotation.next(QKV_TILES); first < QKV_TILES) {
      Inputs<HIDDEN> x;
      const Inputs<HIDDEN>::Weight norm(layer.inputNorm);
      if (l == 0) {
        x.load(batch, fromTable);
      } else {
        await(step, DOWN, expected(DOWN, l - 1));
        x.load(batch, fromStream);
      }
      x.normalize(norm, step.eps, squares);
      product<HIDDEN, false>(ring, x, first, QKV_TILES, batch, area, [&](int tile, int row, int token) {
        return angleOf(step, tile % (HALF_DIM / 8) * 8 + row, token);
      }, [&](int tile, int row, int token, float upper, float lower, float2 angle) {
        storeHead(step, layer, tile / (HALF_DIM / 8), tile % (HALF_DIM / 8) * 8 + row, token, angle, upper, lower);
      });
      arrive(step, QKV);
    }
    if (const int first = rotation.next(items); first < items) {
      await(step, QKV, expected(QKV, l));
      attendItems(step, layer, ring, first, items, area);
      if (isSplit) {
        arrive(step, SPLIT);
        await(step, SPLIT, expected(ATTEND, l));
        joinItems(step, first, items);
        blockSync();
      }
      arrive(step, ATTEND);
    }
    if (const int first = rotation.next(HIDDEN / 16); first < HIDDEN / 16) {
      await(step, ATTEND, expected(ATTEND, l));
      Inputs<Q_WIDTH> x;
      x.load(batch, [&](int token, int column) { return loadShared16(step.mixed + (i64)token * Q_WIDTH + column); });
      product<Q_WIDTH, false>(ring, x, first, HIDDEN / 16, batch, area, [&](int tile, int row, int token) {
        if (l > 0) return residual(tile, row, token);
        // The residual stream starts as the tokens' embeddings.
        const scalar_t* from = step.table + (i64)step.tokens[token] * HIDDEN + tile * 16 + row;
        return make_float2(toFloat(from[0]), toFloat(from[8]));
      }, addToStream);
      arrive(step, O);
    }
    if (const int first = rotation.next(FEED_FORWARD / 8); first < FEED_FORWARD / 8) {
      const Inputs<HIDDEN>::Weight norm(layer.postNorm);
      await(step, O, expected(O, l));
      Inputs<HIDDEN> x;
      x.load(batch, fromStream);
      x.normalize(norm, step.eps, squares);
      product<HIDDEN, false>(ring, x, first, FEED_FORWARD / 8, batch, area, nothing,
                             [&](int tile, int row, int token, float gate, float up, float2) {
        step.activated[(i64)token * FEED_FORWARD + tile * 8 + row] = cast<scalar_t>(silu(gate) * up);
      });
      arrive(step, GATE_UP);
    }
    if (const int first = rotation.next(HIDDEN / 16); first < HIDDEN / 16) {
      await(step, GATE_UP, expected(GATE_UP, l));
      Inputs<FEED_FORWARD> x;
      x.load(batch,
             [&](int token, int column) { return loadShared16(step.activated + (i64)token * FEED_FORWARD + column); });
      product<FEED_FORWARD, false>(ring, x, first, HIDDEN / 16, batch, area, residual, addToStream);
      arrive(step, DOWN);
    }
  }

  const Inputs<HIDDEN>::Weight norm(step.finalNorm);
  await(step, DOWN, expected(DOWN, step.numLayers - 1));
  Inputs<HIDDEN> x;
  x.load(batch, fromStream);
  x.normalize(norm, step.eps, squares);
  u64 best = 0;
  const int tiles = tilesOf(HEAD, step.vocabSize);
  product<HIDDEN, true>(ring, x, rotation.next(tiles), tiles, batch, area, nothing,
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
