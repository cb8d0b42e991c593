// Gradients of exact attention (FlashAttention-2): probabilities are recomputed from the saved log-sum-exp by tiles.
// A task is one (sequence, key head, range of keys) and owns dK and dV of its range, summed over the query heads of the
// group in order; dQ of several ranges, and the gradient of the bias, are summed in order afterwards. No atomics: the shapes alone fix every sum.
#include "attention-tiles.h"

namespace {
constexpr int64_t kKeyBlock = 256;            // keys whose K, V, dK, dV a task keeps in cache at a time
constexpr int64_t kMinTasks = 16;             // ranges are cut until there are about so many tasks
constexpr int64_t kPartialFloats = 16 << 20;  // but the partial dQ of all ranges takes at most this much
constexpr int64_t kRowsOfTask = 64;           // rows of a task of the delta and dQ sums

struct Tensors {
  Matrix dq, dk, dv, dOut, out, q, k, v;
  const float* lse;
  float* delta;
};

// Scratch of one task; rows are padded(K) wide where not said otherwise.
struct Workspace {
  float *k, *v, *dk, *dv;  // [kKeyBlock]
  float *q, *dOut, *dq;    // [TQ]
  float *qt, *dOutT;       // [K][TQ]
  float *p, *ds;           // [TK][TQ] probabilities and score gradients
  float *lse, *delta;      // [TQ]

