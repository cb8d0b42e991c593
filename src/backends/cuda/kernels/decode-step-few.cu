// One decoding step of a Llama for up to 8 sequences. A warp of its own brings weights and caches by bulk copies into a ring in
// shared memory, in the order in which they are used and ahead of barriers and layers, because they depend on nothing of
// the step: so memory is busy while blocks wait. Products are tiles of 8 rows of a weight over all inputs: each of the other
// warps takes a sixteenth of the inputs, kept in registers. Norms scale what a product gives, because a sequence's scale is
// one number: the product need not wait for it.
//
// What blocks tell one another is tagged: decode-tags.cuh. A buffer is rewritten only by who has what was made of all that was read of it.
#include "decode-cache-splits.cuh"

/** A tile of a weight: four rows and the four that rope, SwiGLU or nothing joins to them. */
constexpr int TILE_ROWS = 8, PAIRS = 4;
/** A chunk of a tile: PIECE inputs of its rows, or STRIPE at the end, 64 bytes apart from the banks. Warps share a stripe. */
constexpr int PIECE = 1024, STRIPE = 512, WARP_STRIPE = STRIPE / WARPS;
constexpr u32 PIECE_PITCH = PIECE * 2 + 64, ENTRY_BYTES = (TILE_ROWS * PIECE_PITCH + 1023) / 1024 * 1024;
static_assert(CHUNK_BYTES <= ENTRY_BYTES && ENTRY_BYTES % 1024 == 0, "a chunk of a cache in an entry");
/** Entries whose copies are under way at a time: more would only lengthen the queues in front of memory. */
constexpr int IN_FLIGHT = 2;
/** When so many blocks only are missing, it is time to look for what they make. */
constexpr int STRAGGLERS = 4;
/** Sums of a tile: [token][row] of each warp. */
constexpr int WARP_SUMS = TOKENS * TILE_ROWS, TILE_SUMS = WARPS * WARP_SUMS;
static_assert(TOKENS == 8, "the rows of the products");
static_assert(HIDDEN % STRIPE == 0 && Q_WIDTH % STRIPE == 0 && FEED_FORWARD % STRIPE == 0, "inputs of a warp");

constexpr int QUAD_QKV = QKV_ROWS / 8, QUAD_STREAM = HIDDEN / 8, QUAD_GATE_UP = FEED_FORWARD / 4;
TY_INLINE int quadTilesOf(int phase, int vocabSize) {
  return phase == QKV ? QUAD_QKV : phase == GATE_UP ? QUAD_GATE_UP : phase == HEAD ? (vocabSize + 7) / 8 : QUAD_STREAM;
}
TY_INLINE int upperQuad(int phase, int tile) {
  if (phase == QKV) return tile / (HALF_DIM / 4) * HEAD_DIM + tile % (HALF_DIM / 4) * 4;
  return tile * (phase == GATE_UP ? 4 : 8);
}
TY_INLINE int lowerQuad(int phase, int tile) {
  return upperQuad(phase, tile) + (phase == QKV ? HALF_DIM : phase == GATE_UP ? FEED_FORWARD : 4);
}

/** Tiles of a product or items of attention. */
TY_INLINE int workOf(const Step& step, int phase) {
  return phase == ATTEND ? step.batch * KV_HEADS * step.maxSplits : quadTilesOf(phase, step.vocabSize);
}

/** Barriers of a ring entry: it is full, it is empty. */
TY_INLINE u32 fullOf(u32 barriers, int entry) { return barriers + entry * 16; }
TY_INLINE u32 emptyOf(u32 barriers, int entry) { return barriers + entry * 16 + 8; }

typedef Place<RING_ENTRIES> RingPlace;

