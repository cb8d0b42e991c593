// One decoding step of a Llama for 9 to 64 sequences. Groups of four blocks share tiles of a weight; each block multiplies a
// quarter of the inputs and sends what it has to the block that owns the sequences. Of more than 32 sequences a block has pairs of gate
// and up by itself, where they are not too many.
// Weights and caches come by the copy engine into a ring that runs ahead over phases and layers; the inputs, which other
// blocks write, are brought by a warp of their own. One warpgroup multiplies; two finish tiles in turns, and attend. Inputs lie in
// memory as the products read them: panels of 64 columns of all sequences. Norms scale what a product gives, because a sequence's
// scale is one number.
//
// What blocks tell one another is tagged: decode-tags.cuh.
#ifndef TOKEN_TILES
#define TOKEN_TILES 8
#endif
#define STEP_WARPS 8
#include "decode-many-copies.cuh"
#include "decode-many-products.cuh"
#include "decode-tagged-heads.cuh"

/** This thread's sums of a unit: one sequence, pairs `pair`, pair + 1, pair + 8 and pair + 9. */
struct Sums {
  float2 upper[2], lower[2];
};

struct Finisher {
  const Step& step;
  const Memory& memory;
  const Member& member;
  const Tags& tags;
  u32 sent, sentNow = 0;
  RingPlace ring;
  InputPlace inputs;

  TY_INLINE int lane() const { return threadIdx.x & 31; }
  TY_INLINE int warpgroup() const { return threadIdx.x >> 7; }
  /** Which unit of a tile, pairs of it and sequences this thread finishes. */
  TY_INLINE int unit() const { return threadIdx.x >> 5 & 1; }
  TY_INLINE int pair() const { return lane() >> 2 & 6; }
  TY_INLINE int ownTile() const { return threadIdx.x >> 6 & 1; }
  TY_INLINE int token() const {
    const int column = 2 * (lane() & 3) + (lane() >> 2 & 1);
    return OWN_TOKENS < 8 ? member.rank / 2 * 8 + column : member.rank * OWN_TOKENS + ownTile() * 8 + column;
  }
  TY_INLINE bool hasPart() const { return OWN_TOKENS >= 8 || (lane() & 3) / 2 == (member.rank & 1); }
  /** Whether this thread finishes anything: `token` is one of the block's and of the batch. */
  TY_INLINE bool isOwner() const { return ownTile() < OWN_TILES && token() < step.batch && hasPart(); }

