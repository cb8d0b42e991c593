// Exact attention by tiles, forward (FlashAttention-2, Dao 2023, arXiv:2307.08691): scores exist one tile at a time, a
// running maximum and normaliser rescale the output. A task is one (sequence, head, query tile).
// Few queries against many keys are in attention-decode.cc, the gradients in attention-backward.cc.
#include "attention-tiles.h"

namespace {
// One tile of keys against column n of the queries: maxima, probabilities (in place, in base 2), normaliser.
// scores: [rows of keys][TQ]; m, l: running maximum and sum of the lanes; shrink: what the old output is worth now.
static void softmaxColumn(const Visibility& see, int64_t n, int64_t k0, int64_t begin, int64_t end, float* scores,
                          float* m, float* l, float* shrink) {
  const int64_t i = n * NB;
  const int64_t allBegin = clamp(see.allFrom[n] - k0, begin, end), allEnd = clamp(see.allTo[n] - k0, allBegin, end);
  vf top[NV], sum[NV];
  for (int v = 0; v < NV; v++) top[v] = load(m + i + v * W);
  const auto maskRows = [&](int64_t from, int64_t to) {
    for (int64_t j = from; j < to; j++)
      for (int v = 0; v < NV; v++) {
        float* s = scores + j * TQ + i + v * W;
        const vi key = splatInt(int32_t(k0 + j));
        const vi visible = (key >= lanes(see.from + i + v * W)) & (key < lanes(see.to + i + v * W));
        const vf x = select(visible, load(s), splat(-INFINITY));
        store(s, x);
        top[v] = vmax(x, top[v]);
      }
  };
  maskRows(begin, allBegin);
  for (int64_t j = allBegin; j < allEnd; j++)
    for (int v = 0; v < NV; v++) top[v] = vmax(load(scores + j * TQ + i + v * W), top[v]);
  maskRows(allEnd, end);

  for (int v = 0; v < NV; v++) {
    const vf old = load(m + i + v * W);
    store(m + i + v * W, top[v]);
    // A lane that has seen no key yet has maximum -inf; -inf - 0 keeps its probabilities at 0.
    top[v] = select(top[v] == splat(-INFINITY), vf{}, top[v]);
    store(shrink + i + v * W, vexp2(old - top[v]));
    sum[v] = vf{};
  }
  for (int64_t j = begin; j < end; j++)
    for (int v = 0; v < NV; v++) {
      float* s = scores + j * TQ + i + v * W;
      const vf e = vexp2(load(s) - top[v]);
      store(s, e);
      sum[v] += e;
    }
  for (int v = 0; v < NV; v++) {
    float* lane = l + i + v * W;
    store(lane, load(lane) * load(shrink + i + v * W) + sum[v]);
  }
}

static size_t forwardScratch(int64_t K) {
  const int64_t P = padded(K);
  return size_t(K * TQ + TQ * P + 2 * TK * P + TK * TQ + 3 * TQ) * 4;
}

static void forwardTile(const Shape& S, const Forms& forms, int64_t b, int64_t h, int64_t i0, const Matrix& out,
                        float* lse, const Matrix& q, const Matrix& k, const Matrix& v, float* scratch) {
  const int64_t K = S.K, P = padded(K), g = h / S.heads();
  const Visibility see(S, b, i0);
  float* kp = scratch;         // [TK][P] keys
  float* vp = kp + TK * P;     // [TK][P] values
  float* o = vp + TK * P;      // [TQ][P] output, not yet normalised
  float* s = o + TQ * P;       // [TK][TQ] scores, then probabilities
  float* m = s + TK * TQ;      // [TQ]
  float* l = m + TQ;           // [TQ]
  float* shrink = l + TQ;      // [TQ]
  float* qt = shrink + TQ;     // [K][TQ] queries, transposed, scaled for base 2
  packTransposed(qt, q.at(b * S.Tq + i0, h * K), q.stride, see.rows, K, S.scale * kLog2E);
  memset(o, 0, size_t(TQ * P) * 4);
  for (int64_t i = 0; i < TQ; i++) m[i] = -INFINITY, l[i] = 0;

  for (int64_t k0 = see.first / TK * TK; k0 < see.last; k0 += TK) {
    const int64_t keys = least(TK, S.Tk - k0), height = roundUp(keys, MR);
    // K is only broadcast: it is read where it lies, but for rows that are missing in the last tile. V rows lie a power
    // of two apart in many models and would evict each other from the first-level cache: they are packed.
    const float* key = k.at(b * S.Tk + k0, g * K);
    int64_t keyStride = k.stride;
    if (height != keys) {
      packRows(kp, key, keyStride, keys, height, K);
      key = kp, keyStride = P;
    }
    packRows(vp, v.at(b * S.Tk + k0, g * K), v.stride, keys, height, K);
    for (int64_t n = 0; n * NB < see.rows; n++) {
      int64_t begin, end;
      see.keyRange(n, k0, keys, &begin, &end);
      if (begin >= end) continue;
      float* column = s + n * NB;
      for (int64_t j = begin; j < end; j += MR)
        registerTile<MR, NV, false, kZero>(column + j * TQ, TQ, nullptr, key + j * keyStride, keyStride, qt + n * NB,
                                           TQ, 0, K);
      if (forms.any())
        for (int64_t j = begin; j < end; j++)
          for (int v = 0; v < NV; v++) {
            float* x = column + j * TQ + v * W;
            vf slope;
            store(x, forms.apply(load(x), h, i0 + n * NB + v * W, k0 + j, &slope));
          }
      softmaxColumn(see, n, k0, begin, end, s, m, l, shrink);
    }
    for (int64_t i = 0; i < see.rows; i += MR) {
      const int64_t begin = clamp(see.groupFrom[i / MR] - k0, 0, keys), end = clamp(see.groupTo[i / MR] - k0, 0, keys);
      // Without a visible key in this tile the maximum has not moved either.
      if (begin < end) rowOfTiles<MR, true, kScaled>(o + i * P, P, shrink + i, s + i, TQ, vp, P, P, begin, end);
    }
  }
  for (int64_t i = 0; i < see.rows; i++) {
    // Only a query without keys has sum 0; a NaN must show.
    const bool empty = l[i] == 0;
    writeRow(out.at(b * S.Tq + i0 + i, h * K), o + i * P, K, empty ? 0.f : 1 / l[i], false);
    lse[(b * S.H + h) * S.Tq + i0 + i] = empty ? -INFINITY : m[i] * kLn2 + logf(l[i]);
  }
}
}  // namespace

