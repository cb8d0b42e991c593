// Attention of a decoding step for few sequences: long ones are split over blocks; the block of the first split joins the parts.
//
// An item is a sequence, a key-value head and a split of its positions; a block takes one at a time, its warps 16 positions. Where there are
// splits, no block has more than one item (decode-step.ts sees to that): who joins never keeps others from a part that it waits for.
#pragma once
#include "decode-tagged-heads.cuh"

/** Query values of a key-value head. */
constexpr int GROUP_WIDTH = GROUP_HEADS * HEAD_DIM;
/** Chunks that the warps of a block take at a time. */
constexpr int CHUNKS_AT_ONCE = WARPS / UNITS;
/** Chunks of a sequence that is not split; chunks that a split has at least. */
constexpr int WHOLE_CHUNKS = 6, SPLIT_CHUNKS = 8;

/** An item's part of the cache, in chunks; nothing where its sequence has fewer splits. */
struct Span {
  int sequence, kvHead, split, splits, length, begin, end;

  TY_INLINE Span(const Step& step, int item) {
    split = item % step.maxSplits;
    kvHead = item / step.maxSplits % KV_HEADS;
    sequence = item / (step.maxSplits * KV_HEADS);
    length = positionOf(step, sequence) + 1;
    const int chunks = (length + CHUNK_POSITIONS - 1) / CHUNK_POSITIONS;
    const int wanted = chunks <= WHOLE_CHUNKS ? 1 : min(step.maxSplits, (chunks + SPLIT_CHUNKS - 1) / SPLIT_CHUNKS);
    const int each = (chunks + wanted - 1) / wanted;
    splits = (chunks + each - 1) / each;
    begin = split * each;
    end = min(chunks, begin + each);
  }
};

/** What a thread has of a column of `mixed`: threads of a warp have neighbouring ones, and every other stores two. */
TY_INLINE void storeColumn(const Step& step, int sequence, int column, float value, u32 tag) {
  const float next = __shfl_down_sync(0xffffffffu, value, 1);
  if (column % 2 == 0) storeTagged(step.mixed + (i64)sequence * Q_WIDTH + column, value, next, tag);
}

/** Where parts of a split lie. */
TY_INLINE float* splitOutOf(const Step& step, int sequence, int split) {
  return step.splitOut + ((i64)sequence * step.maxSplits + split) * Q_WIDTH;
}
TY_INLINE float* splitLseOf(const Step& step, int sequence, int split) {
  return step.splitLse + ((i64)sequence * step.maxSplits + split) * HEADS;
}

/**
 * Parts of a column of some splits, from `first` on: what was summed, and the logarithm of what it was divided by. Waits for them; those that
 * there are not weigh nothing.
 */
template <int COUNT>
struct SplitParts {
  float value[COUNT], lse[COUNT];

  TY_INLINE SplitParts(const Step& step, const Span& span, int column, int first, u32 tag) {
    bool isNew;
    do {
      isNew = true;
#pragma unroll
      for (int s = 0; s < COUNT; s++) {
        value[s] = 0;
        lse[s] = LOWEST;
        if (first + s >= span.splits) continue;
        const u32 x = loadWord(splitOutOf(step, span.sequence, first + s) + column);
        const u32 y = loadWord(splitLseOf(step, span.sequence, first + s) + column / HEAD_DIM);
        isNew &= ((x ^ tag) & 1) == 0 && ((y ^ tag) & 1) == 0;
        value[s] = __uint_as_float(x & ~1u);
        lse[s] = __uint_as_float(y & ~1u);
      }
    } while (!isNew);
    __syncwarp();
  }
};

