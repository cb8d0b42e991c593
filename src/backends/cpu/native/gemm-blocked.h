// General matrix product C (+)= op(A) op(B) + bias + residual, after Goto & van de Geijn 2008 ("Anatomy of
// high-performance matrix multiplication"): B is packed into panels of NR columns, a tile of up to MR x NR in registers
// runs over them. A is only broadcast, so it is read where it lies, or from a copy in the same order where its rows would
// fight for lines of the cache or have to be rounded. Written once for every product (below) and vector width. The order
// in which an element's terms are added depends on K alone, so neither the partition into tasks nor the number of threads
// changes a bit.
#pragma once
#include "context.h"
#include "simd.h"
#include "transpose.h"

namespace {
// A product says how two packed numbers are multiplied and added: plain f32, or pairs of bf16. It has
//   kDepth            how many steps of k one packed word (32 bits) holds
//   pack(x0, x1)      packs step k (and k + 1 where kDepth is 2) lane by lane
//   packPairs(x0, x1) where kDepth is 2: packs lanes 0 and 1, 2 and 3, .. of the row x0 x1
//   add(sum, x, y)    sum + x * y
struct F32Product {
  static constexpr int kDepth = 1;
  static inline vf pack(vf x0, vf) { return x0; }
  static inline vf packPairs(vf x0, vf) { return x0; }
  static inline vf add(vf sum, vf x, vf y) { return sum + x * y; }
};

// The register tile: MR * 2 accumulators, 2 of B and one of A fill the 32 (16) registers.
#if TY_ISA == 5
constexpr int MR = 14;
#elif TY_ISA == 2
constexpr int MR = 6;
#else
constexpr int MR = 4;
#endif
constexpr int NV = 2;
constexpr int NR = NV * W;
// Packed words of k in a panel. Each slab reads and writes C once more, so long ones win although a panel of B (96 KiB)
// then lives in the second-level cache: 192 / 256 / 384 / 768 gave 82 / 86 / 94 / 97 % on Zen 4.
constexpr int64_t KC = 768;
// Bytes of A and of B that are copied and packed at a time.
constexpr int64_t kBytesA = 1 << 20;
constexpr int64_t kBytesB = 6 << 20;
constexpr int64_t kPanelsPerPack = 4;
constexpr int64_t kRowsPerCopy = 32;
// Floats between panels, and between copied rows: distances that are a power of two fight for the same lines of the
// first-level cache.
constexpr int64_t kPadding = 16;

struct Operand {
  const float* data;
  int64_t stride;
  bool transposed;
};

struct Epilogue {
  const float* bias;      // [N] or null
  const float* residual;  // [M, N] or null
  int64_t residualStride;
  bool accumulate;
};

// Packs kc steps of W rows that run along k: row i becomes lane i of [k][STEP], lanes from `rows` on are zero.
template <typename P, int STEP>
static void packAcross(float* out, const float* in, int64_t stride, int64_t rows, int64_t kc) {
  for (int64_t k = 0; k < kc; k += W) {
    vf r[W];
    const int64_t count = least(W, kc - k);
    if (rows >= W && count == W) {
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) r[i] = load(in + i * stride + k);
    } else {
      for (int i = 0; i < W; i++) r[i] = i < rows ? get(in + i * stride + k, count) : vf{};
    }
    transposeSquare(r);
    if (count == W) {
#pragma GCC unroll 16
      for (int i = 0; i < W; i += P::kDepth, out += STEP) store(out, P::pack(r[i], r[i + P::kDepth - 1]));
    } else {
      for (int i = 0; i < count; i += P::kDepth, out += STEP) store(out, P::pack(r[i], r[i + P::kDepth - 1]));
    }
  }
}

