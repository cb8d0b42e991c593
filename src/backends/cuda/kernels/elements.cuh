// Element types by number, groups of neighbouring elements that move in one access, and how an elementwise kernel walks
// over a matrix whose rows may be column slices: groups first, what is left element by element.
#pragma once
#include "prelude.cuh"

template <int DTYPE>
struct TypeOf;
template <>
struct TypeOf<0> {
  typedef float type;
};
template <>
struct TypeOf<1> {
  typedef bf16_t type;
};
template <>
struct TypeOf<2> {
  typedef f16_t type;
};
template <>
struct TypeOf<3> {
  typedef double type;
};
template <>
struct TypeOf<4> {
  typedef i32 type;
};
template <>
struct TypeOf<5> {
  typedef u8 type;
};

template <int BYTES>
struct WordOf;
template <>
struct WordOf<16> {
  typedef uint4 type;
};
template <>
struct WordOf<8> {
  typedef uint2 type;
};
template <>
struct WordOf<4> {
  typedef u32 type;
};
template <>
struct WordOf<2> {
  typedef u16 type;
};
template <>
struct WordOf<1> {
  typedef u8 type;
};

/** Two floats rounded to a 16-bit type, `low` in the lower half. */
template <typename T>
TY_INLINE u32 packPair(float low, float high);
template <>
TY_INLINE u32 packPair<bf16_t>(float low, float high) {
  return packBf16(low, high);
}
template <>
TY_INLINE u32 packPair<f16_t>(float low, float high) {
  return packF16(low, high);
}

/**
 * N neighbouring elements, at most 16 bytes, as they lie in memory: 16-bit values stay in pairs, two to a register, until
 * they are used.
 */
template <typename T, int N>
struct Group {
  typename WordOf<N * sizeof(T)>::type word;

  TY_INLINE T at(int j) const {
    T x;
    if constexpr (sizeof(T) == 2 && N > 1) {
      const u32 pair = reinterpret_cast<const u32*>(&word)[j / 2];
      x.bits = (u16)(j % 2 == 0 ? pair : pair >> 16);
    } else {
      x = reinterpret_cast<const T*>(&word)[j];
    }
    return x;
  }
  TY_INLINE void set(int j, T x) { reinterpret_cast<T*>(&word)[j] = x; }
};
/** Element j of a group as a float. */
template <typename T, int N>
TY_INLINE float floatAt(const Group<T, N>& group, int j) {
  return toFloat(group.at(j));
}
template <int N>
TY_INLINE float floatAt(const Group<bf16_t, N>& group, int j) {
  if constexpr (N == 1) return toFloat(group.at(0));
  const u32 pair = reinterpret_cast<const u32*>(&group.word)[j / 2];
  return __uint_as_float(j % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
}
template <int N, typename T>
TY_INLINE Group<T, N> loadGroup(const T* p) {
  return {*reinterpret_cast<const typename WordOf<N * sizeof(T)>::type*>(p)};
}
template <int N, typename T>
TY_INLINE void storeGroup(T* p, const Group<T, N>& group) {
  *reinterpret_cast<typename WordOf<N * sizeof(T)>::type*>(p) = group.word;
}
/** N floats rounded to T. */
template <typename T, int N>
TY_INLINE Group<T, N> groupOf(const float (&x)[N]) {
  Group<T, N> group;
  if constexpr (sizeof(T) == 2 && N > 1) {
#pragma unroll
    for (int j = 0; j < N; j += 2) reinterpret_cast<u32*>(&group.word)[j / 2] = packPair<T>(x[j], x[j + 1]);
  } else {
#pragma unroll
    for (int j = 0; j < N; j++) group.set(j, cast<T>(x[j]));
  }
  return group;
}

/** Groups that a thread has on their way at a time; DEPTH of elementwise.ts. */
constexpr int DEPTH = 4;

/**
 * `count` elements, of which groups * N are handled in groups. Rows of `columns` elements lie outStride and inStride
 * elements apart; columns 0: no rows, everything is contiguous. If there are rows, groups do not cross them.
 */
struct Extent {
  i64 count, groups, outStride, inStride;
  u32 columns;

  /** Of element i in a matrix with this distance of rows. */
  TY_INLINE i64 offset(i64 i, i64 stride) const {
    if (columns == 0) return i;
    const u32 row = (u32)i / columns;
    return row * stride + ((u32)i - row * columns);
  }
};

TY_INLINE i64 globalThread() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }
TY_INLINE i64 globalThreads() { return (i64)gridDim.x * blockDim.x; }

/** out = rule(a) */
template <int N, typename O, typename A, typename Rule>
TY_INLINE void mapElements(O* out, const A* a, const Extent& extent, const Rule& rule) {
  const i64 first = (i64)blockIdx.x * DEPTH * blockDim.x + threadIdx.x;
  Group<A, N> in[DEPTH];
#pragma unroll
  for (int k = 0; k < DEPTH; k++) {
    const i64 i = first + k * (i64)blockDim.x;
    if (i < extent.groups) in[k] = loadGroup<N>(a + extent.offset(i * N, extent.inStride));
  }
#pragma unroll
  for (int k = 0; k < DEPTH; k++) {
    const i64 i = first + k * (i64)blockDim.x;
    if (i >= extent.groups) break;
    float result[N];
#pragma unroll
    for (int j = 0; j < N; j++) result[j] = rule(floatAt(in[k], j));
    storeGroup<N>(out + extent.offset(i * N, extent.outStride), groupOf<O>(result));
  }
  for (i64 i = extent.groups * N + globalThread(); i < extent.count; i += globalThreads()) {
    fromFloat(out[extent.offset(i, extent.outStride)], rule(toFloat(a[extent.offset(i, extent.inStride)])));
  }
}

/** out = rule(a, b); b lies as out does and may be it. */
template <int N, typename O, typename A, typename B, typename Rule>
TY_INLINE void mapElements(O* out, const A* a, const B* b, const Extent& extent, const Rule& rule) {
  const i64 first = (i64)blockIdx.x * DEPTH * blockDim.x + threadIdx.x;
  Group<A, N> left[DEPTH];
  Group<B, N> right[DEPTH];
#pragma unroll
  for (int k = 0; k < DEPTH; k++) {
    const i64 i = first + k * (i64)blockDim.x;
    if (i < extent.groups) {
      left[k] = loadGroup<N>(a + extent.offset(i * N, extent.inStride));
      right[k] = loadGroup<N>(b + extent.offset(i * N, extent.outStride));
    }
  }
#pragma unroll
  for (int k = 0; k < DEPTH; k++) {
    const i64 i = first + k * (i64)blockDim.x;
    if (i >= extent.groups) break;
    float result[N];
#pragma unroll
    for (int j = 0; j < N; j++) result[j] = rule(floatAt(left[k], j), floatAt(right[k], j));
    storeGroup<N>(out + extent.offset(i * N, extent.outStride), groupOf<O>(result));
  }
  for (i64 i = extent.groups * N + globalThread(); i < extent.count; i += globalThreads()) {
    const i64 at = extent.offset(i, extent.outStride);
    fromFloat(out[at], rule(toFloat(a[extent.offset(i, extent.inStride)]), toFloat(b[at])));
  }
}