/** Joins the splits of a sequence and a key-value head as they come: a thread a column. */
TY_INLINE void joinSplits(const Step& step, const Span& span, u32 tag) {
  constexpr int AT_ONCE = 8;
  for (int i = threadIdx.x; i < GROUP_WIDTH; i += THREADS) {
    const int column = span.kvHead * GROUP_WIDTH + i;
    float top = LOWEST, total = 0, value = 0;
    for (int from = 0; from < span.splits; from += AT_ONCE) {
      const SplitParts<AT_ONCE> parts(step, span, column, from, tag);
      float higher = top;
#pragma unroll
      for (int s = 0; s < AT_ONCE; s++) higher = fmaxf(higher, parts.lse[s]);
      const float old = exp2Fast(top - higher);
      top = higher;
      total *= old;
      value *= old;
#pragma unroll
      for (int s = 0; s < AT_ONCE; s++) {
        const float now = exp2Fast(parts.lse[s] - top);
        total += now;
        value += parts.value[s] * now;
      }
    }
    storeColumn(step, span.sequence, column, value / total, tag);
  }
}

/** What the warps have of an item goes to `mixed` or, where the sequence is split, to splitOut and splitLse. */
TY_INLINE void storeItem(const Step& step, const Span& span, const float* stats, const float* outputs, u32 tag) {
  const int warps = min(WARPS, (span.end - span.begin) * UNITS);
  for (int i = threadIdx.x; i < GROUP_WIDTH; i += THREADS) {
    MergedHead merged;
    const float value = merged.value(stats, outputs, 0, warps, i / HEAD_DIM, i % HEAD_DIM);
    const int column = span.kvHead * GROUP_WIDTH + i;
    if (span.splits == 1) {
      storeColumn(step, span.sequence, column, value, tag);
    } else {
      storeTaggedFloat(splitOutOf(step, span.sequence, span.split) + column, value, tag);
      if (i % HEAD_DIM == 0) {
        storeTaggedFloat(splitLseOf(step, span.sequence, span.split) + column / HEAD_DIM, merged.top + log2f(merged.total), tag);
      }
    }
  }
}

/** A split that a step does without gets the tag of the step's last layer all the same: so the next step finds the other one. */
TY_INLINE void skipSplit(const Step& step, const Span& span, u32 tag) {
  for (int i = threadIdx.x; i < GROUP_WIDTH; i += THREADS) {
    const int column = span.kvHead * GROUP_WIDTH + i;
    storeTaggedFloat(splitOutOf(step, span.sequence, span.split) + column, 0, tag);
    if (i % HEAD_DIM == 0) storeTaggedFloat(splitLseOf(step, span.sequence, span.split) + column / HEAD_DIM, LOWEST, tag);
  }
}

/** This block's items of a layer's attention. */
template <typename Ring>
TY_INLINE void attendItems(const Step& step, Ring& ring, int first, int items, u32 tag, bool isLastLayer, float* area) {
  const int warp = threadIdx.x >> 5, part = warp % UNITS * 16;
  float* stats = area;
  float* outputs = area + 2 * WARPS * HEAD_ROWS;
  for (int item = first; item < items; item += gridDim.x) {
    const Span span(step, item);
    const bool isEmpty = span.begin >= span.end;
    if (isLastLayer && step.maxSplits > 1 && (isEmpty || span.splits == 1)) skipSplit(step, span, tag);
    // Nobody waits for an empty one, so what it waited for might be gone.
    if (isEmpty) continue;
    HeadAttention attention;
    TaggedHeads heads(attention, step, span.sequence, span.kvHead);
    heads.awaitQueries(attention, tag);
    for (int chunk = span.begin; chunk < span.end; chunk++) {
      const u32 at = ring.wait();
      const int count = span.length - chunk * CHUNK_POSITIONS - part;
      if ((chunk - span.begin) % CHUNKS_AT_ONCE == warp / UNITS && count > 0) {
        if (count <= 16) heads.awaitNewest(tag).patch(at, part + count - 1, part + 16);
        attention.take(at, part, count, step.scale * LOG2_E * untagScale(tag));
      }
      ring.release();
    }
    attention.store(stats + 2 * warp * HEAD_ROWS, outputs + warp * HEAD_ROWS * HEAD_DIM);
    blockSync();
    storeItem(step, span, stats, outputs, tag);
    if (span.splits > 1 && span.split == 0) joinSplits(step, span, tag);
    blockSync();
  }
}
