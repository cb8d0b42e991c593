// What the attention kernels share: who sees which keys, tiles and their packing, the register-blocked product, exp2.
// Scores are kept transposed, [keys][queries]: one vector lane is one query, so maxima, sums and masks are plain lane
// operations, rows of K and V are broadcast operands, and only Q (and dO) tiles have to be transposed, once.
#pragma once
#include "context.h"
#include "simd.h"
#include "transpose.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {
constexpr int64_t TQ = 64;  // queries of a tile
constexpr int64_t TK = 64;  // keys of a tile
// Register tile: MR rows by NV vectors (16 accumulators where there are 32 registers, else 8).
#if TY_ISA == 5 || defined(__aarch64__)
constexpr int MR = 8;
#else
constexpr int MR = 4;
#endif
constexpr int NV = 2;
constexpr int64_t NB = NV * W;  // queries that one column of register tiles covers
static_assert(TQ % NB == 0 && TK % MR == 0 && NB % MR == 0, "tiles are whole register tiles");

constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;

static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }
static inline int64_t roundUp(int64_t n, int64_t size) { return blocks(n, size) * size; }
static inline int64_t padded(int64_t n) { return roundUp(n, W); }

struct Shape {
  int64_t B, H, G, Tq, Tk, K;
  float scale;
  bool causal;
  int64_t window;
  const int32_t* docStart;

  int64_t heads() const { return H / G; }
  // Keys [from, to) that query i of sequence b may see.
  int64_t to(int64_t i) const { return causal ? clamp(i + 1 + Tk - Tq, 0, Tk) : Tk; }
  int64_t from(int64_t b, int64_t i) const {
    int64_t first = 0;
    if (window > 0) first = most(first, i + 1 + Tk - Tq - window);
    if (docStart) first = most(first, docStart[b * Tk + i]);
    return first;
  }
};

// A matrix [B, T, heads * K] that may be a column slice.
struct Matrix {
  float* data;
  int64_t stride;
  float* at(int64_t row, int64_t column) const { return data + row * stride + column; }
};

// What is done to scores besides scaling: a soft cap and a bias by relative position, in base 2 as the scores are.
struct Forms {
  float cap;          // 0: none
  const float* bias;  // [H][length]: element at(i, j) for query i and key j; null: none
  int64_t Tk, length;

  // Lanes behind the last query and rows behind the last key may be read too.
  static int64_t lengthOf(const Shape& S) { return MR + S.Tq + S.Tk + TQ; }
  int64_t at(int64_t i, int64_t j) const { return MR + i - j + Tk - 1; }
  bool any() const { return cap > 0 || bias; }

  // `memory` holds H * length floats where there is a bias, [Tq + Tk - 1, H].
  Forms(const Shape& S, double softcap, const float* given, float* memory)
      : cap(float(softcap) * kLog2E), bias(given ? memory : nullptr), Tk(S.Tk), length(lengthOf(S)) {
    if (!given) return;
    memset(memory, 0, size_t(S.H * length) * 4);
    for (int64_t row = 0; row < S.Tq + S.Tk - 1; row++)
      for (int64_t h = 0; h < S.H; h++)
        memory[h * length + MR + S.Tq + S.Tk - 2 - row] = given[row * S.H + h] * kLog2E;
  }

  // The scores x of head h, lanes from query i on, key j; *slope: their derivative by the scaled product.
  vf apply(vf x, int64_t h, int64_t i, int64_t j, vf* slope) const {
    *slope = splat(1.f);
    if (cap > 0) {
      const vf t = vtanh(x * (1 / cap));
      *slope = 1.f - t * t;
      x = t * cap;
    }
    return bias ? x + load(bias + h * length + at(i, j)) : x;
  }
};

// The visible keys of the queries of one tile, by lane, by register row (MR queries) and by register column (NB).
struct Visibility {
  int64_t rows;
  int64_t first, last;  // keys that any query of the tile sees
  alignas(64) int32_t from[TQ], to[TQ];
  int32_t groupFrom[TQ / MR], groupTo[TQ / MR];    // any of MR queries
  int32_t columnFrom[TQ / NB], columnTo[TQ / NB];  // any of NB queries
  int32_t allFrom[TQ / NB], allTo[TQ / NB];        // every one of NB queries