// Packs kc steps of `panels` panels, `panelFloats` apart, from a matrix whose rows run across them: `columns` floats of
// each row are left. All panels of a row at once, and rows ahead of time: rows of wide matrices are pages apart, where no
// hardware prefetcher follows.
template <typename P, int VECTORS>
static void packAlong(float* out, int64_t panelFloats, int64_t panels, const float* in, int64_t stride, int64_t columns,
                      int64_t kc) {
  constexpr int64_t kAhead = 8 * P::kDepth, kStep = VECTORS * W;
  const int64_t whole = least(panels, columns / kStep);
  for (int64_t k = 0; k < kc; k += P::kDepth, in += P::kDepth * stride, out += kStep) {
    const bool hasNext = P::kDepth == 2 && k + 1 < kc;
    for (int64_t p = 0; p < whole; p++) {
      const float* from = in + p * kStep;
      if (k + kAhead + P::kDepth <= kc) {
        __builtin_prefetch(from + kAhead * stride);
        if (VECTORS == 2) __builtin_prefetch(from + kAhead * stride + W);
        if (P::kDepth == 2) __builtin_prefetch(from + (kAhead + 1) * stride);
        if (P::kDepth == 2 && VECTORS == 2) __builtin_prefetch(from + (kAhead + 1) * stride + W);
      }
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; v++)
        store(out + p * panelFloats + v * W, P::pack(load(from + v * W), hasNext ? load(from + stride + v * W) : vf{}));
    }
    for (int64_t p = whole; p < panels; p++)
      for (int v = 0; v < VECTORS; v++) {
        const float* from = in + p * kStep + v * W;
        const int64_t left = columns - p * kStep - v * W, n = left < 0 ? 0 : least(W, left);
        store(out + p * panelFloats + v * W, P::pack(get(from, n), hasNext ? get(from + stride, n) : vf{}));
      }
  }
}

// `panels` panels of B from column n0 on, `columns` of them left. The very last panel is one vector wide if that is
// enough for it.
template <typename P>
static void packB(float* out, int64_t panelFloats, int64_t panels, const Operand& b, int64_t k0, int64_t kc, int64_t n0,
                  int64_t columns) {
  const bool hasNarrow = columns - (panels - 1) * NR <= W;
  const int64_t wide = hasNarrow ? panels - 1 : panels;
  if (!b.transposed) {
    const float* in = b.data + k0 * b.stride + n0;
    packAlong<P, NV>(out, panelFloats, wide, in, b.stride, columns, kc);
    if (hasNarrow) packAlong<P, 1>(out + wide * panelFloats, 0, 1, in + wide * NR, b.stride, columns - wide * NR, kc);
    return;
  }
  const float* in = b.data + n0 * b.stride + k0;
  for (int64_t p = 0; p < wide; p++)
    for (int64_t j = p * NR; j < (p + 1) * NR; j += W)
      packAcross<P, NR>(out + p * panelFloats + (j - p * NR), in + j * b.stride, b.stride, columns - j, kc);
  if (hasNarrow)
    packAcross<P, W>(out + wide * panelFloats, in + wide * NR * b.stride, b.stride, columns - wide * NR, kc);
}

// Copies rows of A that run along k: word k of row i to out[i][k / kDepth]. Rows from `rows` up to `height` are zero.
template <typename P>
static void copyRows(float* out, int64_t outStride, const float* in, int64_t stride, int64_t rows, int64_t height,
                     int64_t kc) {
  constexpr int64_t kStep = P::kDepth * W;
  for (int64_t i = 0; i < height; i++, out += outStride) {
    if (i >= rows) {
      memset(out, 0, size_t(blocks(kc, P::kDepth)) * 4);
      continue;
    }
    const float* from = in + i * stride;
    int64_t k = 0;
    for (; k + kStep <= kc; k += kStep)
      store(out + k / P::kDepth, P::packPairs(load(from + k), load(from + k + (P::kDepth - 1) * W)));
    if (k == kc) continue;
    vf x[2] = {};
    memcpy(x, from + k, size_t(kc - k) * 4);
    store_partial(out + k / P::kDepth, P::packPairs(x[0], x[1]), blocks(kc - k, P::kDepth));
  }
}

