// The warpgroup of decode-step-many.cu that multiplies: how parts of sums get to the blocks that own the sequences, and what becomes of a
// block's own gates.
#pragma once
#include "decode-many-plan.cuh"

/** Where a block of this group finds the parts of a tile, in buffers by turns. */
TY_INLINE float* partsOf(const Step& step, int group, int owner, u32 tile) {
  return step.partials + (i64)((group * RANKS + owner) * BUFFERS + tile % BUFFERS) * EXCHANGE_FLOATS + (threadIdx.x & 31) * 4;
}
/** The last bit of the parts of a tile; memory begins as zeros. */
TY_INLINE u32 roundOf(u32 tile) { return tile / BUFFERS & 1 ^ 1; }

struct Multiplier {
  const Step& step;
  const Memory& memory;
  const Member& member;
  /** Tiles that the group has sent since its buffers were zeros, and in this step. */
  u32 sent, sentNow = 0;
  RingPlace ring;
  InputPlace inputs;

  TY_INLINE int lane() const { return threadIdx.x & 31; }

  /**
   * d = this block's quarter of a tile of 2 units, or of 1 in the upper half of d: what lies behind the one is multiplied, too, and not
   * used. The inputs are let go with `isLast`, and are new where `isNew`.
   */
  TY_INLINE void multiplyTile(float (&d)[TOKENS / 2], int phase, int units, bool isNew, bool isLast) {
    const int panels = panelsOf(phase), panelsOfEntry = ENTRY_PIECES / units;
    InputPlace at = inputs, usedInputs = inputs;
    RingPlace used = ring;
    const auto releaseUsed = [&](bool isEntry) {
      if (lane() == 0 && isEntry) mbarrierArriveTwice(memory.empty(used.entry));
      if (isEntry) used.advance();
      if (!isLast) return;
      for (int i = 0; i < PANELS_AT_ONCE; i++) {
        if (lane() == 0) mbarrierArrive(memory.inputEmpty(usedInputs.entry));
        usedInputs.advance();
      }
    };
    bool wasLastOfEntry = false;
#pragma unroll 1
    for (int panel = 0; panel < panels; panel += PANELS_AT_ONCE) {
      const int ofEntry = panel & panelsOfEntry - 1;
      // Inputs first: when they are there, the caches before these weights have come and gone, as the parity of the next wait supposes.
      if (isNew) {
        InputPlace next = at;
#pragma unroll
        for (int i = 0; i < PANELS_AT_ONCE; i++) {
          mbarrierWait(memory.inputChecked(next.entry), next.round);
          next.advance();
        }
      }
      if (ofEntry == 0) mbarrierWait(memory.full(ring.entry), ring.round);
      const u32 weights = memory.copy(ring.entry) + ofEntry * units * UNIT_BYTES;
      wgmmaFence();
#pragma unroll
      for (int i = 0; i < PANELS_AT_ONCE; i++) {
        const u64 a = descriptorOfRows(weights + i * units * UNIT_BYTES), b = descriptorOfRows(memory.input(at.entry));
#pragma unroll
        for (int k = 0; k < 4; k++) multiplyPanels(d, advance(a, k * 32), advance(b, k * 32), panel + i + k > 0);
        at.advance();
      }
      wgmmaCommit();
      const bool isLastOfEntry = ofEntry + PANELS_AT_ONCE == panelsOfEntry || panel + PANELS_AT_ONCE == panels;
      if (isLastOfEntry) ring.advance();
      // The products before these are done.
      wgmmaWait<1>();
      if (panel > 0) releaseUsed(wasLastOfEntry);
      wasLastOfEntry = isLastOfEntry;
    }
    wgmmaWait<0>();
    releaseUsed(true);
    keepAfterWait(d);
    if (isLast) inputs = at;
  }

  /**
   * Sends what this block has of a tile to the blocks that own the sequences, when this block has read all parts of the last but one.
   * So four buffers are enough: who had all parts of tile n - 2 knows that nobody still reads those of n - 4. A tile of one unit is
   * sent whole, so that the rounds of all parts go on.
   */
  TY_INLINE void send(const float (&d)[TOKENS / 2]) {
    const int warp = threadIdx.x >> 5 & 3, turn = sentNow % FINISHERS;
    if (sentNow >= FINISHERS) mbarrierWait(memory.read(turn), sentNow / FINISHERS - 1 & 1);
#pragma unroll
    for (int j = 0; j < TOKENS / 8; j++) {
      const int token = j * 8 + 2 * (lane() & 3);
      const int tile = OWN_TOKENS < 8 ? 0 : token % OWN_TOKENS / 8;
      float* to = partsOf(step, member.group, token / OWN_TOKENS, sent) + ((member.rank * 4 + warp) * OWN_TILES + tile) * PART_FLOATS;
      storePart(to, d[4 * j], d[4 * j + 1], d[4 * j + 2], d[4 * j + 3], roundOf(sent));
    }
    __syncwarp();
    if (lane() == 0) mbarrierArrive(memory.sent(turn));
    sent++;
    sentNow++;
  }