  Visibility(const Shape& S, int64_t b, int64_t i0) {
    rows = least(TQ, S.Tq - i0);
    for (int64_t i = 0; i < TQ; i++) {
      // Lanes behind the last query repeat it: harmless, and they never need a mask of their own.
      const int64_t query = i0 + least(i, rows - 1);
      const int64_t f = S.from(b, query), t = S.to(query);
      from[i] = f < t ? int32_t(f) : 0;
      to[i] = f < t ? int32_t(t) : 0;
    }
    for (int64_t n = 0; n < TQ / MR; n++) any(n * MR, MR, &groupFrom[n], &groupTo[n]);
    for (int64_t n = 0; n < TQ / NB; n++) {
      any(n * NB, NB, &columnFrom[n], &columnTo[n]);
      allFrom[n] = from[n * NB];
      allTo[n] = to[n * NB];
      for (int64_t i = n * NB; i < (n + 1) * NB; i++) {
        allFrom[n] = int32_t(most(allFrom[n], from[i]));
        allTo[n] = int32_t(least(allTo[n], to[i]));
      }
    }
    int32_t f, t;
    any(0, TQ, &f, &t);
    first = f;
    last = t;
  }

  // Bounds of the keys seen by lanes [i0, i0 + count); empty as [0, 0).
  void any(int64_t i0, int64_t count, int32_t* low, int32_t* high) const {
    int32_t f = INT32_MAX, t = 0;
    for (int64_t i = i0; i < i0 + count; i++) {
      if (from[i] >= to[i]) continue;
      f = from[i] < f ? from[i] : f;
      t = to[i] > t ? to[i] : t;
    }
    *low = t > 0 ? f : 0;
    *high = t;
  }

  // Rows [begin, end) of register column n in the tile of keys k0 ..: multiples of MR.
  void keyRange(int64_t n, int64_t k0, int64_t keys, int64_t* begin, int64_t* end) const {
    *begin = clamp(columnFrom[n] - k0, 0, TK) / MR * MR;
    *end = roundUp(clamp(columnTo[n] - k0, 0, keys), MR);
  }
};

static inline vi lanes(const int32_t* p) { return *reinterpret_cast<const vi_mem*>(p); }
static inline vi splatInt(int32_t x) { return x - vi{}; }

// The first n < W floats of a row, the rest zero.
static inline vf loadTail(const float* p, int64_t n) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
#else
  return load_partial(p, n);
#endif
}
static inline void storeTail(float* p, vf x, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)x);
#else
  store_partial(p, x, n);
#endif
}

// out[k][i] = in[i][k] * factor for `rows` rows of K columns; rows of `out` are TQ wide, zero from `rows` up to a
// multiple of NB.
static inline void packTransposed(float* out, const float* in, int64_t stride, int64_t rows, int64_t K, float factor) {
  for (int64_t i0 = 0; i0 < roundUp(rows, NB); i0 += W)
    for (int64_t k0 = 0; k0 < K; k0 += W) {
      vf r[W];
      const float* p = in + i0 * stride + k0;
      if (i0 + W <= rows && k0 + W <= K) {
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) r[i] = load(p + i * stride) * factor;
      } else {
        for (int i = 0; i < W; i++) {
          if (i0 + i >= rows)
            r[i] = vf{};
          else
            r[i] = (k0 + W <= K ? load(p + i * stride) : loadTail(p + i * stride, K - k0)) * factor;
        }
      }
      transposeSquare(r);
      if (k0 + W <= K) {
#pragma GCC unroll 16
        for (int k = 0; k < W; k++) store(out + (k0 + k) * TQ + i0, r[k]);
      } else {
        for (int64_t k = k0; k < K; k++) store(out + k * TQ + i0, r[k - k0]);
      }
    }
}

