// Attention of few queries against many keys (decoding with a KV cache): bound by reading K and V once. The keys are
// cut into ranges of a size that the shape fixes; a task reads one range for all heads of a sequence, so that memory
// is read in order, and the ranges are combined in order (Flash-Decoding, Dao et al. 2023). No gradient here.
// Tried and dropped: tiles of 32 and 64 keys (twice as slow from memory), prefetching into the first-level cache.
#include "attention-tiles.h"

namespace {
constexpr int64_t kAhead = 1;  // heads between a prefetch and its use
constexpr int64_t kKeys = 16;  // keys of a tile: rows of K and V that stay in the first-level cache

// A partial result of one row (query head and query) over one range: maximum, sum, output not yet normalised.
static int64_t slotFloats(int64_t K) { return 2 + K; }

// Keys of a range: at least a tile, and about 16 ranges up to 8192 keys, more beyond.
static int64_t rangeKeys(int64_t Tk) { return TK * clamp(Tk / (16 * TK), 1, 8); }

// r[j] are W vectors; lane j of r[0] becomes the sum of r[j]. Halves the number of vectors stage by stage.
template <int S = 1>
static inline void sumEach(vf (&r)[W]) {
  if constexpr (S < W) {
#pragma GCC unroll 16
    for (int i = 0; i < W; i += 2 * S) r[i] = lowLanes<S>(r[i], r[i + S]) + highLanes<S>(r[i], r[i + S]);
    sumEach<S * 2>(r);
  }
}

// Whether any lane of x is greater than `bound`.
static inline bool anyAbove(vf x, float bound) {
#if TY_ISA == 5
  return _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(bound), _CMP_GT_OQ) != 0;
#elif TY_ISA == 2
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)x, _mm256_set1_ps(bound), _CMP_GT_OQ)) != 0;
#else
  return hmax(x) > bound;
#endif
}

// scores[j] = q . keys[j] for one row and the keys of a tile; P is the padded width of q and of the keys.
static void dotKeys(float* scores, const float* q, const float* keys, int64_t stride, int64_t count, int64_t P) {
  int64_t j0 = 0;
  for (; j0 + W <= count; j0 += W) {
    const float* key = keys + j0 * stride;
    vf r[W];
#pragma GCC unroll 16
    for (int j = 0; j < W; j++) r[j] = vf{};
    for (int64_t c = 0; c < P; c += W) {
      const vf x = load(q + c);
#pragma GCC unroll 16
      for (int j = 0; j < W; j++) r[j] += x * load(key + j * stride + c);
    }
    sumEach(r);
    store(scores + j0, r[0]);
  }
  for (; j0 < count; j0++) {
    vf sum{};
    for (int64_t c = 0; c < P; c += W) sum += load(q + c) * load(keys + j0 * stride + c);
    scores[j0] = hsum(sum);
  }
}

static inline void prefetchRows(const float* p, int64_t stride, int64_t rows, int64_t K) {
  for (int64_t j = 0; j < rows; j++)
    for (int64_t c = 0; c < K; c += 16) __builtin_prefetch(p + j * stride + c, 0, 2);
}

// State of all rows (query head and query) of a sequence over one range of keys.
struct Rows {
  float *q, *o;       // [H * Tq][P] scaled queries, output not yet normalised
  float *m, *shrink;  // [H * Tq] running maximum, what the old output is worth now
  float* l;           // [H * Tq][W] running normaliser, still in W parts
  float* scores;      // [heads of a group * Tq][kKeys]
  float *k, *v;       // [kKeys][P] copies of a tile

  static size_t bytes(const Shape& S) {
    const int64_t R = S.H * S.Tq, P = padded(S.K);
    return size_t(R * (2 * P + 2 + W) + S.heads() * S.Tq * kKeys + 2 * kKeys * P) * 4;
  }
  Rows(float* memory, const Shape& S) {
    const int64_t R = S.H * S.Tq, P = padded(S.K);
    q = memory, o = q + R * P;
    k = o + R * P, v = k + kKeys * P;
    scores = v + kKeys * P;
    l = scores + S.heads() * S.Tq * kKeys;
    m = l + R * W, shrink = m + R;
  }
};

