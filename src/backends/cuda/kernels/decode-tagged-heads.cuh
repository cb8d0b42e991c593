// Queries and the newest keys and values of a decoding step, from block to block: rows of QKV_ROWS in `q`, tagged (decode-tags.cuh).
#pragma once
#include "decode-attention.cuh"
#include "decode-tags.cuh"

/** The queries of a sequence and a key-value head, tagScale(tag) times too large, and its new key and value: loads that are checked later. */
struct TaggedHeads {
  static constexpr int WORDS = 4 * HeadAttention::STEPS;
  const scalar_t *queries, *newest;
  uint4 x;
  bool hasNewest;

  TY_INLINE bool hasRow(int i) const { return (int)(threadIdx.x & 31) / 4 + i % 2 * 8 < GROUP_HEADS; }
  TY_INLINE u32 loadQuery(int i) const { return loadWord(queries + i % 2 * 8 * HEAD_DIM + i / 4 * 16 + i / 2 % 2 * 8); }

  TY_INLINE TaggedHeads(HeadAttention& attention, const Step& step, int sequence, int kvHead) {
    const int lane = threadIdx.x & 31, piece = lane & 15;
    const scalar_t* row = step.q + (i64)sequence * QKV_ROWS;
    queries = row + (kvHead * GROUP_HEADS + lane / 4) * HEAD_DIM + lane % 4 * 2;
    newest = row + Q_WIDTH + (lane < 16 ? 0 : KV_WIDTH) + kvHead * HEAD_DIM + piece * 8;
    hasNewest = piece < Newest::PIECES;
#pragma unroll
    for (int i = 0; i < WORDS; i++) attention.q[i / 4][i % 4] = hasRow(i) ? loadQuery(i) : 0;
    x = hasNewest ? loadWords(newest) : make_uint4(0, 0, 0, 0);
  }

  /** Waits for the queries. */
  TY_INLINE void awaitQueries(HeadAttention& attention, u32 tag) const {
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
      while (hasRow(i) && !isTagged(attention.q[i / 4][i % 4], tag)) attention.q[i / 4][i % 4] = loadQuery(i);
      attention.q[i / 4][i % 4] = withoutTag(attention.q[i / 4][i % 4]);
    }
    __syncwarp();
  }
  /** Waits for the key and value, and takes the tag off. */
  TY_INLINE Newest awaitNewest(u32 tag) {
    while (hasNewest && !isTagged(x, tag)) x = loadWords(newest);
    __syncwarp();
    return {make_uint4(untagPair(x.x, tag), untagPair(x.y, tag), untagPair(x.z, tag), untagPair(x.w, tag))};
  }
};