  static size_t bytes(int64_t K) {
    return size_t((4 * kKeyBlock + 3 * TQ) * padded(K) + 2 * K * TQ + 2 * TK * TQ + 2 * TQ) * 4;
  }
  Workspace(float* memory, int64_t K) {
    const auto take = [&](int64_t size) {
      float* at = memory;
      memory += size;
      return at;
    };
    const int64_t P = padded(K);
    k = take(kKeyBlock * P), v = take(kKeyBlock * P), dk = take(kKeyBlock * P), dv = take(kKeyBlock * P);
    q = take(TQ * P), dOut = take(TQ * P), dq = take(TQ * P);
    p = take(TK * TQ), ds = take(TK * TQ);
    lse = take(TQ), delta = take(TQ);
    qt = take(K * TQ), dOutT = take(K * TQ);
  }
};

// A head's part of the gradient of the bias, by relative position (Forms::at), and where the tile lies.
struct FormTile {
  const Forms& forms;
  float* dBias;
  int64_t h, i0;
};

// Turns scores and dP of column n into probabilities and dS = p (dP - delta), and clears the rows that nobody sees.
template <bool FORMS>
static void gradientColumn(const Visibility& see, const FormTile& form, int64_t n, int64_t k0, int64_t begin,
                           int64_t end, int64_t height, const Workspace& w) {
  const int64_t i = n * NB;
  const int64_t allBegin = clamp(see.allFrom[n] - k0, begin, end), allEnd = clamp(see.allTo[n] - k0, allBegin, end);
  const auto clear = [&](int64_t from, int64_t to) {
    for (int64_t j = from; j < to; j++)
      for (int v = 0; v < NV; v++) {
        store(w.p + j * TQ + i + v * W, vf{});
        store(w.ds + j * TQ + i + v * W, vf{});
      }
  };
  vf lse[NV], delta[NV];
  for (int v = 0; v < NV; v++) lse[v] = load(w.lse + i + v * W), delta[v] = load(w.delta + i + v * W);
  const auto rows = [&](int64_t from, int64_t to, auto masked) {
    for (int64_t j = from; j < to; j++)
      for (int v = 0; v < NV; v++) {
        float* p = w.p + j * TQ + i + v * W;
        float* ds = w.ds + j * TQ + i + v * W;
        vf x = load(p), slope = splat(1.f);
        if (FORMS) x = form.forms.apply(x, form.h, form.i0 + i + v * W, k0 + j, &slope);
        if (masked) {
          const vi key = splatInt(int32_t(k0 + j));
          const vi visible = (key >= lanes(see.from + i + v * W)) & (key < lanes(see.to + i + v * W));
          x = select(visible, x, splat(-INFINITY));
        }
        const vf e = vexp2(x - lse[v]);
        store(p, e);
        vf d = e * (load(ds) - delta[v]);
        if (FORMS) {
          if (form.dBias) {
            float* sum = form.dBias + form.forms.at(form.i0 + i + v * W, k0 + j);
            store(sum, load(sum) + d);
          }
          d = d * slope;
        }
        store(ds, d);
      }
  };
  clear(0, begin);
  rows(begin, allBegin, true);
  rows(allBegin, allEnd, false);
  rows(allEnd, end, true);
  clear(end, height);
}

// One tile of queries against one tile of keys: adds to dq (tile), dk and dv (from key j0 of the block on).
static void backwardTile(const Visibility& see, const FormTile& form, int64_t k0, int64_t keys, int64_t j0, int64_t K,
                         const Workspace& w) {
  const int64_t P = padded(K), height = roundUp(keys, MR);
  const float *k = w.k + j0 * P, *v = w.v + j0 * P;
  for (int64_t n = 0; n * NB < see.rows; n++) {
    int64_t begin, end;
    see.keyRange(n, k0, keys, &begin, &end);
    for (int64_t j = begin; j < end; j += MR) {
      const int64_t at = j * TQ + n * NB;
      registerTile<MR, NV, false, kZero>(w.p + at, TQ, nullptr, k + j * P, P, w.qt + n * NB, TQ, 0, K);
      registerTile<MR, NV, false, kZero>(w.ds + at, TQ, nullptr, v + j * P, P, w.dOutT + n * NB, TQ, 0, K);
    }
    const auto gradient = form.forms.any() ? gradientColumn<true> : gradientColumn<false>;
    gradient(see, form, n, k0, begin, most(begin, end), height, w);
  }
  for (int64_t j = 0; j < height; j += MR) {
    // Queries that see any of these MR keys.
    int64_t from = see.rows, to = 0;
    for (int64_t i = 0; i < see.rows; i++) {
      if (see.to[i] <= k0 + j || see.from[i] >= k0 + j + MR) continue;
      from = least(from, i);
      to = i + 1;
    }
    if (from >= to) continue;
    rowOfTiles<MR, false, kAdd>(w.dv + (j0 + j) * P, P, nullptr, w.p + j * TQ, TQ, w.dOut, P, P, from, to);
    rowOfTiles<MR, false, kAdd>(w.dk + (j0 + j) * P, P, nullptr, w.ds + j * TQ, TQ, w.q, P, P, from, to);
  }
  for (int64_t i = 0; i < see.rows; i += MR) {
    const int64_t begin = clamp(see.groupFrom[i / MR] - k0, 0, keys), end = clamp(see.groupTo[i / MR] - k0, 0, keys);
    if (begin < end) rowOfTiles<MR, true, kAdd>(w.dq + i * P, P, nullptr, w.ds + i, TQ, k, P, P, begin, end);
  }
}

// Keys [from, to) of key head g: all query heads of the group, all query tiles that see any of them. dBias: null, or what
// this range adds to it, [H][forms.length].
static void backwardRange(const Shape& S, const Forms& forms, float* dBias, const Tensors& T, int64_t b, int64_t g,
                          int64_t from, int64_t to, const Matrix& dq, const Workspace& w) {
  const int64_t K = S.K, P = padded(K);
  for (int64_t k0 = from; k0 < to; k0 += kKeyBlock) {
    const int64_t keys = least(kKeyBlock, to - k0), height = roundUp(keys, MR), row = b * S.Tk + k0;
    packRows(w.k, T.k.at(row, g * K), T.k.stride, keys, height, K);
    packRows(w.v, T.v.at(row, g * K), T.v.stride, keys, height, K);
    memset(w.dk, 0, size_t(height * P) * 4);
    memset(w.dv, 0, size_t(height * P) * 4);
    for (int64_t i0 = 0; i0 < S.Tq; i0 += TQ) {
      const Visibility see(S, b, i0);
      const int64_t first = most(see.first, k0), last = least(see.last, k0 + keys);
      if (first >= last && k0 > from) continue;
      for (int64_t h = g * S.heads(); h < (g + 1) * S.heads(); h++) {
        memset(w.dq, 0, size_t(TQ * P) * 4);
        if (first < last) {
          const int64_t lane = (b * S.H + h) * S.Tq + i0, query = b * S.Tq + i0;
          packRows(w.q, T.q.at(query, h * K), T.q.stride, see.rows, see.rows, K);
          packRows(w.dOut, T.dOut.at(query, h * K), T.dOut.stride, see.rows, see.rows, K);
          packTransposed(w.qt, T.q.at(query, h * K), T.q.stride, see.rows, K, S.scale * kLog2E);
          packTransposed(w.dOutT, T.dOut.at(query, h * K), T.dOut.stride, see.rows, K, 1.f);
          for (int64_t i = 0; i < TQ; i++) {
            // Queries without keys (lse -inf) and lanes behind the last query get probability 0.
            const bool real = i < see.rows && T.lse[lane + i] != -INFINITY;
            w.lse[i] = real ? T.lse[lane + i] * kLog2E : INFINITY;
            w.delta[i] = real ? T.delta[lane + i] : 0.f;
          }
          for (int64_t t = first - (first - k0) % TK; t < last; t += TK)
            backwardTile(see, {forms, dBias ? dBias + h * forms.length : nullptr, h, i0}, t, least(TK, k0 + keys - t), t - k0, K, w);
        }
        for (int64_t i = 0; i < see.rows; i++)
          writeRow(dq.at(b * S.Tq + i0 + i, h * K), w.dq + i * P, K, S.scale, k0 > from);
      }
    }
    for (int64_t j = 0; j < keys; j++) {
      writeRow(T.dk.at(row + j, g * K), w.dk + j * P, K, S.scale, false);
      writeRow(T.dv.at(row + j, g * K), w.dv + j * P, K, 1.f, false);
    }
  }
}

// delta = rowsum(dOut * out) of the rows [i0, i1) of all heads.
static void deltaRows(const Shape& S, const Tensors& T, int64_t b, int64_t i0, int64_t i1) {
  const int64_t K = S.K, whole = K / W * W;
  for (int64_t i = i0; i < i1; i++)
    for (int64_t h = 0; h < S.H; h++) {
      const float *x = T.dOut.at(b * S.Tq + i, h * K), *y = T.out.at(b * S.Tq + i, h * K);
      vf sum{};
      for (int64_t c = 0; c < whole; c += W) sum += load(x + c) * load(y + c);
      if (whole < K) sum += loadTail(x + whole, K - whole) * loadTail(y + whole, K - whole);
      T.delta[(b * S.H + h) * S.Tq + i] = hsum(sum);
    }
}

// Keys of a range: a multiple of TK, so that there are enough tasks, little enough partial dQ, and whole tiles.
static int64_t rangeKeys(const Shape& S) {
  const int64_t wanted = blocks(kMinTasks, S.B * S.G), affordable = kPartialFloats / (S.B * S.Tq * S.H * S.K);
  const int64_t ranges = clamp(least(wanted, affordable), 1, blocks(S.Tk, TK));
  return roundUp(blocks(S.Tk, ranges), TK);
}
}  // namespace