  /** The sums of a unit of tile number `tile` of all that were sent, parts in the order of the ranks; lanes swap so that each has one sequence. */
  TY_INLINE Sums sumsOf(u32 tile) const {
    const float* parts = partsOf(step, member.group, member.rank, tile) + (unit() * 2 * OWN_TILES + ownTile()) * PART_FLOATS;
    const u32 round = roundOf(tile);
    uint4 x[2][RANKS] = {};
    // Asks again only for what was not there.
    u32 missing = hasPart() ? (1 << 2 * RANKS) - 1 : 0;
    while (missing != 0) {
#pragma unroll
      for (int i = 0; i < 2 * RANKS; i++) {
        if (missing >> i & 1) x[i / RANKS][i % RANKS] = loadWords(parts + (i % RANKS * 4 + i / RANKS) * OWN_TILES * PART_FLOATS);
      }
#pragma unroll
      for (int i = 0; i < 2 * RANKS; i++) {
        if (isOfRound(x[i / RANKS][i % RANKS], round)) missing &= ~(1u << i);
      }
    }
    __syncwarp();
    Sums sums;
    const bool isOdd = lane() >> 2 & 1;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int r = 0; r < RANKS; r++) {
        sum.x += __uint_as_float(x[h][r].x & ~1u);
        sum.y += __uint_as_float(x[h][r].y & ~1u);
        sum.z += __uint_as_float(x[h][r].z & ~1u);
        sum.w += __uint_as_float(x[h][r].w & ~1u);
      }
      const float a = __shfl_xor_sync(0xffffffffu, isOdd ? sum.x : sum.y, 4), b = __shfl_xor_sync(0xffffffffu, isOdd ? sum.z : sum.w, 4);
      float2* out = h == 0 ? sums.upper : sums.lower;
      out[0] = isOdd ? make_float2(a, sum.y) : make_float2(sum.x, a);
      out[1] = isOdd ? make_float2(b, sum.w) : make_float2(sum.z, b);
    }
    return sums;
  }

  /**
   * Looks whether all inputs of a product that were brought are new, brings what is not once more, and takes tags off that would count.
   * CHECKERS warps share each panel.
   */
  TY_INLINE void checkInputs(int phase, int layer) {
    constexpr int PIECES = TOKENS * 8 / CHECKERS;
    const Inputs wanted(step, tags, phase, layer, member.rank);
    // A piece is 16 bytes, a row of a panel eight of them; from this lane's row on there are so many sequences.
    const int warp = threadIdx.x >> 5, from = warp % CHECKERS * PIECES + lane(), rows = step.batch - from / 8;
    const u32 bits = wanted.tag ? TAG_BITS : 0;
    const int panels = panelsOf(phase);
    for (int panel = 0; panel < panels; panel++, inputs.advance()) {
      if (inputs.entry % (WARPS / CHECKERS) != warp / CHECKERS) continue;
      mbarrierWait(memory.inputFull(inputs.entry), inputs.round);
      const u32 base = memory.input(inputs.entry) + from * 16;
      uint4 x[PIECES / 32];
#pragma unroll
      for (int i = 0; i < PIECES / 32; i++) x[i] = loadPiece(base + i * 512);
      // Bits that are not those of the tag, of all pieces of sequences that there are.
      u32 wrong = 0;
#pragma unroll
      for (int i = 0; i < PIECES / 32; i++) {
        const u32 of = (x[i].x ^ bits) | (x[i].y ^ bits) | (x[i].z ^ bits) | (x[i].w ^ bits);
        if (i * 4 < rows) wrong |= of;
      }
      if (!IS_SCALED || __any_sync(0xffffffffu, (wrong & TAG_BITS) != 0)) {
#pragma unroll
        for (int i = 0; i < PIECES / 32; i++) {
          while (i * 4 < rows && !isTagged(x[i], wanted.tag)) {
            x[i] = loadWords(wanted.at(panel) + (from + i * 32) * 8);
          }
          storeShared16(base + i * 512, withoutTag(x[i]));
        }
        fenceAsyncProxy();
        __syncwarp();
      }
      if (lane() == 0) mbarrierArrive(memory.inputChecked(inputs.entry));
    }
  }

  /**
   * Finishes this warpgroup's tiles of a product and says so. `begin()` is called once, when it is worth asking for
   * sums of the inputs' squares; `prepare(unit)` loads what `finish(unit, operands, sums)` needs beside the sums.
   */
  template <typename Begin, typename Prepare, typename Finish>
  TY_INLINE void product(int phase, int layer, const Share& share, Begin&& begin, Prepare&& prepare, Finish&& finish) {
    bool hasTile = false;
    // What is streamed comes once more for each tile.
    const bool isStreamed = panelsOf(phase) > INPUT_PANELS;
    checkInputs(phase, layer);
    // Here all warps know that some input is new, and that the block is done with all tiles before: so no sums, squares or barriers
    // that follow can be those of two rounds ago.
    blockSync();
    for (int first = share.first; first < share.end; first += TILE_UNITS, sent++, sentNow++) {
      const int units = min(TILE_UNITS, share.end - first);
      ring.skip(entriesOf(phase, units));
      if (isStreamed && first + TILE_UNITS < share.end) checkInputs(phase, layer);
      if (((first - share.first) / TILE_UNITS & 1) != warpgroup()) continue;
      const bool isFirst = !hasTile;
      hasTile = true;
      if (ownTile() >= OWN_TILES) continue;
      if (isFirst) begin();
      const bool isNeeded = unit() < units;
      const auto operands = prepare(first + (isNeeded ? unit() : 0));
      // Before this block has sent its part, asking for the others' would only keep the second-level cache busy.
      mbarrierWait(memory.sent(sentNow % FINISHERS), sentNow / FINISHERS & 1);
      wait(PATIENCE);
      Sums sums;
      if (isNeeded) sums = sumsOf(sent);
      if (lane() == 0) mbarrierArrive(memory.read(sentNow % FINISHERS));
      if (isNeeded) finish(first + unit(), operands, sums);
    }
    if (hasTile && phase != HEAD) {
      barrierSync(2 + warpgroup(), 128);
      if (threadIdx.x % 128 == 0) arriveRelaxed(step, phase);
    }
  }

  /** Softmax attention of this block's items. */
  TY_INLINE void attend(int layer, int work, u32 tag, float* area) {
    const int warp = threadIdx.x >> 5, teamWarps = step.teamWarps, teams = teamsOf(step), team = warp / teamWarps, inTeam = warp % teamWarps;
    float* stats = area;
    float* outputs = area + 2 * WARPS * HEAD_ROWS;
    const Item own(step, work * teams + team);
    const int otherChunks = teams == 1 ? 0 : Item(step, work * teams + (team ^ 1)).chunks;
    // Positions of a chunk that this warp takes, and of how many chunks it takes which.
    const int part = inTeam % UNITS * 16, turn = inTeam / UNITS, turns = teamWarps / UNITS;
    HeadAttention attention;
    TaggedHeads heads(attention, step, min(own.sequence, step.batch - 1), own.kvHead);
    heads.awaitQueries(attention, tag);
    for (int chunk = 0; chunk < max(own.chunks, otherChunks); chunk++) {
#pragma unroll
      for (int which = 0; which < 2; which++) {
        const bool isOwn = which == team;
        if (chunk >= (isOwn ? own.chunks : otherChunks)) continue;
        mbarrierWait(memory.full(ring.entry), ring.round);
        const u32 at = memory.copy(ring.entry);
        const int count = own.length - chunk * CHUNK_POSITIONS - part;
        if (isOwn && count > 0 && (chunk & (turns - 1)) == turn) {
          if (count <= 16) heads.awaitNewest(tag).patch(at, part + count - 1, part + 16);
          attention.take(at, part, count, step.scale * LOG2_E * untagScale(tag));
        }
        __syncwarp();
        if (lane() == 0) mbarrierArrive(memory.empty(ring.entry));
        ring.advance();
      }
    }
    attention.store(stats + 2 * warp * HEAD_ROWS, outputs + warp * HEAD_ROWS * HEAD_DIM);
    blockSync();
    const int first = team * teamWarps;
#pragma unroll 2
    for (int i = threadIdx.x - first * 32; own.chunks > 0 && i < GROUP_HEADS * HALF_DIM; i += teamWarps * 32) {
      MergedHead merged;
      const float2 x = merged.pair(stats, outputs, first, first + teamWarps, i / HALF_DIM, i % HALF_DIM * 2);
      storeTagged(inPanels(step.mixed, own.kvHead * GROUP_HEADS * HEAD_DIM + 2 * i, own.sequence), x.x, x.y, tag);
    }
    fenceAsyncProxy();
    blockSync();
  }
};