// Copies steps [from, to) of k, rows of memory where A is stored transposed: `rows` floats of each, then zeros up to
// `height`, out[k / kDepth][i].
template <typename P>
static void copySteps(float* out, int64_t outStride, const float* in, int64_t stride, int64_t rows, int64_t height,
                      int64_t kc) {
  for (int64_t k = 0; k < kc; k += P::kDepth, out += outStride, in += P::kDepth * stride) {
    const bool hasNext = P::kDepth == 2 && k + 1 < kc;
    int64_t i = 0;
    for (; i + W <= rows; i += W) store(out + i, P::pack(load(in + i), hasNext ? load(in + stride + i) : vf{}));
    for (; i < height; i += W) {
      const int64_t n = rows > i ? least(W, rows - i) : 0;
      store(out + i, P::pack(get(in + i, n), hasNext ? get(in + stride + i, n) : vf{}));
    }
  }
}

// One tile of C, over `steps` packed words of k. A(i, k) is a[i * aStride + k], or a[k * aStride + i] where rows of
// memory run along i.
struct Tile {
  float* c;
  int64_t cStride;
  int64_t rows;
  int64_t columns;
  const float* a;
  int64_t aStride;
  const float* b;
  int64_t steps;
  const float* bias;
  const float* residual;
  int64_t residualStride;
  bool add;
};

// The end of a tile that hangs over the edge of C: `sums` has `vectors` * W columns, not all of them real.
static __attribute__((noinline)) void finishEdge(const Tile& t, const float* sums, int vectors) {
  for (int64_t i = 0; i < t.rows; i++)
    for (int v = 0; v < vectors && v * W < t.columns; v++) {
      const int64_t n = least(W, t.columns - v * W);
      float* out = t.c + i * t.cStride + v * W;
      vf y = load(sums + (i * vectors + v) * W);
      if (t.add) y += get(out, n);
      if (t.bias) y += get(t.bias + v * W, n);
      if (t.residual) y += get(t.residual + i * t.residualStride + v * W, n);
      put(out, y, n);
    }
}

// Keeps a value in a register as it is. Left to itself the compiler sees through the sums below and keeps a pointer for
// every row of A, more than there are registers.
template <typename T>
static inline T opaque(T x) {
  asm("" : "+r"(x));
  return x;
}

// A tile of R rows and V vectors of columns; ALONG where rows of A run along k.
template <typename P, int R, int V, bool ALONG>
static __attribute__((noinline)) void runTile(const Tile& t) {
  vf sum[R][V];
  const float* ahead = t.c;
#pragma GCC unroll 16
  for (int i = 0; i < R; i++, ahead = opaque(ahead + t.cStride)) {
    // C is needed after the loop: it comes from memory meanwhile (a prefetch outside of C does no harm).
    __builtin_prefetch(ahead, 1);
    if (V > 1) __builtin_prefetch(ahead + V * W - 1, 1);
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) sum[i][v] = vf{};
  }
  // Two bases and four strides reach every row along k by one addressing mode.
  const int64_t s1 = opaque(t.aStride * 4), s3 = opaque(s1 * 3), s5 = opaque(s1 * 5), s7 = opaque(s1 * 7);
  const char *low = reinterpret_cast<const char*>(t.a), *high = opaque(low + 9 * s1);
  const auto row = [&](int i) {
    const int r = i < 9 ? i : i - 9;
    const int64_t by = r == 3 ? s3 : r == 5 ? s5 : r == 6 ? 2 * s3 : r == 7 ? s7 : r * s1;
    return *reinterpret_cast<const float*>((i < 9 ? low : high) + by);
  };
  const float* b = t.b;
  for (int64_t k = 0; k < t.steps; k++, b += V * W) {
    vf y[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) y[v] = load(b + v * W);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      const vf x = splat(ALONG ? row(i) : reinterpret_cast<const float*>(low)[i]);
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) sum[i][v] = P::add(sum[i][v], x, y[v]);
    }
    low += ALONG ? 4 : s1;
    high += 4;
  }
  if (t.rows < R || t.columns < V * W) {
    float sums[R * V * W];
    memcpy(sums, sum, sizeof sums);
    finishEdge(t, sums, V);
    return;
  }
  // One pointer that moves from row to row, for the same reason.
  const auto each = [&](auto* at, int64_t stride, const auto& f) {
#pragma GCC unroll 16
    for (int i = 0; i < R; i++, at = opaque(at + stride))
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) f(at + v * W, sum[i][v]);
  };
  const auto add = [](const float* at, vf& y) { y += load(at); };
  if (t.add) each(t.c, t.cStride, add);
  if (t.bias) each(t.bias, 0, add);
  if (t.residual) each(t.residual, t.residualStride, add);
  each(t.c, t.cStride, [](float* at, const vf& y) { store(at, y); });
}