TY_INLINE void copyBulk(u32 to, const void* from, u32 bytes, u32 barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "l"(readOncePolicy())
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
    const int row = threadIdx.x & 7, inputs = inputsOf(phase);
    const int at = row < PAIRS ? upperQuad(phase, tile) + row : lowerQuad(phase, tile) + row - PAIRS;
    // Behind the last row of the head stands the last.
    const scalar_t* from = weightOf(step, layer, phase) + (i64)(phase == HEAD ? min(at, step.vocabSize - 1) : at) * inputs;
    for (int input = 0; input < inputs; input += PIECE) {
      const u32 bytes = 2 * min(PIECE, inputs - input);
      const u32 to = open(TILE_ROWS * bytes);
      if ((threadIdx.x & 31) < TILE_ROWS) copyBulk(to + row * PIECE_PITCH, from + input, bytes, fullOf(barriers, place.entry));
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
  /** This lane's part of a chunk of `COUNT` stripes: 8 inputs of row g of each. */
  template <int COUNT>
  TY_INLINE void take(uint4 (&w)[COUNT]) {
    const int lane = threadIdx.x & 31;
    const u32 from = wait() + (lane >> 2) * PIECE_PITCH + (threadIdx.x >> 5) * (COUNT * WARP_STRIPE * 2) + (lane & 3) * 16;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                   : "=r"(w[i].x), "=r"(w[i].y), "=r"(w[i].z), "=r"(w[i].w)
                   : "r"(from + i * WARP_STRIPE * 2)
                   : "memory");
    }
    release();
  }
};

/** This lane's part of the inputs [token][K]: token g; 8 elements of each stripe. */
template <int K>
struct Inputs {
  static constexpr int ENTRIES = K / STRIPE;
  uint4 at[ENTRIES];

  static TY_INLINE int column(int entry) {
    // Warps share a chunk, so of a whole one each has two stripes' parts side by side.
    const bool isWhole = entry / 2 * PIECE + PIECE <= K;
    const int warp = threadIdx.x >> 5, inChunk = isWhole ? warp * 2 * WARP_STRIPE + entry % 2 * WARP_STRIPE : warp * WARP_STRIPE;
    return entry / 2 * PIECE + inChunk + (threadIdx.x & 3) * 8;
  }
  static TY_INLINE int token() { return (threadIdx.x & 31) >> 2; }

  /** From tokens' embeddings. */
  TY_INLINE void loadEmbeddings(const Step& step) {
    const scalar_t* row = step.table + (token() < step.batch ? (i64)step.tokens[token()] * K : 0);
#pragma unroll
    for (int e = 0; e < ENTRIES; e++) {
      at[e] = token() < step.batch ? *reinterpret_cast<const uint4*>(row + column(e)) : make_uint4(0, 0, 0, 0);
    }
  }

  /** From what other blocks write, [token][K]: waits until all of it has its tag. In bf16 it stays scaled by that. */
  TY_INLINE void load(const scalar_t* from, int batch, u32 tag) {
    const scalar_t* row = from + (i64)token() * K;
#pragma unroll
    for (int e = 0; e < ENTRIES; e++) at[e] = token() < batch ? loadWords(row + column(e)) : make_uint4(0, 0, 0, 0);
    u32 all = TAG_BITS, any = 0;
#pragma unroll
    for (int e = 0; e < ENTRIES; e++) {
      if (tag) all &= at[e].x & at[e].y & at[e].z & at[e].w;
      else any |= at[e].x | at[e].y | at[e].z | at[e].w;
    }
    const bool isNew = tag ? all == TAG_BITS : (any & TAG_BITS) == 0;
    if (token() < batch && !isNew) {
#pragma unroll
      for (int e = 0; e < ENTRIES; e++) {
        while (!isTagged(at[e], tag)) at[e] = loadWords(row + column(e));
      }
    }
#pragma unroll
    for (int e = 0; e < ENTRIES; e++) at[e] = withoutTag(at[e]);
    __syncwarp();
  }