/**
 * Of RMSNorm, from the sums of squares of parts of a sequence, [HIDDEN / 32][TOKENS], whose last bits are their tags: four lanes share a sequence.
 */
TY_INLINE float scaleOf(const Step& step, const float* squares, u32 tag, int token) {
  constexpr int COUNT = HIDDEN / 32 / 4;
  const float* from = squares + (threadIdx.x & 31) / 8 * TOKENS + token;
  float sum;
  bool isNew;
  do {
    u32 x[COUNT];
    sum = 0;
    isNew = true;
#pragma unroll
    for (int i = 0; i < COUNT; i++) x[i] = loadWord(from + i * 4 * TOKENS);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      isNew &= token >= step.batch || (x[i] & 1) == tag;
      sum += __uint_as_float(x[i] & ~1u);
    }
  } while (!isNew);
  __syncwarp();
  sum += __shfl_xor_sync(0xffffffffu, sum, 8);
  sum += __shfl_xor_sync(0xffffffffu, sum, 16);
  return rmsScale(sum, step.eps);
}

/** The inputs of the first layer, from the tokens' embeddings: a warp a sequence and 64 columns. */
TY_INLINE void embedTokens(const Step& step, const scalar_t* norm, u32 tag) {
  const int lane = threadIdx.x & 31;
  for (int task = blockIdx.x * WARPS + (threadIdx.x >> 5); task < step.batch * (HIDDEN / 64); task += gridDim.x * WARPS) {
    const int token = task / (HIDDEN / 64), tile = task % (HIDDEN / 64), column = tile * 64 + lane * 2;
    const float2 pair = unpackPair(constantPair(step.table + (i64)step.tokens[token] * HIDDEN + column)), weight = unpackPair(constantPair(norm + column));
    storeTagged(inPanels(scaledOf(step, false), column, token), pair.x * weight.x, pair.y * weight.y, tag);
    const float sum = warpSum(pair.x * pair.x + pair.y * pair.y);
    if (lane < 2) storeTaggedFloat(squaresOf(step, false) + (tile * 2 + lane) * TOKENS + token, lane == 0 ? sum : 0, tag);
  }
}