// A tile has an even number of rows, the last one perhaps one more than C has.
template <typename P, int V, bool ALONG>
static void runRows(const Tile& t) {
  switch ((t.rows + 1) / 2) {
#if TY_ISA == 5
    case 7: return runTile<P, 14, V, ALONG>(t);
    case 6: return runTile<P, 12, V, ALONG>(t);
    case 5: return runTile<P, 10, V, ALONG>(t);
    case 4: return runTile<P, 8, V, ALONG>(t);
#endif
#if TY_ISA >= 2
    case 3: return runTile<P, 6, V, ALONG>(t);
#endif
    case 2: return runTile<P, 4, V, ALONG>(t);
    default: return runTile<P, 2, V, ALONG>(t);
  }
}

// How the tiles of a block of C are dealt out: `rowTiles` of A by `columnPanels` of B a task.
struct Partition {
  int64_t rowTiles;
  int64_t columnPanels;
};

// Tasks enough to share out evenly, large enough that a panel of B serves several tiles.
static Partition partition(int64_t rowTiles, int64_t columnPanels) {
  Partition p{8, columnPanels};
  const auto tasks = [&] { return blocks(rowTiles, p.rowTiles) * blocks(columnPanels, p.columnPanels); };
  while (tasks() < 32 && p.columnPanels >= 8) p.columnPanels = blocks(p.columnPanels, 2);
  while (tasks() < 32 && p.rowTiles > 2) p.rowTiles /= 2;
  while (tasks() < 16 && p.columnPanels > 1) p.columnPanels = blocks(p.columnPanels, 2);
  while (tasks() < 16 && p.rowTiles > 1) p.rowTiles /= 2;
  return p;
}

// Whether A serves as it lies: nothing to round, no row too many, and rows so near that the lines of a tile do not evict
// each other (14 rows along k from the first-level cache, a slab of rows across from the second).
template <typename P>
static bool isReadInPlace(const Operand& a, int64_t M) {
  return P::kDepth == 1 && M % 2 == 0 && a.stride <= (a.transposed ? 256 : 512);
}