TY_EXPORT(ty_attention)(int64_t context, int64_t out, int64_t outStride, int64_t lse, int64_t q, int64_t qStride,
                        int64_t k, int64_t kStride, int64_t v, int64_t vStride, int64_t docStart, int32_t B, int32_t H,
                        int32_t G, int32_t Tq, int32_t Tk, int32_t K, double scale, int32_t causal, int32_t window,
                        double softcap, int64_t bias) {
  TyContext* ctx = reinterpret_cast<TyContext*>(context);
  const Shape S{B,  H, G, Tq, Tk, K, float(scale), causal != 0, window, reinterpret_cast<const int32_t*>(docStart)};
  const Matrix Out{F(out), outStride}, Q{F(q), qStride}, Key{F(k), kStride}, Value{F(v), vStride};
  float* reversed = bias ? static_cast<float*>(ty_shared_scratch(ctx, size_t(H * Forms::lengthOf(S)) * 4)) : nullptr;
  const Forms forms(S, softcap, F(bias), reversed);
  const int64_t tiles = blocks(Tq, TQ);
  runTasks(ctx, int64_t(B) * H * tiles, int64_t(B) * H * Tq * Tk * K, [&](int64_t task, int thread) {
    float* scratch = static_cast<float*>(ty_scratch(ctx, thread, forwardScratch(K)));
    // The last query tiles see the most keys: they go first, so that no thread ends with a long one.
    const int64_t tile = tiles - 1 - task / (int64_t(B) * H), head = task % (int64_t(B) * H);
    forwardTile(S, forms, head / H, head % H, tile * TQ, Out, F(lse), Q, Key, Value, scratch);
  });
}