struct Nothing {};
/** What is added to the stream, and the weights of the norm that reads it next. */
struct Residual {
  u32 old[2][2], norm[2][2];
};
struct Angles {
  float2 cos[2], sin[2];
};

/** What finishes each product of a step, and its attention: all of the step but copies and products themselves. */
TY_INLINE void finishAll(const Step& step, const Memory& memory, const Member& member, u32* sent, float* area) {
  const Tags tags(step);
  Finisher finisher{step, memory, member, tags, *sent};
  const Layer* layers = step.layers;
  const int token = finisher.token(), pair = finisher.pair();
  const bool isOwner = finisher.isOwner();
  Dealer dealer(member);
  Rotation items;
  embedTokens(step, layers[0].inputNorm, tags.into(0));
  blockSync();
  if (threadIdx.x == 0) arriveRelaxed(step, EMBED);

  // What products are scaled by, and the tag of what is made of them.
  float scale;
  u32 tag;
  const auto columnOf = [&](int unit, int i) { return unit * 2 * UNIT_PAIRS + pair + i % 2 * 8 + i / 2 * UNIT_PAIRS; };
  // The stream begins as the embedding; after that it is what this thread wrote.
  const auto loadResidual = [&](int unit, const scalar_t* norm, bool isBegin) {
    Residual x = {};
    const scalar_t* from = isBegin && isOwner ? step.table + (i64)step.tokens[token] * HIDDEN : step.stream + (i64)token * HIDDEN;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (isOwner) x.old[i / 2][i % 2] = loadSharedPair(from + columnOf(unit, i));
      x.norm[i / 2][i % 2] = constantPair(norm + columnOf(unit, i));
    }
    return x;
  };
  const auto addToStream = [&](int unit, const Residual& x, const Sums& sums, bool isInner) {
    float squares = 0;
    if (isOwner) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float2 old = unpackPair(x.old[i / 2][i % 2]), norm = unpackPair(x.norm[i / 2][i % 2]);
        const float2 sum = (i / 2 == 0 ? sums.upper : sums.lower)[i % 2];
        const u32 rounded = packPair(old.x + sum.x * scale, old.y + sum.y * scale);
        const float2 y = unpackPair(rounded);
        *reinterpret_cast<u32*>(step.stream + (i64)token * HIDDEN + columnOf(unit, i)) = rounded;
        storeTagged(inPanels(scaledOf(step, isInner), columnOf(unit, i), token), y.x * norm.x, y.y * norm.y, tag);
        squares += y.x * y.x + y.y * y.y;
      }
    }
    squares += __shfl_xor_sync(0xffffffffu, squares, 8);
    squares += __shfl_xor_sync(0xffffffffu, squares, 16);
    if (isOwner && finisher.lane() < 8) storeTaggedFloat(squaresOf(step, isInner) + unit * TOKENS + token, squares, tag);
  };
  const auto loadAngles = [&](int unit) {
    Angles angles = {};
    if (isOwner) {
      const i64 at = (i64)nextPosition[token] * HALF_DIM + unit % HEAD_UNITS * UNIT_PAIRS + pair;
#pragma unroll
      for (int i = 0; i < 2; i++) {
        angles.cos[i] = *reinterpret_cast<const float2*>(step.cos + at + i * 8);
        angles.sin[i] = *reinterpret_cast<const float2*>(step.sin + at + i * 8);
      }
    }
    return angles;
  };
  const auto storeHeads = [&](const Layer& layer, int unit, const Angles& angles, const Sums& sums) {
    if (!isOwner) return;
    const int head = unit / HEAD_UNITS, dim = unit % HEAD_UNITS * UNIT_PAIRS + pair;
    const i64 cached = ((i64)token * step.capacity + nextPosition[token]) * KV_WIDTH + dim;
    scalar_t* to = step.q + (i64)token * QKV_ROWS + head * HEAD_DIM + dim;
    scalar_t* cache = head < HEADS              ? nullptr
                      : head < HEADS + KV_HEADS ? layer.keys + cached + (head - HEADS) * HEAD_DIM
                                                : layer.values + cached + (head - HEADS - KV_HEADS) * HEAD_DIM;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float2 upper = make_float2(sums.upper[i].x * scale, sums.upper[i].y * scale);
      float2 lower = make_float2(sums.lower[i].x * scale, sums.lower[i].y * scale);
      if (head < HEADS + KV_HEADS) {
        const float2 c = angles.cos[i], s = angles.sin[i];
        const float2 turned = make_float2(upper.x * c.x - lower.x * s.x, upper.y * c.y - lower.y * s.y);
        lower = make_float2(lower.x * c.x + upper.x * s.x, lower.y * c.y + upper.y * s.y);
        upper = turned;
      }
      storeTagged(to + i * 8, upper.x, upper.y, tag);
      storeTagged(to + i * 8 + HALF_DIM, lower.x, lower.y, tag);
      if (cache != nullptr) {
        *reinterpret_cast<u32*>(cache + i * 8) = packPair(upper.x, upper.y);
        *reinterpret_cast<u32*>(cache + i * 8 + HALF_DIM) = packPair(lower.x, lower.y);
      }
    }
  };
  const auto storeActivated = [&](int unit, Nothing, const Sums& sums) {
    if (!isOwner) return;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const float x = silu(sums.upper[i].x * scale) * (sums.lower[i].x * scale);
      const float y = silu(sums.upper[i].y * scale) * (sums.lower[i].y * scale);
      storeTagged(inPanels(step.activated, unit * UNIT_PAIRS + pair + i * 8, token), x, y, tag);
    }
  };
  u64 best = 0;
  const auto rankLogits = [&](int unit, Nothing, const Sums& sums) {
    if (!isOwner) return;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const float2 two = (i / 4 == 0 ? sums.upper : sums.lower)[i / 2 % 2];
      const int id = columnOf(unit, i / 2) + i % 2;
      if (id >= step.vocabSize) continue;
      const float logit = (i % 2 == 0 ? two.x : two.y) * scale;
      best = larger(best, rankOf(logit, id));
      if (step.logits != nullptr) step.logits[(i64)token * step.vocabSize + id] = logit;
    }
  };
  const auto nothing = [](int) { return Nothing(); };

  const auto attend = [&](int l) {
    const int work = attendWorkOf(step);
    const int first = items.next(work);
    if (first >= work) return;
    if (threadIdx.x == 0) awaitRelaxed(step, QKV, queriesOf(step, l));
    blockSync();
    for (int at = first; at < work; at += gridDim.x) finisher.attend(l, at, tags.of(l), area);
    if (threadIdx.x == 0) arriveRelaxed(step, ATTEND);
  };
  const auto scaleGates = [&](int l) {
    finisher.checkInputs(GATE_UP, l);
    finisher.ring.skip(GATE_PANELS);
    // A warp has the scales of eight sequences.
    const u32 inputTag = tags.of(l);
    const int sequence = threadIdx.x / 32 * 8 + threadIdx.x % 8;
    const float x = scaleOf(step, squaresOf(step, true), inputTag, sequence);
    if (threadIdx.x % 32 < 8) gateScales[sequence] = x * untagScale(inputTag);
    barrierArrive(GATE_SCALES, THREADS + 32 * MULTIPLIERS);
  };
  const auto product = [&](int phase, int l) {
    const Share share = dealer.next(step, phase);
    if (share.first >= share.end) return;
    const auto finish = [&](auto&& begin, auto&& prepare, auto&& end) { finisher.product(phase, l, share, begin, prepare, end); };
    const bool isFirst = phase == QKV || phase == HEAD, isInner = phase == O;
    const u32 inputTag = isFirst ? tags.into(l) : tags.of(l);
    const auto loadScale = [&] { scale = scaleOf(step, squaresOf(step, !isFirst), inputTag, token) * untagScale(inputTag); };
    tag = phase == DOWN ? tags.into(l + 1) : tags.of(l);
    if (phase == QKV) {
      const Layer layer = layers[l];
      finish(loadScale, loadAngles, [&](int unit, const Angles& angles, const Sums& sums) { storeHeads(layer, unit, angles, sums); });
    } else if (phase == GATE_UP) {
      finish(loadScale, nothing, storeActivated);
    } else if (phase == HEAD) {
      finish(loadScale, nothing, rankLogits);
    } else {
      const scalar_t* norm = isInner ? layers[l].postNorm : l + 1 < step.numLayers ? layers[l + 1].inputNorm : step.finalNorm;
      scale = untagScale(inputTag);
      finish([] {}, [&](int unit) { return loadResidual(unit, norm, isInner && l == 0); },
             [&](int unit, const Residual& x, const Sums& sums) { addToStream(unit, x, sums, isInner); });
    }
  };
  // The order of forEachPhase, written out: each product is finished in its own way.
  for (int l = 0; l < step.numLayers; l++) {
    product(QKV, l);
    attend(l);
    product(O, l);
    if constexpr (HAS_OWN_GATES) {
      if (hasGates()) scaleGates(l);
    } else {
      product(GATE_UP, l);
    }
    product(DOWN, l);
  }
  product(HEAD, step.numLayers);

  // The area is free when all that comes there has been multiplied.
  u64* bests = reinterpret_cast<u64*>(area);
  barrierSync(ALL_MULTIPLIED, THREADS + 32 * MULTIPLIERS);
  bests[threadIdx.x] = isOwner ? best : 0;
  blockSync();
  const int own = threadIdx.x, sequence = member.rank * OWN_TOKENS + own;
  if (own < OWN_TOKENS && sequence < step.batch) {
    u64 top = 0;
    // Threads of this sequence: lanes of its column, in every warp of its eight.
    const int column = OWN_TOKENS < 8 ? member.rank % 2 * 4 + own : own % 8, tile = OWN_TOKENS < 8 ? 0 : own / 8;
    for (int w = 0; w < WARPS; w++) {
      if ((w >> 1 & 1) != tile) continue;
      for (int g = column & 1; g < 8; g += 2) top = larger(top, bests[w * 32 + g * 4 + column / 2]);
    }
    step.best[(i64)sequence * member.groups + member.group] = top;
  }
  if (member.rank == 0 && threadIdx.x == 0) *sent = finisher.sent;
  if (finishStep(step, member.groups) && threadIdx.x == 0) step.counters[EPOCH_AT]++;
}

