// The warps of decode-step-many.cu that copy, one thread each: weights and caches run ahead of the step, inputs wait for other blocks.
#pragma once
#include "decode-many-plan.cuh"

/** What copies in the ring take, with what stays empty at its end before them. */
__shared__ u32 takenOf[RING_SLOTS];

struct Copier {
  const Step& step;
  const Memory& memory;
  const Member& member;
  RingPlace place;
  /** The oldest copies that have not landed, and that have not been let go. */
  RingPlace landing, oldest;
  int underWay = 0, copies = 0;
  /** Copies lie one behind the other, none across the end: where the next one begins, and what all take. */
  u32 start = 0, taken = 0;

  /** Waits for `room` bytes, and until fewer than `limit` copies are under way; gives where the next goes, `bytes` of it. */
  TY_INLINE u32 open(int limit, u32 room, u32 bytes) {
    const bool isBeyond = start + room > RING_BYTES;
    const u32 takes = room + (isBeyond ? RING_BYTES - start : 0);
    for (; copies == RING_SLOTS || taken + takes > RING_BYTES; copies--) {
      mbarrierWait(memory.empty(oldest.entry), oldest.round);
      taken -= takenOf[oldest.entry];
      oldest.advance();
    }
    if (isBeyond) start = 0;
    takenOf[place.entry] = takes;
    startOf[place.entry] = start;
    const u32 at = memory.base + start;
    start += room;
    taken += takes;
    copies++;
    for (; underWay >= limit; underWay--) {
      mbarrierWait(memory.full(landing.entry), landing.round);
      landing.advance();
    }
    underWay++;
    mbarrierExpect(memory.full(place.entry), bytes);
    return at;
  }

  TY_INLINE void copyTile(const TensorMap& map, int phase, int first, int units) {
    const int panels = panelsOf(phase), panelsAtOnce = ENTRY_PIECES / units;
    int rows[TILE_UNITS], heads[TILE_UNITS];
    for (int i = 0; i < TILE_UNITS; i++) {
      const int unit = first + i;
      rows[i] = phase == QKV ? unit % HEAD_UNITS * UNIT_PAIRS : unit * (phase == GATE_UP ? UNIT_PAIRS : 2 * UNIT_PAIRS);
      heads[i] = phase == QKV ? unit / HEAD_UNITS : 0;
    }
    int column = member.rank * panels * 64;
    for (int panel = 0; panel < panels; panel += panelsAtOnce) {
      const int pieces = min(ENTRY_PIECES, (panels - panel) * units);
      const u32 to = open(phase == QKV || phase == O ? FEW_IN_FLIGHT : IN_FLIGHT, ENTRY_BYTES, pieces * UNIT_BYTES), barrier = memory.full(place.entry);
#pragma unroll
      for (int i = 0; i < ENTRY_PIECES; i++) {
        if (i >= pieces) break;
        const bool isSecond = units == TILE_UNITS && i % TILE_UNITS == 1;
        copyBoxOnce(to + i * UNIT_BYTES, map, barrier, column, isSecond ? rows[1] : rows[0], 0, isSecond ? heads[1] : heads[0]);
        if (isSecond || units == 1) column += 64;
      }
      place.advance();
    }
  }

