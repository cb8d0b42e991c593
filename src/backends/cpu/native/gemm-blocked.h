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

// Packs kc steps from a matrix whose rows run across the panel: `columns` floats of each row may be read.
template <typename P, int STEP, int VECTORS>
static void packAlong(float* out, const float* in, int64_t stride, int64_t columns, int64_t kc) {
  const bool whole = columns >= VECTORS * W;
  for (int64_t k = 0; k < kc; k += P::kDepth, in += P::kDepth * stride, out += STEP) {
    const bool hasNext = P::kDepth == 2 && k + 1 < kc;
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
      const float* from = in + v * W;
      if (whole) {
        store(out + v * W, P::pack(load(from), hasNext ? load(from + stride) : vf{}));
      } else {
        const int64_t n = columns - v * W < 0 ? 0 : least(W, columns - v * W);
        store(out + v * W, P::pack(get(from, n), hasNext ? get(from + stride, n) : vf{}));
      }
    }
  }
}

// A panel of B: VECTORS * W columns from n0 on, `columns` of them real.
template <typename P, int VECTORS>
static void packPanelB(float* out, const Operand& b, int64_t k0, int64_t kc, int64_t n0, int64_t columns) {
  if (!b.transposed) {
    packAlong<P, VECTORS * W, VECTORS>(out, b.data + k0 * b.stride + n0, b.stride, columns, kc);
    return;
  }
  for (int v = 0; v < VECTORS; v++)
    packAcross<P, VECTORS * W>(out + v * W, b.data + (n0 + v * W) * b.stride + k0, b.stride, columns - v * W, kc);
}

// A panel of MR rows from m0 on, `rows` of them left in the matrix. Writes whole vectors, so up to W floats past the
// panel's end are overwritten: panels are packed in order, and the last has room.
template <typename P>
static void packPanelA(float* out, const Operand& a, int64_t m0, int64_t rows, int64_t k0, int64_t kc) {
  static_assert(MR <= W, "a panel of A is at most one vector wide");
  if (a.transposed)
    packAlong<P, MR, 1>(out, a.data + k0 * a.stride + m0, a.stride, rows, kc);
  else
    packAcross<P, MR>(out, a.data + m0 * a.stride + k0, a.stride, least(MR, rows), kc);
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
  const int64_t panelFloats = NR * (slab / P::kDepth);
  const int64_t allColumnPanels = blocks(N, NR);
  const int64_t columnBlocks = blocks(allColumnPanels * panelFloats * 4, kBytesB);
  const int64_t columnPanels = blocks(allColumnPanels, columnBlocks);
  const int64_t rowPanels = blocks(M, MR);
  const Partition part = partition(rowPanels, columnPanels);
  float* const packedB = static_cast<float*>(ty_shared_scratch(context, size_t(columnPanels * panelFloats) * 4));

  for (int64_t n0 = 0; n0 < N; n0 += columnPanels * NR) {
    const int64_t nc = least(columnPanels * NR, N - n0);
    const int64_t panels = blocks(nc, NR);
    for (int64_t k0 = 0; k0 < K; k0 += slab) {
      const int64_t kc = least(slab, K - k0), steps = blocks(kc, P::kDepth);
      const int64_t panelsPerPack = rows_per_task(kc * NR, 1 << 15);
      parallel_for(context, blocks(panels, panelsPerPack), [&](int64_t task, int) {
        for (int64_t p = task * panelsPerPack; p < least(panels, (task + 1) * panelsPerPack); p++) {
          const int64_t columns = nc - p * NR;
          if (columns > W)
            packPanelB<P, NV>(packedB + p * panelFloats, b, k0, kc, n0 + p * NR, columns);
          else
            packPanelB<P, 1>(packedB + p * panelFloats, b, k0, kc, n0 + p * NR, columns);
        }
      });
      const int64_t columnTasks = blocks(panels, part.columnPanels);
      parallel_for(context, blocks(rowPanels, part.rowPanels) * columnTasks, [&](int64_t task, int thread) {
        const int64_t rowFrom = task / columnTasks * part.rowPanels, rowTo = least(rowPanels, rowFrom + part.rowPanels);
        const int64_t from = task % columnTasks * part.columnPanels, to = least(panels, from + part.columnPanels);
        float* packedA = static_cast<float*>(ty_scratch(context, thread, size_t(kPanelsA * MR * KC + 2 * W) * 4));
        for (int64_t r = rowFrom; r < rowTo; r++)
          packPanelA<P>(packedA + (r - rowFrom) * MR * steps, a, r * MR, M - r * MR, k0, kc);
        for (int64_t p = from; p < to; p++) {
          const int64_t n = n0 + p * NR;
          const bool first = k0 == 0;
          Tile t{};
          t.cStride = cStride;
          t.columns = nc - p * NR;
          t.b = packedB + p * panelFloats;
          t.steps = steps;
          t.bias = first && e.bias ? e.bias + n : nullptr;
          t.residualStride = e.residualStride;
          t.add = !first || e.accumulate;
          for (int64_t r = rowFrom; r < rowTo; r++) {
            const int64_t m = r * MR;
            t.c = c + m * cStride + n;
            t.a = packedA + (r - rowFrom) * MR * steps;
            t.residual = first && e.residual ? e.residual + m * e.residualStride + n : nullptr;
            t.rows = least(MR, M - m);
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