TY_KERNEL __launch_bounds__(32 * ALL_WARPS, 1) decode_step_many(const Step step) {
  extern __shared__ __align__(1024) u8 sharedMemory[];
  const Memory memory{sharedAddress(sharedMemory)};
  const Member member;
  const int warp = threadIdx.x >> 5;
  if (threadIdx.x == 0) {
    for (int i = 0; i < RING_SLOTS; i++) {
      mbarrierInit(memory.full(i), 1);
      // The warps that attend, or those that multiply, which count twice.
      mbarrierInit(memory.empty(i), WARPS);
    }
    for (int i = 0; i < INPUT_PANELS; i++) {
      mbarrierInit(memory.inputFull(i), 1);
      mbarrierInit(memory.inputEmpty(i), MULTIPLIERS);
      mbarrierInit(memory.inputChecked(i), CHECKERS);
    }
    for (int i = 0; i < FINISHERS; i++) {
      mbarrierInit(memory.sent(i), MULTIPLIERS);
      mbarrierInit(memory.read(i), OWN_TILES == 1 ? 2 : 4);
    }
    mbarrierInitFence();
  }
  if ((int)threadIdx.x < step.batch) nextPosition[threadIdx.x] = positionOf(step, threadIdx.x);
  __syncthreads();
  // Tiles that this group has sent since its buffers were zeros.
  u32* sent = step.counters + COUNTERS * COUNTER_WORDS + member.group;
  if (warp < WARPS) {
    increaseRegisters<FINISHER_REGISTERS>();
    finishAll(step, memory, member, sent, reinterpret_cast<float*>(sharedMemory + INPUTS_AT));
  } else if (warp < WARPS + MULTIPLIERS) {
    decreaseRegisters<MULTIPLIER_REGISTERS>();
    Multiplier multiplier{step, memory, member, *sent};
    multiplier.run();
    barrierArrive(ALL_MULTIPLIED, THREADS + 32 * MULTIPLIERS);
  } else {
    decreaseRegisters<COPIER_REGISTERS>();
    const bool isFirst = threadIdx.x % 32 == 0;
    if (warp == WARPS + MULTIPLIERS && isFirst) Copier{step, memory, member}.run();
    if (warp == WARPS + MULTIPLIERS + 1 && isFirst) bringInputs(step, memory, member);
  }
}
