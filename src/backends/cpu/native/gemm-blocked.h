// General matrix product C (+)= op(A) op(B) + bias + residual, after Goto & van de Geijn 2008 ("Anatomy of
// high-performance matrix multiplication"): B is packed into panels of NR columns that all threads share, A into panels
// of MR rows by each task, and a tile of MR x NR in registers runs over them. Written once for every product (below) and
// vector width. The order in which an element's terms are added depends on K alone, so neither the partition into tasks
// nor the number of threads changes a bit.
#pragma once
#include "context.h"
#include "simd.h"

namespace {
// A product says how two packed numbers are multiplied and added: plain f32, or pairs of bf16. It has
//   kDepth            how many steps of k one packed word (32 bits) holds
//   pack(x0, x1)      packs step k (and k + 1 where kDepth is 2)
//   add(sum, x, y)    sum + x * y
struct F32Product {
  static constexpr int kDepth = 1;
  static inline vf pack(vf x0, vf) { return x0; }
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
// Panels of A that a task packs at most (344 KiB of second-level cache), and bytes of B that are packed at a time.
constexpr int64_t kPanelsA = 8;
constexpr int64_t kBytesB = 6 << 20;
constexpr int64_t kPanelsPerPack = 4;
// Floats between panels: whole-vector writes run over a panel's end, and panels a power of two apart would fight for the
// same lines of the first-level cache.
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

// r[i][j] <-> r[j][i] by log2(W) butterfly stages.
static inline void transpose(vf (&r)[W]) {
#if defined(__clang__)
  float t[W][W];
  memcpy(t, r, sizeof t);
  for (int i = 0; i < W; i++)
    for (int j = 0; j < W; j++) r[i][j] = t[j][i];
#else
#pragma GCC unroll 8
  for (int s = 1; s < W; s *= 2) {
    vi low, high;
    for (int j = 0; j < W; j++) {
      low[j] = (j & s) ? W + j - s : j;
      high[j] = (j & s) ? W + j : j + s;
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) {
      if (i & s) continue;
      const vf a = r[i], b = r[i + s];
      r[i] = __builtin_shuffle(a, b, low);
      r[i + s] = __builtin_shuffle(a, b, high);
    }
  }
#endif
}

// Packs kc steps from a matrix whose rows run along k: row i becomes lane i of [k][STEP], lanes from `rows` on are zero.
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
    transpose(r);
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
template <typename P, int STEP, int VECTORS>
static void packAlong(float* out, int64_t panelFloats, int64_t panels, const float* in, int64_t stride, int64_t columns,
                      int64_t kc) {
  constexpr int64_t kAhead = 8 * P::kDepth;
  const int64_t whole = columns < VECTORS * W ? 0 : least(panels, (columns - VECTORS * W) / STEP + 1);
  for (int64_t k = 0; k < kc; k += P::kDepth, in += P::kDepth * stride, out += STEP) {
    const bool hasNext = P::kDepth == 2 && k + 1 < kc;
    for (int64_t p = 0; p < whole; p++) {
      const float* from = in + p * STEP;
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
        const float* from = in + p * STEP + v * W;
        const int64_t left = columns - p * STEP - v * W, n = left < 0 ? 0 : least(W, left);
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
    packAlong<P, NR, NV>(out, panelFloats, wide, in, b.stride, columns, kc);
    if (hasNarrow)
      packAlong<P, W, 1>(out + wide * panelFloats, 0, 1, in + wide * NR, b.stride, columns - wide * NR, kc);
    return;
  }
  const float* in = b.data + n0 * b.stride + k0;
  for (int64_t p = 0; p < wide; p++)
    for (int64_t j = p * NR; j < (p + 1) * NR; j += W)
      packAcross<P, NR>(out + p * panelFloats + (j - p * NR), in + j * b.stride, b.stride, columns - j, kc);
  if (hasNarrow)
    packAcross<P, W>(out + wide * panelFloats, in + wide * NR * b.stride, b.stride, columns - wide * NR, kc);
}

// `panels` panels of MR rows of A from row m0 on, `rows` of them left. Writes whole vectors: up to W floats past each
// panel's end, which kPadding leaves room for.
template <typename P>
static void packA(float* out, int64_t panelFloats, int64_t panels, const Operand& a, int64_t m0, int64_t rows,
                  int64_t k0, int64_t kc) {
  static_assert(MR <= W, "a panel of A is at most one vector wide");
  if (a.transposed) {
    packAlong<P, MR, 1>(out, panelFloats, panels, a.data + k0 * a.stride + m0, a.stride, rows, kc);
    return;
  }
  for (int64_t p = 0; p < panels; p++)
    packAcross<P, MR>(out + p * panelFloats, a.data + (m0 + p * MR) * a.stride + k0, a.stride, least(MR, rows - p * MR),
                      kc);
}

// One tile of C, over `steps` packed words of k.
struct Tile {
  float* c;
  int64_t cStride;
  int64_t rows;
  int64_t columns;
  const float* a;
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

// A tile of R rows and V vectors of columns.
template <typename P, int R, int V>
static __attribute__((noinline)) void runTile(const Tile& t) {
  vf sum[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
    // C is needed after the loop: it comes from memory meanwhile.
    if (i < t.rows) __builtin_prefetch(t.c + i * t.cStride, 1);
    if (i < t.rows && V > 1) __builtin_prefetch(t.c + i * t.cStride + least(t.columns, V * W) - 1, 1);
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) sum[i][v] = vf{};
  }
  const float *a = t.a, *b = t.b;
  for (int64_t k = 0; k < t.steps; k++) {
    vf y[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) y[v] = load(b + v * W);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      const vf x = splat(a[i]);
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) sum[i][v] = P::add(sum[i][v], x, y[v]);
    }
    a += MR;
    b += V * W;
  }
  if (t.rows < R || t.columns < V * W) {
    float sums[R * V * W];
    memcpy(sums, sum, sizeof sums);
    finishEdge(t, sums, V);
    return;
  }
#define TY_EACH                  \
  _Pragma("GCC unroll 16")       \
  for (int i = 0; i < R; i++)    \
    _Pragma("GCC unroll 2")      \
    for (int v = 0; v < V; v++)
  if (t.add) TY_EACH sum[i][v] += load(t.c + i * t.cStride + v * W);
  if (t.bias) TY_EACH sum[i][v] += load(t.bias + v * W);
  if (t.residual) TY_EACH sum[i][v] += load(t.residual + i * t.residualStride + v * W);
  TY_EACH store(t.c + i * t.cStride + v * W, sum[i][v]);
#undef TY_EACH
}

// The last panel of A has fewer rows than MR: its tile has as many, rounded up to an even number.
template <typename P, int V>
static void runRows(const Tile& t) {
  switch ((t.rows + 1) / 2) {
#if TY_ISA == 5
    case 7: return runTile<P, 14, V>(t);
    case 6: return runTile<P, 12, V>(t);
    case 5: return runTile<P, 10, V>(t);
    case 4: return runTile<P, 8, V>(t);
#endif
#if TY_ISA >= 2
    case 3: return runTile<P, 6, V>(t);
#endif
    case 2: return runTile<P, 4, V>(t);
    default: return runTile<P, 2, V>(t);
  }
}

// How the tiles of a block of C are dealt out: `rowPanels` of A by `columnPanels` of B a task.
struct Partition {
  int64_t rowPanels;
  int64_t columnPanels;
};

// Tasks enough to share out evenly, each wide enough to make up for packing its own panels of A.
static Partition partition(int64_t rowPanels, int64_t columnPanels) {
  Partition p{kPanelsA, columnPanels};
  const auto tasks = [&] { return blocks(rowPanels, p.rowPanels) * blocks(columnPanels, p.columnPanels); };
  while (tasks() < 12 && p.rowPanels > 4) p.rowPanels /= 2;
  while (tasks() < 12 && p.columnPanels >= 8) p.columnPanels = blocks(p.columnPanels, 2);
  while (tasks() < 12 && p.rowPanels > 1) p.rowPanels /= 2;
  while (tasks() < 8 && p.columnPanels > 1) p.columnPanels = blocks(p.columnPanels, 2);
  return p;
}

template <typename P>
static void gemm(TyContext* context, float* c, int64_t cStride, const Operand& a, const Operand& b, int64_t M,
                 int64_t N, int64_t K, const Epilogue& e) {
  // Slabs of k of equal length, whole vectors each.
  const int64_t slabs = blocks(K, KC * P::kDepth);
  const int64_t slab = blocks(blocks(K, slabs), W) * W;
  const int64_t floatsA = MR * (slab / P::kDepth) + kPadding, floatsB = NR * (slab / P::kDepth) + kPadding;
  const int64_t allColumnPanels = blocks(N, NR), rowPanels = blocks(M, MR);
  const int64_t columnPanels = blocks(allColumnPanels, blocks(allColumnPanels * floatsB * 4, kBytesB));
  const Partition part = partition(rowPanels, columnPanels);
  float* const packedB = static_cast<float*>(ty_shared_scratch(context, size_t(columnPanels * floatsB) * 4));

  for (int64_t n0 = 0; n0 < N; n0 += columnPanels * NR) {
    const int64_t nc = least(columnPanels * NR, N - n0);
    const int64_t panels = blocks(nc, NR), columnTasks = blocks(panels, part.columnPanels);
    for (int64_t k0 = 0; k0 < K; k0 += slab) {
      const int64_t kc = least(slab, K - k0);
      parallel_for(context, blocks(panels, kPanelsPerPack), [&](int64_t task, int) {
        const int64_t p = task * kPanelsPerPack;
        packB<P>(packedB + p * floatsB, floatsB, least(kPanelsPerPack, panels - p), b, k0, kc, n0 + p * NR, nc - p * NR);
      });
      parallel_for(context, blocks(rowPanels, part.rowPanels) * columnTasks, [&](int64_t task, int thread) {
        const int64_t rowFrom = task / columnTasks * part.rowPanels, rowTo = least(rowPanels, rowFrom + part.rowPanels);
        const int64_t from = task % columnTasks * part.columnPanels, to = least(panels, from + part.columnPanels);
        float* packedA = static_cast<float*>(ty_scratch(context, thread, size_t(part.rowPanels * floatsA) * 4));
        packA<P>(packedA, floatsA, rowTo - rowFrom, a, rowFrom * MR, M - rowFrom * MR, k0, kc);
        const bool isFirst = k0 == 0;
        Tile t{};
        t.cStride = cStride;
        t.steps = blocks(kc, P::kDepth);
        t.residualStride = e.residualStride;
        t.add = !isFirst || e.accumulate;
        for (int64_t p = from; p < to; p++) {
          const int64_t n = n0 + p * NR;
          t.columns = nc - p * NR;
          t.b = packedB + p * floatsB;
          t.bias = isFirst && e.bias ? e.bias + n : nullptr;
          for (int64_t r = rowFrom; r < rowTo; r++) {
            const int64_t m = r * MR;
            t.rows = least(MR, M - m);
            t.c = c + m * cStride + n;
            t.a = packedA + (r - rowFrom) * floatsA;
            t.residual = isFirst && e.residual ? e.residual + m * e.residualStride + n : nullptr;
            if (t.columns > W)
              runRows<P, NV>(t);
            else
              runRows<P, 1>(t);
          }
        }
      });
    }
  }
}
}  // namespace