// out[i][0 .. padded(K)) = in[i][0 .. K) with zeros behind; whole rows of zeros from `rows` up to `height`.
static inline void packRows(float* out, const float* in, int64_t stride, int64_t rows, int64_t height, int64_t K) {
  const int64_t P = padded(K), whole = K / W * W;
  for (int64_t i = 0; i < rows; i++) {
    const float* p = in + i * stride;
    float* y = out + i * P;
    for (int64_t k = 0; k < whole; k += W) store(y + k, load(p + k));
    if (whole < K) store(y + whole, loadTail(p + whole, K - whole));
  }
  if (height > rows) memset(out + rows * P, 0, size_t((height - rows) * P) * 4);
}

// y[0 .. K) = x * factor, or y += x * factor.
static inline void writeRow(float* y, const float* x, int64_t K, float factor, bool add) {
  const int64_t whole = K / W * W;
  for (int64_t k = 0; k < whole; k += W) store(y + k, add ? load(y + k) + load(x + k) * factor : load(x + k) * factor);
  if (whole == K) return;
  const vf tail = loadTail(x + whole, K - whole) * factor;
  storeTail(y + whole, add ? loadTail(y + whole, K - whole) + tail : tail, K - whole);
}

// What a register tile starts from: 0, what c holds, or that times keep[m].
enum Start { kZero, kAdd, kScaled };

// c[m][n] = start + sum over k in [from, to) of A(m, k) b[k][n], for ROWS rows and COLUMNS vectors. A(m, k) is a[m][k],
// or a[k][m] when TRANSPOSED: either way it is only broadcast.
template <int ROWS, int COLUMNS, bool TRANSPOSED, Start START>
static inline void registerTile(float* c, int64_t cs, const float* keep, const float* a, int64_t as, const float* b,
                                int64_t bs, int64_t from, int64_t to) {
  vf acc[ROWS][COLUMNS];
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; m++)
#pragma GCC unroll 4
    for (int v = 0; v < COLUMNS; v++) {
      if (START == kZero)
        acc[m][v] = vf{};
      else
        acc[m][v] = START == kAdd ? load(c + m * cs + v * W) : load(c + m * cs + v * W) * keep[m];
    }
  const float* ak = a + from * (TRANSPOSED ? as : 1);
  const float* bk = b + from * bs;
  for (int64_t k = from; k < to; k++, ak += TRANSPOSED ? as : 1, bk += bs) {
    vf bv[COLUMNS];
#pragma GCC unroll 4
    for (int v = 0; v < COLUMNS; v++) bv[v] = load(bk + v * W);
#pragma GCC unroll 16
    for (int m = 0; m < ROWS; m++) {
      const vf x = splat(ak[TRANSPOSED ? m : m * as]);
#pragma GCC unroll 4
      for (int v = 0; v < COLUMNS; v++) acc[m][v] += x * bv[v];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; m++)
#pragma GCC unroll 4
    for (int v = 0; v < COLUMNS; v++) store(c + m * cs + v * W, acc[m][v]);
}

// registerTile over P columns (a multiple of W).
template <int ROWS, bool TRANSPOSED, Start START>
static inline void rowOfTiles(float* c, int64_t cs, const float* keep, const float* a, int64_t as, const float* b,
                              int64_t bs, int64_t P, int64_t from, int64_t to) {
  int64_t n = 0;
  for (; n + NB <= P; n += NB) registerTile<ROWS, NV, TRANSPOSED, START>(c + n, cs, keep, a, as, b + n, bs, from, to);
  if (n < P) registerTile<ROWS, 1, TRANSPOSED, START>(c + n, cs, keep, a, as, b + n, bs, from, to);
}

// Products below so many multiply-adds are not worth waking other threads.
constexpr int64_t kSmallWork = 1 << 18;

// All tasks, on all threads or, where the work is small, on this one. The results are the same.
template <typename TASK>
static inline void runTasks(TyContext* context, int64_t tasks, int64_t work, const TASK& run) {
  if (work >= kSmallWork) {
    parallel_for(context, tasks, run);
    return;
  }
  for (int64_t task = 0; task < tasks; task++) run(task, 0);
}
}  // namespace