  /** Takes off what the tag scaled. */
  TY_INLINE void untag(u32 tag) {
#pragma unroll
    for (int e = 0; e < ENTRIES; e++) {
      at[e] = make_uint4(untagPair(at[e].x, tag), untagPair(at[e].y, tag), untagPair(at[e].z, tag), untagPair(at[e].w, tag));
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

  /**
   * RMSNorm but for the scale of each token, which the sums of a product get: x * weight. What that scale is made of, the
   * sum of squares of this warp's part of each token, goes to `squares`, [warp][token].
   */
  TY_INLINE void weigh(const Weight& weight, float* squares) {
    float sum = 0;
#pragma unroll
    for (int e = 0; e < ENTRIES; e++) {
      const Pack<scalar_t> x = reinterpret_cast<const Pack<scalar_t>&>(at[e]);
      const Pack<scalar_t>& scale = reinterpret_cast<const Pack<scalar_t>&>(weight.at[e]);
      u32 y[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float low = toFloat(x.at[2 * i]), high = toFloat(x.at[2 * i + 1]);
        sum = fmaf(low, low, fmaf(high, high, sum));
        y[i] = packPair(low * toFloat(scale.at[2 * i]), high * toFloat(scale.at[2 * i + 1]));
      }
      at[e] = make_uint4(y[0], y[1], y[2], y[3]);
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if ((threadIdx.x & 3) == 0) squares[(threadIdx.x >> 5) * TOKENS + token()] = sum;
  }
};

/** RMSNorm's scale of a token, from what all warps gave. */
TY_INLINE float scaleOf(const float* squares, int token, float eps) {
  float sum = 0;
#pragma unroll
  for (int w = 0; w < WARPS; w++) sum += squares[w * TOKENS + token];
  return rmsScale(sum, eps);
}

/** Of a row and its pair, two neighbouring rows of the first four or, in odd lanes, of the others. */
TY_INLINE float2 neighbours(float upper, float lower) {
  const bool isOdd = threadIdx.x & 1;
  const float other = __shfl_xor_sync(0xffffffffu, isOdd ? upper : lower, 1);
  return isOdd ? make_float2(other, lower) : make_float2(upper, other);
}
/** Where those lie from the first row of a token's tile on, when the others begin at `lower`. */
TY_INLINE int neighboursAt(int lower) { return (threadIdx.x & 2) + (threadIdx.x & 1 ? lower : 0); }

/** These dims of a head of q, k or v: turned, then to q and, keys and values, to the sequence's next cache position, for later steps. */
TY_INLINE void storeHead(const Step& step, const Layer& layer, int tile, int token, float2 angle, float upper, float lower, u32 tag) {
  const int head = tile / (HALF_DIM / 4);
  const bool isKey = head >= HEADS && head < HEADS + KV_HEADS;
  const float cosine = head < HEADS + KV_HEADS ? angle.x : 1, sine = head < HEADS + KV_HEADS ? angle.y : 0;
  const float2 pair = neighbours(upper * cosine - lower * sine, lower * cosine + upper * sine);
  if (token >= step.batch) return;
  const int dim = tile % (HALF_DIM / 4) * 4 + neighboursAt(HALF_DIM);
  storeTagged(step.q + (i64)token * QKV_ROWS + head * HEAD_DIM + dim, pair.x, pair.y, tag);
  if (head < HEADS) return;
  const int kvHead = head - HEADS - (isKey ? 0 : KV_HEADS);
  scalar_t* cache = (isKey ? layer.keys : layer.values) + ((i64)token * step.capacity + positionOf(step, token)) * KV_WIDTH;
  *reinterpret_cast<u32*>(cache + kvHead * HEAD_DIM + dim) = packPair(pair.x, pair.y);
}

struct Nothing {};

/** Tags of the residual stream, in which O and DOWN write by turns. */
constexpr u32 INNER = 1, OUTER = 0;
/** Two neighbouring columns of the stream that a lane of a tile adds to: it alone reads them as a residual and writes them. */
TY_INLINE scalar_t* ownColumns(const Step& step, int tile, int token) {
  return step.stream + (i64)token * HIDDEN + tile * TILE_ROWS + neighboursAt(PAIRS);
}
/** What was loaded of them before the sums were there, `x`, is most often new. */
TY_INLINE void addToStream(const Step& step, int tile, int token, float upper, float lower, u32 x, u32 oldTag, u32 tag) {
  const float2 sum = neighbours(upper, lower);
  if (token >= step.batch) return;
  scalar_t* own = ownColumns(step, tile, token);
  while (!isTagged(x, oldTag)) x = loadWord(own);
  const float2 residual = unpackPair(untagPair(x, oldTag));
  storeTagged(own, residual.x + sum.x, residual.y + sum.y, tag);
}

/** Waits until nearly all of the blocks that have a part in a phase have said that they are done. */
TY_INLINE void awaitHint(const Step& step, int phase, u32 arrivals) {
  if (threadIdx.x == 0) awaitRelaxed(step, phase, arrivals > STRAGGLERS ? arrivals - STRAGGLERS : 0);
  blockSync();
}

/**
 * This block's tiles of a product: `use(tile, row, token, upper, lower, operands)` gets, in all lanes of a warp, the sums of one of the four pairs of
 * rows of a tile times `scale(token)`, and what `prepare(tile, row, token)` gave before: loads that the sums need not wait for. Warps finish tiles
 * by turns, or the first one all where `isFixed`; the last one says that the block is done with `phase`.
 */
template <int K, bool isFixed, typename Operands, typename Prepare, typename Scale, typename Use>
TY_INLINE void product(const Step& step, int phase, Ring& ring, const Inputs<K>& x, int first, int tiles, float* sums, Prepare&& prepare,
                       Scale&& scale, Use&& use) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, row = lane & 3, token = lane >> 2;
  int turn = 0;
  for (int tile = first; tile < tiles; tile += gridDim.x) {
    const bool isWorker = warp == (isFixed ? 0 : turn % WARPS);
    Operands operands = {};
    if (isWorker && token < step.batch) operands = prepare(tile, row, token);
    float even[4] = {}, odd[4] = {};
    const auto multiplyStripe = [&](const uint4& w, int entry) {
      multiply(even, x.at[entry].x, 0, x.at[entry].y, 0, w.x, w.y);
      multiply(odd, x.at[entry].z, 0, x.at[entry].w, 0, w.z, w.w);
    };
#pragma unroll
    for (int e = 0; e + 1 < Inputs<K>::ENTRIES; e += 2) {
      uint4 w[2];
      ring.take(w);
      multiplyStripe(w[0], e);
      multiplyStripe(w[1], e + 1);
    }
    if (Inputs<K>::ENTRIES % 2 != 0) {
      uint4 w[1];
      ring.take(w);
      multiplyStripe(w[0], Inputs<K>::ENTRIES - 1);
    }
    // Two buffers: who still reads one has not yet come to the barrier of the other.
    float* buffer = sums + (turn & 1) * TILE_SUMS;
    *reinterpret_cast<float2*>(buffer + warp * WARP_SUMS + token * TILE_ROWS + row * 2) = make_float2(even[0] + odd[0], even[1] + odd[1]);
    blockSync();
    if (isWorker) {
      const float* from = buffer + token * TILE_ROWS + row;
      float upper = 0, lower = 0;
#pragma unroll
      for (int w = 0; w < WARPS; w++) {
        upper += from[w * WARP_SUMS];
        lower += from[w * WARP_SUMS + PAIRS];
      }
      const float factor = scale(token);
      use(tile, row, token, upper * factor, lower * factor, operands);
      if (!isFixed && tile + (int)gridDim.x >= tiles && lane == 0) arriveRelaxed(step, phase);
    }
    turn++;
  }
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
  Rotation rotation;
  const Tags tags(step);
  // Blocks that are done with a phase once it is over: those that have a part in it, in every layer.
  const auto expected = [&](int phase, int layer) { return (u32)((layer + 1) * min(workOf(step, phase), blocks)); };
  const auto normScale = [&](int token) { return scaleOf(squares, token, step.eps); };
  const auto nothing = [](int, int, int) { return Nothing(); };

  for (int l = 0; l < step.numLayers; l++) {
    const Layer& layer = layers[l];
    const u32 tag = tags.of(l);
    const auto untag = [&](int) { return untagScale(tag); };
    if (const int first = rotation.next(QUAD_QKV); first < QUAD_QKV) {
      Inputs<HIDDEN> x;
      const Inputs<HIDDEN>::Weight norm(layer.inputNorm);
      if (l == 0) {
        x.loadEmbeddings(step);
      } else {
        awaitHint(step, DOWN, expected(DOWN, l - 1));
        x.load(step.stream, batch, OUTER);
        x.untag(OUTER);
      }
      x.weigh(norm, squares);
      product<HIDDEN, false, float2>(step, QKV, ring, x, first, QUAD_QKV, area, [&](int tile, int row, int token) {
        return angleOf(step, tile % (HALF_DIM / 4) * 4 + row, token);
      }, normScale, [&](int tile, int, int token, float upper, float lower, float2 angle) {
        storeHead(step, layer, tile, token, angle, upper, lower, tag);
      });
    }
    if (const int first = rotation.next(items); first < items) {
      awaitHint(step, QKV, expected(QKV, l));
      attendItems(step, ring, first, items, tag, l == step.numLayers - 1, area);
      if (threadIdx.x == 0) arriveRelaxed(step, ATTEND);
    }
    if (const int first = rotation.next(QUAD_STREAM); first < QUAD_STREAM) {
      awaitHint(step, ATTEND, expected(ATTEND, l));
      Inputs<Q_WIDTH> x;
      x.load(step.mixed, batch, tag);
      // The residual stream starts as the tokens' embeddings.
      product<Q_WIDTH, false, u32>(step, O, ring, x, first, QUAD_STREAM, area, [&](int tile, int, int token) {
        if (l > 0) return loadWord(ownColumns(step, tile, token));
        const float2 pair = unpackPair(constantPair(step.table + (i64)step.tokens[token] * HIDDEN + tile * TILE_ROWS + neighboursAt(PAIRS)));
        return packTagged(pair.x, pair.y, OUTER);
      }, untag, [&](int tile, int, int token, float upper, float lower, u32 residual) {
        addToStream(step, tile, token, upper, lower, residual, OUTER, INNER);
      });
    }
    if (const int first = rotation.next(QUAD_GATE_UP); first < QUAD_GATE_UP) {
      const Inputs<HIDDEN>::Weight norm(layer.postNorm);
      awaitHint(step, O, expected(O, l));
      Inputs<HIDDEN> x;
      x.load(step.stream, batch, INNER);
      x.untag(INNER);
      x.weigh(norm, squares);
      product<HIDDEN, false, Nothing>(step, GATE_UP, ring, x, first, QUAD_GATE_UP, area, nothing, normScale,
                             [&](int tile, int row, int token, float gate, float up, Nothing) {
        const float value = silu(gate) * up, next = __shfl_down_sync(0xffffffffu, value, 1);
        if (row % 2 == 0 && token < batch) storeTagged(step.activated + (i64)token * FEED_FORWARD + tile * PAIRS + row, value, next, tag);
      });
    }
    if (const int first = rotation.next(QUAD_STREAM); first < QUAD_STREAM) {
      awaitHint(step, GATE_UP, expected(GATE_UP, l));
      Inputs<FEED_FORWARD> x;
      x.load(step.activated, batch, tag);
      product<FEED_FORWARD, false, u32>(step, DOWN, ring, x, first, QUAD_STREAM, area, [&](int tile, int, int token) {
        return loadWord(ownColumns(step, tile, token));
      }, untag, [&](int tile, int, int token, float upper, float lower, u32 residual) {
        addToStream(step, tile, token, upper, lower, residual, INNER, OUTER);
      });
    }
  }

  const Inputs<HIDDEN>::Weight norm(step.finalNorm);
  awaitHint(step, DOWN, expected(DOWN, step.numLayers - 1));
  Inputs<HIDDEN> x;
  x.load(step.stream, batch, OUTER);
  x.untag(OUTER);
  x.weigh(norm, squares);
  u64 best = 0;
  const int tiles = quadTilesOf(HEAD, step.vocabSize);
  product<HIDDEN, true, Nothing>(step, HEAD, ring, x, rotation.next(tiles), tiles, area, nothing, normScale,
                        [&](int tile, int row, int token, float upper, float lower, Nothing) {
    if (token >= batch) return;
    const int a = tile * TILE_ROWS + row, b = a + PAIRS;
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
  // The rows of a token lie in neighbouring lanes.
#pragma unroll
  for (int distance = 1; distance < PAIRS; distance <<= 1) {
    best = larger(best, __shfl_xor_sync(0xffffffffu, best, distance));
  }
  const int token = threadIdx.x >> 2;
  if ((threadIdx.x & 3) == 0 && token < batch) step.best[(i64)token * gridDim.x + blockIdx.x] = best;
  if (finishStep(step, gridDim.x) && threadIdx.x == 0) step.counters[EPOCH_AT]++;
}
