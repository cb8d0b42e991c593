// Attention of a decoding step for few sequences: long ones are split over blocks; the last of them to be done joins the parts.
//
// An item is a sequence, a key-value head and a split of its positions; a block takes one at a time, its warps 16 positions.
#pragma once
#include "decode-attention.cuh"

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

/** Counters of splits that are done, of a sequence and a key-value head: they lie behind the counters of phases. */
constexpr int JOINED_AT = COUNTERS * COUNTER_WORDS, JOINED_WORDS = 8;

/** The last block of a sequence and key-value head to come here joins the splits of all of them: a thread a column. */
TY_INLINE void joinSplits(const Step& step, const Span& span) {
  constexpr int AT_ONCE = 8;
  __shared__ bool isLastSplit;
  blockSync();
  if (threadIdx.x == 0) {
    u32* done = step.counters + JOINED_AT + (span.sequence * KV_HEADS + span.kvHead) * JOINED_WORDS;
    isLastSplit = addRelease(done, 1) == (u32)span.splits - 1;
    if (isLastSplit) *done = 0;
  }
  blockSync();
  if (!isLastSplit) return;
  const i64 base = (i64)span.sequence * step.maxSplits;
  for (int i = threadIdx.x; i < GROUP_WIDTH; i += THREADS) {
    const int column = span.kvHead * GROUP_WIDTH + i;
    float top = LOWEST, total = 0, value = 0;
    for (int from = 0; from < span.splits; from += AT_ONCE) {
      float lse[AT_ONCE], x[AT_ONCE], higher = top;
#pragma unroll
      for (int s = 0; s < AT_ONCE; s++) {
        // Splits that there are not weigh nothing.
        const i64 at = base + min(from + s, span.splits - 1);
        lse[s] = loadShared(step.splitLse + at * HEADS + column / HEAD_DIM);
        x[s] = loadShared(step.splitOut + at * Q_WIDTH + column);
        if (from + s >= span.splits) lse[s] = LOWEST;
      }
#pragma unroll
      for (int s = 0; s < AT_ONCE; s++) higher = fmaxf(higher, lse[s]);
      const float old = exp2Fast(top - higher);
      top = higher;
      total *= old;
      value *= old;
#pragma unroll
      for (int s = 0; s < AT_ONCE; s++) {
        const float now = exp2Fast(lse[s] - top);
        total += now;
        value += x[s] * now;
      }
    }
    fromFloat(step.mixed[(i64)span.sequence * Q_WIDTH + column], value / total);
  }
}

/** This block's items of a layer's attention, to `mixed` or, where a sequence is split, to splitOut and splitLse. */
template <typename Ring>
TY_INLINE void attendItems(const Step& step, const Layer& layer, Ring& ring, int first, int items, float* area) {
  const int warp = threadIdx.x >> 5, part = warp % UNITS * 16;
  float* stats = area;
  float* outputs = area + 2 * WARPS * HEAD_ROWS;
  for (int item = first; item < items; item += gridDim.x) {
    const Span span(step, item);
    HeadAttention attention;
    Newest newest;
    attention.load(step, span.sequence, span.kvHead);
    newest.load(step, layer, span.sequence, span.kvHead);
    for (int chunk = span.begin; chunk < span.end; chunk++) {
      const u32 at = ring.wait();
      const int count = span.length - chunk * CHUNK_POSITIONS - part;
      if ((chunk - span.begin) % CHUNKS_AT_ONCE == warp / UNITS && count > 0) {
        if (count <= 16) newest.patch(at, part + count - 1, part + 16);
        attention.take(at, part, count, step.scale * LOG2_E);
      }
      ring.release();
    }
    attention.store(stats + 2 * warp * HEAD_ROWS, outputs + warp * HEAD_ROWS * HEAD_DIM);
    blockSync();
    const int warps = min(WARPS, (span.end - span.begin) * UNITS);
    for (int i = threadIdx.x; i < GROUP_WIDTH && span.begin < span.end; i += THREADS) {
      MergedHead merged;
      const float value = merged.value(stats, outputs, 0, warps, i / HEAD_DIM, i % HEAD_DIM);
      const int column = span.kvHead * GROUP_WIDTH + i;
      if (span.splits == 1) {
        fromFloat(step.mixed[(i64)span.sequence * Q_WIDTH + column], value);
      } else {
        const i64 at = (i64)span.sequence * step.maxSplits + span.split;
        step.splitOut[at * Q_WIDTH + column] = value;
        if (i % HEAD_DIM == 0) step.splitLse[at * HEADS + column / HEAD_DIM] = merged.top + log2f(merged.total);
      }
    }
    if (span.splits > 1 && span.begin < span.end) joinSplits(step, span);
    blockSync();
  }
}
