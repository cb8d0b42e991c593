// Tags: how numbers that blocks of a decoding step tell one another say by themselves whether they are new.
//
// Nobody waits until writes are seen everywhere: on Hopper a release waits for all copies that the multiprocessor has under way, 1 to
// 2 microseconds at each of five phases of a layer. Counters of finished blocks only say when it is worth looking.
//
// A buffer is rewritten only by who holds what was made of all that was read of it (l: layer; "all" of every block that reads):
//   queries, new keys and values   by QKV(l + 1), which needs DOWN(l), GATE_UP(l), O(l) and so all attention of l
//   mixed                          by attention of l + 1, which needs QKV(l + 1) and so all of O(l)
//   activated                      by GATE_UP(l + 1), which needs O(l + 1), QKV(l + 1) and so all of DOWN(l)
//   few's stream                   by O(l), which needs attention and so all of QKV(l); by DOWN(l), which needs all of GATE_UP(l)
//   many's scaled, squares         the inner ones by O(l + 1), after all of GATE_UP(l); the outer ones by DOWN(l), after all of QKV(l)
//   parts of splits                by attention of l + 1, after the joined part of l
//   parts of sums                  decode-many-products.cuh
// That loads and stores of one word are seen in one order by all, and what is read before what is made of it, is what the second-level
// cache gives, through which all of these go; the order of different words is never relied on.
#pragma once
#include "decode-step.cuh"

/** Where the number of launches stands behind the counters, after the numbers of groups. */
constexpr int EPOCH_AT = COUNTERS * COUNTER_WORDS + 64;
/**
 * Inputs of products, queries and new keys and values go from block to block as pairs of elements with a tag that is the other one in every
 * round of a buffer. In bf16 it is the upper bit of the exponents: all numbers of a round are 2^64 times too small, or too large, and below or
 * above 2 then; products are scaled back. What is nearer to 0 than 2^-63 becomes that. What is no number, or beyond 2^64, becomes
 * 2^65 in rounds with tag 0: in the stream sums of squares are infinite then, by which rmsScale shows it again; in queries, in what attention
 * gives, and in activations it may stay hidden. In f16 the tag is the last bit of the lower element, which withoutTag takes off.
 */
constexpr bool IS_SCALED = TY_DTYPE == 1;
constexpr u32 TAG_BITS = IS_SCALED ? 0x40004000u : 1u;
TY_INLINE float tagScale(u32 tag) { return !IS_SCALED ? 1.0f : tag ? 0x1p64f : 0x1p-64f; }
/** What takes tagScale back. */
TY_INLINE float untagScale(u32 tag) { return !IS_SCALED ? 1.0f : tag ? 0x1p-64f : 0x1p64f; }
TY_INLINE u32 packTagged(float low, float high, u32 tag) {
  if (!IS_SCALED) {
    // The lower element rounds to an even last bit: cut off, a stream that is added to again and again would shrink. Not where that would make an infinity.
    u32 pair = packPair(low, high);
    if ((pair & 0x7fff) < 0x7bff) pair += pair >> 1 & pair & 1;
    return pair & ~1u | tag;
  }
  const u32 pair = packPair(low * tagScale(tag), high * tagScale(tag));
  // Elements with the other tag get the nearest number with theirs: all their bits but the sign.
  const u32 wrong = (pair ^ (tag ? TAG_BITS : 0)) & TAG_BITS, all = (wrong << 1) - (wrong >> 14);
  return pair & ~all | all & (tag ? TAG_BITS : TAG_BITS - 0x00010001);
}
TY_INLINE bool isTagged(u32 x, u32 tag) { return (x & TAG_BITS) == (tag ? TAG_BITS : 0); }
TY_INLINE bool isTagged(const uint4& x, u32 tag) { return isTagged(tag ? x.x & x.y & x.z & x.w : x.x | x.y | x.z | x.w, tag); }

/** What is multiplied: a tag that is no factor of all numbers would make results depend on the round. */
TY_INLINE u32 withoutTag(u32 x) { return IS_SCALED ? x : x & ~1u; }
TY_INLINE uint4 withoutTag(const uint4& x) { return make_uint4(withoutTag(x.x), withoutTag(x.y), withoutTag(x.z), withoutTag(x.w)); }
/** The pair as it was, except that zeros become 2^-63: 64 less, or more, in both exponents. */
TY_INLINE u32 untagPair(u32 x, u32 tag) { return !IS_SCALED ? withoutTag(x) : tag ? x - 0x20002000u : x + 0x20002000u; }

TY_INLINE void storeTagged(scalar_t* to, float low, float high, u32 tag) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(packTagged(low, high, tag)) : "memory");
}
TY_INLINE u32 loadWord(const void* from) {
  u32 x;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(from) : "memory");
  return x;
}
TY_INLINE uint4 loadWords(const void* from) {
  uint4 x;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(from) : "memory");
  return x;
}
/** Says that this block is done with a phase: that it is worth looking for what it made. */
TY_INLINE void arriveRelaxed(const Step& step, int phase) {
  asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(step.counters + phase * COUNTER_WORDS) : "memory");
}
TY_INLINE void awaitRelaxed(const Step& step, int phase, u32 arrivals) {
  while (loadWord(step.counters + phase * COUNTER_WORDS) < arrivals) {
  }
}

/** Tags of a launch: buffers are written once a layer, what the first product of a layer reads once more, with the embeddings. */
struct Tags {
  u32 layers, streams;
  TY_INLINE Tags(const Step& step) {
    const u32 launches = step.counters[EPOCH_AT];
    layers = launches * step.numLayers + 1;
    streams = launches * (step.numLayers + 1) + 1;
  }
  /** Of what a layer makes for itself. */
  TY_INLINE u32 of(int layer) const { return layers + layer & 1; }
  /** Of what comes into a layer, or into the head. */
  TY_INLINE u32 into(int layer) const { return streams + layer & 1; }
};
TY_INLINE void storeTaggedFloat(float* to, float x, u32 tag) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(__float_as_uint(x) & ~1u | tag) : "memory");
}

TY_INLINE float2 unpackPair(u32 x) {
  scalar_t low, high;
  low.bits = (u16)x;
  high.bits = (u16)(x >> 16);
  return make_float2(toFloat(low), toFloat(high));
}
TY_INLINE u32 constantPair(const scalar_t* p) { return *reinterpret_cast<const u32*>(p); }