  /** Gate and up of the block's own pairs: sequences are the rows of the products, pairs the columns. */
  template <int PAIRS>
  TY_INLINE void multiplyGates(float (&d)[PAIRS]) {
    RingPlace used = ring;
    InputPlace usedInputs = inputs;
    const auto releaseUsed = [&] {
      if (lane() == 0) {
        mbarrierArriveTwice(memory.empty(used.entry));
        mbarrierArrive(memory.inputEmpty(usedInputs.entry));
      }
      used.advance();
      usedInputs.advance();
    };
#pragma unroll 1
    for (int panel = 0; panel < GATE_PANELS; panel++) {
      mbarrierWait(memory.inputChecked(inputs.entry), inputs.round);
      mbarrierWait(memory.full(ring.entry), ring.round);
      const u64 a = descriptorOfRows(memory.input(inputs.entry)), b = descriptorOfRows(memory.copy(ring.entry));
      wgmmaFence();
#pragma unroll
      for (int k = 0; k < 4; k++) Wgmma<2 * PAIRS>::template shared<0, 0>(d, advance(a, k * 32), advance(b, k * 32), panel + k > 0);
      wgmmaCommit();
      ring.advance();
      inputs.advance();
      wgmmaWait<1>();
      if (panel > 0) releaseUsed();
    }
    wgmmaWait<0>();
    releaseUsed();
    keepAfterWait(d);
  }

  /**
   * SwiGLU of the block's own pairs. A lane has gates or ups of two sequences, a neighbour the others: it gives those of the one
   * sequence for those of the other.
   */
  template <int PAIRS>
  TY_INLINE void storeGates(const float (&d)[PAIRS], u32 tag) {
    const bool hasUps = lane() & 2;
    const int token = (threadIdx.x >> 5 & 3) * 16 + lane() / 4 + (hasUps ? 8 : 0);
    const float scale = gateScales[token];
#pragma unroll
    for (int group = 0; group < PAIRS / GATE_GROUP; group++) {
      const int first = 4 * group, second = first + 2;
      float values[2];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const float other = __shfl_xor_sync(0xffffffffu, hasUps ? d[first + i] : d[second + i], 2);
        const float gate = hasUps ? other : d[first + i], up = hasUps ? d[second + i] : other;
        values[i] = silu(gate * scale) * (up * scale);
      }
      const int column = blockIdx.x * PAIRS + group * GATE_GROUP + (lane() & 1) * 2;
      if (token < step.batch && column < FEED_FORWARD) storeTagged(inPanels(step.activated, column, token), values[0], values[1], tag);
    }
  }

  template <int PAIRS>
  TY_INLINE void makeGates(u32 tag) {
    float d[PAIRS] = {};
    multiplyGates(d);
    barrierSync(GATE_SCALES, THREADS + 32 * MULTIPLIERS);
    storeGates(d, tag);
    barrierSync(GATES_STORED, 32 * MULTIPLIERS);
    if (threadIdx.x % 128 == 0) arriveRelaxed(step, GATE_UP);
  }

  TY_INLINE void run() {
    const Tags tags(step);
    Dealer dealer(member);
    Rotation items;
    forEachPhase(step, [&](int) {
      const int work = attendWorkOf(step);
      for (int at = items.next(work); at < work; at += gridDim.x) ring.skip(chunksOf(step, at));
    }, [&](auto layer) { makeGates<GATE_PAIRS>(tags.of(layer)); }, [&](int phase, int) {
      const Share share = dealer.next(step, phase);
      const int tiles = tilesOf(share.end - share.first);
      const bool isStreamed = panelsOf(phase) > INPUT_PANELS;
      for (int tile = 0; tile < tiles; tile++) {
        const int units = min(TILE_UNITS, share.end - share.first - tile * TILE_UNITS);
        // Undefined ones would make the compiler serialise the products.
        float d[TOKENS / 2] = {};
        multiplyTile(d, phase, units, isStreamed || tile == 0, isStreamed || tile == tiles - 1);
        send(d);
      }
    });
  }
};