// The rows of key head g against the keys [k0, k0 + keys).
static void decodeTile(const Shape& S, int64_t b, int64_t g, int64_t k0, int64_t keys, const float* key,
                       int64_t keyStride, const float* value, int64_t valueStride, const Rows& rows) {
  const int64_t K = S.K, P = padded(K), R = S.heads() * S.Tq, r0 = g * R;
  // Rows a multiple of a page apart share few sets of the first-level cache: with several query heads to a key head,
  // each would fetch them again.
  if (P != K || (R > 1 && keyStride % 1024 == 0)) {
    packRows(rows.k, key, keyStride, keys, keys, K);
    packRows(rows.v, value, valueStride, keys, keys, K);
    key = rows.k, value = rows.v, keyStride = valueStride = P;
  }
  for (int64_t r = 0; r < R; r++) {
    float *s = rows.scores + r * kKeys, *l = rows.l + (r0 + r) * W;
    float *m = rows.m + r0 + r, *shrink = rows.shrink + r0 + r;
    const int64_t i = r % S.Tq, begin = clamp(S.from(b, i) - k0, 0, keys), end = clamp(S.to(i) - k0, begin, keys);
    dotKeys(s, rows.q + (r0 + r) * P, key, keyStride, keys, P);
    for (int64_t j = 0; j < begin; j++) s[j] = -INFINITY;
    for (int64_t j = end; j < roundUp(keys, W); j++) s[j] = -INFINITY;
    vf top = splat(-INFINITY);
    for (int64_t j = 0; j < keys; j += W) top = vmax(load(s + j), top);
    *shrink = 1;
    if (anyAbove(top, *m)) {
      const float old = *m;
      *m = hmax(top);
      *shrink = vexp2(splat(old - *m))[0];
    }
    // A row that has seen no key yet has maximum -inf; -inf - 0 keeps its probabilities at 0.
    const float safe = *m == -INFINITY ? 0.f : *m;
    vf sum = load(l) * *shrink;
    for (int64_t j = 0; j < keys; j += W) {
      const vf e = vexp2(load(s + j) - safe);
      store(s + j, e);
      sum += e;
    }
    store(l, sum);
  }
  float* o = rows.o + r0 * P;
  const float *shrink = rows.shrink + r0, *p = rows.scores;
  int64_t r = 0;
  for (; r + 4 <= R; r += 4)
    rowOfTiles<4, false, kScaled>(o + r * P, P, shrink + r, p + r * kKeys, kKeys, value, valueStride, P, 0, keys);
  for (; r < R; r++)
    rowOfTiles<1, false, kScaled>(o + r * P, P, shrink + r, p + r * kKeys, kKeys, value, valueStride, P, 0, keys);
}

// All rows of sequence b against the keys [from, to); slots[row * slotStride] receives a partial result.
static void decodeRange(const Shape& S, int64_t b, int64_t from, int64_t to, const Matrix& q, const Matrix& k,
                        const Matrix& v, float* slots, int64_t slotStride, const Rows& rows) {
  const int64_t K = S.K, P = padded(K), R = S.H * S.Tq;
  for (int64_t r = 0; r < R; r++) {
    float* row = rows.q + r * P;
    packRows(row, q.at(b * S.Tq + r % S.Tq, r / S.Tq * K), 0, 1, 1, K);
    for (int64_t c = 0; c < P; c += W) store(row + c, load(row + c) * (S.scale * kLog2E));
    rows.m[r] = -INFINITY;
    store(rows.l + r * W, vf{});
  }
  memset(rows.o, 0, size_t(R * P) * 4);
  for (int64_t k0 = from; k0 < to; k0 += kKeys) {
    const int64_t keys = least(kKeys, to - k0), at = b * S.Tk + k0;
    for (int64_t g = 0; g < S.G; g++) {
      // What comes kAhead heads later, in these rows or in the next ones.
      const int64_t ahead = (g + kAhead) / S.G * kKeys, column = (g + kAhead) % S.G * K;
      const int64_t count = clamp(to - k0 - ahead, 0, kKeys);
      prefetchRows(k.at(at + ahead, column), k.stride, count, K);
      prefetchRows(v.at(at + ahead, column), v.stride, count, K);
      decodeTile(S, b, g, k0, keys, k.at(at, g * K), k.stride, v.at(at, g * K), v.stride, rows);
    }
  }
  for (int64_t r = 0; r < R; r++) {
    float* slot = slots + r * slotStride;
    slot[0] = rows.m[r];
    slot[1] = hsum(load(rows.l + r * W));
    writeRow(slot + 2, rows.o + r * P, K, 1.f, false);
  }
}