template <typename P>
static void gemm(TyContext* context, float* c, int64_t cStride, const Operand& a, const Operand& b, int64_t M,
                 int64_t N, int64_t K, const Epilogue& e) {
  // Slabs of k of equal length, whole vectors each.
  const int64_t slabs = blocks(K, KC * P::kDepth);
  const int64_t slab = blocks(blocks(K, slabs), W * P::kDepth) * W * P::kDepth, words = slab / P::kDepth;
  const int64_t floatsB = NR * words + kPadding;
  const int64_t allColumnPanels = blocks(N, NR);
  const int64_t columnPanels = blocks(allColumnPanels, blocks(allColumnPanels * floatsB * 4, kBytesB));
  // Pairs of rows, so that every tile has an even number of them.
  const bool inPlace = isReadInPlace<P>(a, M);
  const int64_t allPairs = blocks(M, 2);
  const int64_t mostPairs = inPlace ? allPairs : blocks(allPairs, blocks(2 * allPairs * (words + kPadding) * 4, kBytesA));
  const int64_t strideA = a.transposed ? blocks(2 * mostPairs, W) * W + kPadding : words + kPadding;
  const int64_t floatsA = inPlace ? 0 : strideA * (a.transposed ? words : 2 * mostPairs);
  float* const packedB = static_cast<float*>(ty_shared_scratch(context, size_t(columnPanels * floatsB + floatsA) * 4));
  float* const copiedA = packedB + columnPanels * floatsB;

  for (int64_t n0 = 0; n0 < N; n0 += columnPanels * NR) {
    const int64_t nc = least(columnPanels * NR, N - n0), panels = blocks(nc, NR);
    for (int64_t k0 = 0; k0 < K; k0 += slab) {
      const int64_t kc = least(slab, K - k0), packTasks = blocks(panels, kPanelsPerPack);
      for (int64_t pair0 = 0; pair0 < allPairs; pair0 += mostPairs) {
        const int64_t pairs = least(mostPairs, allPairs - pair0), m0 = 2 * pair0;
        const int64_t rows = least(2 * pairs, M - m0);
        const int64_t copyTasks = inPlace ? 0 : blocks(a.transposed ? kc : 2 * pairs, kRowsPerCopy);
        const int64_t firstPack = pair0 == 0 ? packTasks : 0;
        parallel_for(context, firstPack + copyTasks, [&](int64_t task, int) {
          if (task < firstPack) {
            const int64_t p = task * kPanelsPerPack;
            packB<P>(packedB + p * floatsB, floatsB, least(kPanelsPerPack, panels - p), b, k0, kc, n0 + p * NR,
                     nc - p * NR);
            return;
          }
          const int64_t from = (task - firstPack) * kRowsPerCopy;
          if (a.transposed)
            copySteps<P>(copiedA + from / P::kDepth * strideA, strideA, a.data + (k0 + from) * a.stride + m0, a.stride,
                         rows, 2 * pairs, least(kRowsPerCopy, kc - from));
          else
            copyRows<P>(copiedA + from * strideA, strideA, a.data + (m0 + from) * a.stride + k0, a.stride, rows - from,
                        least(kRowsPerCopy, 2 * pairs - from), kc);
        });

        const int64_t rowTiles = blocks(2 * pairs, MR);
        const Partition part = partition(rowTiles, panels);
        const int64_t columnTasks = blocks(panels, part.columnPanels);
        const float* const fromA = !inPlace ? copiedA : a.transposed ? a.data + k0 * a.stride + m0
                                                                     : a.data + m0 * a.stride + k0;
        parallel_for(context, blocks(rowTiles, part.rowTiles) * columnTasks, [&](int64_t task, int) {
          const int64_t rowFrom = task / columnTasks * part.rowTiles, rowTo = least(rowTiles, rowFrom + part.rowTiles);
          const int64_t from = task % columnTasks * part.columnPanels, to = least(panels, from + part.columnPanels);
          const bool isFirst = k0 == 0;
          Tile t{};
          t.cStride = cStride;
          t.aStride = inPlace ? a.stride : strideA;
          t.steps = blocks(kc, P::kDepth);
          t.residualStride = e.residualStride;
          t.add = !isFirst || e.accumulate;
          for (int64_t p = from; p < to; p++) {
            const int64_t n = n0 + p * NR;
            t.columns = nc - p * NR;
            t.b = packedB + p * floatsB;
            t.bias = isFirst && e.bias ? e.bias + n : nullptr;
            for (int64_t r = rowFrom; r < rowTo; r++) {
              // Tiles of equal height, but for a pair: one of two rows would take as long as one of eight.
              const int64_t row = pairs * r / rowTiles * 2, m = m0 + row;
              t.rows = least(pairs * (r + 1) / rowTiles * 2, rows) - row;
              t.c = c + m * cStride + n;
              t.a = fromA + (a.transposed ? row : row * t.aStride);
              t.residual = isFirst && e.residual ? e.residual + m * e.residualStride + n : nullptr;
              if (t.columns > W)
                a.transposed ? runRows<P, NV, false>(t) : runRows<P, NV, true>(t);
              else
                a.transposed ? runRows<P, 1, false>(t) : runRows<P, 1, true>(t);
            }
          }
        });
      }
    }
  }
}
}  // namespace