  TY_INLINE void copyCaches(const TensorMap* layerMaps, int work) {
    const int teams = teamsOf(step);
    const Item items[2] = {Item(step, work * teams), Item(step, teams == 1 ? step.batch * KV_HEADS : work * teams + 1)};
    for (int chunk = 0; chunk < max(items[0].chunks, items[1].chunks); chunk++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        if (chunk >= items[i].chunks) continue;
        const u32 to = open(IN_FLIGHT, ENTRY_BYTES, ENTRY_BYTES);
        copyChunk(to, layerMaps, memory.full(place.entry), items[i].sequence, items[i].kvHead, chunk);
        place.advance();
      }
    }
  }

  TY_INLINE void copyGates(const TensorMap& map) {
    for (int i = 0; i < GATE_PANELS; i++) {
      const u32 to = open(GATES_IN_FLIGHT, GATE_BYTES, GATE_BYTES);
      copyBoxOnce(to, map, memory.full(place.entry), gatePanel(i) * 64, 0, 0, blockIdx.x * (GATE_PAIRS / GATE_GROUP));
      place.advance();
    }
  }

  TY_INLINE void run() {
    const TensorMap* maps = reinterpret_cast<const TensorMap*>(step.maps);
    Dealer dealer(member);
    Rotation items;
    forEachPhase(step, [&](int layer) {
      const int work = attendWorkOf(step);
      for (int at = items.next(work); at < work; at += gridDim.x) copyCaches(maps + layer * LAYER_MAPS, at);
    }, [&](int layer) { copyGates(maps[layer * LAYER_MAPS + GATE_UP_MAP]); }, [&](int phase, int layer) {
      const TensorMap& map = maps[layer * LAYER_MAPS + (phase == HEAD ? 0 : phase - (phase > ATTEND))];
      const Share share = dealer.next(step, phase);
      for (int unit = share.first; unit < share.end; unit += TILE_UNITS) copyTile(map, phase, unit, min(TILE_UNITS, share.end - unit));
    });
  }
};

/** A product's inputs of this block: panels of 64 columns of all sequences, and their tag. */
struct Inputs {
  const scalar_t* from;
  u32 tag;
  bool isOfGates;
  TY_INLINE Inputs(const Step& step, const Tags& tags, int phase, int layer, int rank) {
    const scalar_t* panels = phase == O ? step.mixed : phase == DOWN ? step.activated : scaledOf(step, phase == GATE_UP);
    isOfGates = isOfOwnGates(phase);
    from = panels + (isOfGates ? 0 : (i64)rank * panelsOf(phase) * (TOKENS * 64));
    tag = phase == QKV || phase == HEAD ? tags.into(layer) : tags.of(layer);
  }
  TY_INLINE const scalar_t* at(int panel) const { return from + (i64)(isOfGates ? gatePanel(panel) : panel) * (TOKENS * 64); }
};
/** Calls `body(inputs, panel)` for each panel of inputs that is brought, in its order; `begin(phase, layer)` before those of a product. */
template <typename Begin, typename Body>
TY_INLINE void forEachInput(const Step& step, const Member& member, Begin&& begin, Body&& body) {
  const Tags tags(step);
  Dealer dealer(member);
  const auto passes = [&](int phase, int layer, int count) {
    begin(phase, layer);
    const Inputs inputs(step, tags, phase, layer, member.rank);
    for (int pass = 0; pass < count; pass++) {
      for (int panel = 0; panel < panelsOf(phase); panel++) body(inputs, panel);
    }
  };
  forEachPhase(step, [](int) {}, [&](int layer) { passes(GATE_UP, layer, 1); }, [&](int phase, int layer) {
    const Share share = dealer.next(step, phase);
    if (share.first < share.end) passes(phase, layer, panelsOf(phase) > INPUT_PANELS ? tilesOf(share.end - share.first) : 1);
  });
}

/** Brings the inputs of this block's products when all blocks have said that they are done. */
TY_INLINE void bringInputs(const Step& step, const Memory& memory, const Member& member) {
  InputPlace place;
  forEachInput(step, member, [&](int phase, int layer) {
    const bool isFirst = phase == QKV || phase == HEAD;
    const int before = isFirst ? (layer == 0 ? EMBED : DOWN) : phase - 1;
    awaitRelaxed(step, before, expectedOf(step, before, layer - (isFirst && layer > 0)));
  }, [&](const Inputs& inputs, int panel) {
    mbarrierWait(memory.inputEmpty(place.entry), place.round ^ 1);
    mbarrierExpect(memory.inputFull(place.entry), INPUT_BYTES);
    copyBytes(memory.input(place.entry), inputs.at(panel), INPUT_BYTES, memory.inputFull(place.entry));
    place.advance();
  });
}