// out and lse of one row from its partial results, in the order of the ranges.
static void combine(const float* slots, int64_t ranges, int64_t K, float* out, float* lse) {
  const int64_t size = slotFloats(K);
  float top = -INFINITY, sum = 0;
  for (int64_t p = 0; p < ranges; p++) top = slots[p * size] > top ? slots[p * size] : top;
  const float safe = top == -INFINITY ? 0.f : top;
  for (int64_t p = 0; p < ranges; p++) sum += slots[p * size + 1] * exp2f(slots[p * size] - safe);
  const float inverse = sum == 0 ? 0.f : 1 / sum;
  for (int64_t p = 0; p < ranges; p++)
    writeRow(out, slots + p * size + 2, K, exp2f(slots[p * size] - safe) * inverse, p > 0);
  *lse = sum == 0 ? -INFINITY : top * kLn2 + logf(sum);
}
}  // namespace

// Takes what ty_attention takes; any Tq is right, few are fast.
TY_EXPORT(ty_attention_decode)(int64_t context, int64_t out, int64_t outStride, int64_t lse, int64_t q, int64_t qStride,
                               int64_t k, int64_t kStride, int64_t v, int64_t vStride, int64_t docStart, int32_t B,
                               int32_t H, int32_t G, int32_t Tq, int32_t Tk, int32_t K, double scale, int32_t causal,
                               int32_t window) {
  TyContext* ctx = reinterpret_cast<TyContext*>(context);
  const Shape S{B, H, G, Tq, Tk, K, float(scale), causal != 0, window, reinterpret_cast<const int32_t*>(docStart)};
  const Matrix Out{F(out), outStride}, Q{F(q), qStride}, Key{F(k), kStride}, Value{F(v), vStride};
  // The oldest query sees furthest back: keys before its window are not read at all.
  const int64_t step = rangeKeys(Tk), start = docStart ? 0 : clamp(S.from(0, 0), 0, Tk - 1) / step * step;
  const int64_t ranges = blocks(Tk - start, step), rows = int64_t(H) * Tq, slotStride = ranges * slotFloats(K);
  const int64_t work = B * rows * (Tk - start) * K;
  float* slots = static_cast<float*>(ty_shared_scratch(ctx, size_t(B * rows * slotStride) * 4));
  runTasks(ctx, B * ranges, work, [&](int64_t task, int thread) {
    const int64_t b = task / ranges, range = task % ranges, from = start + range * step;
    const Rows state(static_cast<float*>(ty_scratch(ctx, thread, Rows::bytes(S))), S);
    decodeRange(S, b, from, least(Tk, from + step), Q, Key, Value,
                slots + b * rows * slotStride + range * slotFloats(K), slotStride, state);
  });
  // Slots are in the order [B, H, Tq], as lse.
  runTasks(ctx, blocks(B * rows, 16), B * rows * slotStride, [&](int64_t task, int) {
    for (int64_t row = task * 16; row < least(B * rows, (task + 1) * 16); row++) {
      const int64_t i = row % Tq, h = row / Tq % H, b = row / (int64_t(H) * Tq);
      combine(slots + row * slotStride, ranges, K, Out.at(b * Tq + i, h * K), F(lse) + row);
    }
  });
}