TY_EXPORT(ty_attention_backward)(int64_t context, int64_t dq, int64_t dqStride, int64_t dk, int64_t dkStride,
                                 int64_t dv, int64_t dvStride, int64_t delta, int64_t dOut, int64_t dOutStride,
                                 int64_t out, int64_t outStride, int64_t lse, int64_t q, int64_t qStride, int64_t k,
                                 int64_t kStride, int64_t v, int64_t vStride, int64_t docStart, int32_t B, int32_t H,
                                 int32_t G, int32_t Tq, int32_t Tk, int32_t K, double scale, int32_t causal,
                                 int32_t window, double softcap, int64_t bias, int64_t dBias) {
  TyContext* ctx = reinterpret_cast<TyContext*>(context);
  const Shape S{B, H, G, Tq, Tk, K, float(scale), causal != 0, window, reinterpret_cast<const int32_t*>(docStart)};
  const Tensors T{{F(dq), dqStride},   {F(dk), dkStride}, {F(dv), dvStride}, {F(dOut), dOutStride},
                  {F(out), outStride}, {F(q), qStride},   {F(k), kStride},   {F(v), vStride},
                  F(lse),              F(delta)};
  const int64_t columns = int64_t(H) * K, work = B * columns * Tq * Tk;
  const int64_t rowTasks = blocks(Tq, kRowsOfTask);
  runTasks(ctx, B * rowTasks, work, [&](int64_t task, int) {
    const int64_t i0 = task % rowTasks * kRowsOfTask;
    deltaRows(S, T, task / rowTasks, i0, least(Tq, i0 + kRowsOfTask));
  });

  const int64_t keys = rangeKeys(S), ranges = blocks(Tk, keys), size = int64_t(B) * Tq * columns;
  const int64_t length = Forms::lengthOf(S), partialSize = ranges > 1 ? ranges * size : 0;
  const int64_t biasSize = bias ? H * length : 0, biasSums = dBias ? ranges * B * biasSize : 0;
  const int64_t shared = partialSize + biasSize + biasSums;
  float* memory = shared > 0 ? static_cast<float*>(ty_shared_scratch(ctx, size_t(shared) * 4)) : nullptr;
  float* partial = partialSize > 0 ? memory : nullptr;
  const Forms forms(S, softcap, F(bias), memory + partialSize);
  float* sums = biasSums > 0 ? memory + partialSize + biasSize : nullptr;  // [ranges][B][H][length]
  runTasks(ctx, ranges * B * G, work, [&](int64_t task, int thread) {
    // Range by range: under a causal mask the first keys are seen by most queries, the longest tasks go first.
    const int64_t range = task / (int64_t(B) * G), head = task % (int64_t(B) * G), b = head / G, g = head % G;
    const Workspace w(static_cast<float*>(ty_scratch(ctx, thread, Workspace::bytes(K))), K);
    const Matrix target = partial ? Matrix{partial + range * size, columns} : T.dq;
    float* own = sums ? sums + (range * B + b) * H * length : nullptr;
    if (own) memset(own + g * S.heads() * length, 0, size_t(S.heads() * length) * 4);
    backwardRange(S, forms, own, T, b, g, range * keys, least(Tk, (range + 1) * keys), target, w);
  });
  if (sums)
    for (int64_t row = 0; row < S.Tq + S.Tk - 1; row++)
      for (int64_t h = 0; h < H; h++) {
        const float* part = sums + h * length + MR + S.Tq + S.Tk - 2 - row;
        float sum = 0;
        for (int64_t n = 0; n < ranges * B; n++) sum += part[n * H * length];
        F(dBias)[row * H + h] = sum;
      }
  if (!partial) return;
  runTasks(ctx, blocks(B * int64_t(Tq), kRowsOfTask), work, [&](int64_t task, int) {
    for (int64_t row = task * kRowsOfTask; row < least(B * int64_t(Tq), (task + 1) * kRowsOfTask); row++)
      for (int64_t range = 0; range < ranges; range++)
        writeRow(T.dq.at(row, 0), partial + range * size + row * columns, columns, 1.f, range > 0);
  });
}
