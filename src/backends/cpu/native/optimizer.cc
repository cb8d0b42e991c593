// Optimizer updates over flat ranges. Learning rate, bias corrections, clip factor and the finite flag come from the
// f64 scalars (core/kernels.ts, SCALAR: 0 lr, 1 and 2 bias corrections, 5 clip factor, 6 finite). A step whose
// gradients are not finite changes nothing.
#include "context.h"
#include "simd.h"

namespace {
constexpr int64_t kChunk = 1 << 14;
static inline vf vsqrt(vf x) {
  vf y;
  for (int i = 0; i < W; i++) y[i] = __builtin_sqrtf(x[i]);
  return y;
}
static inline vf vsign(vf x) { return select(x > vf{}, splat(1), select(x < vf{}, splat(-1), x)); }

template <typename G>
static void flat(int64_t context, int64_t count, const G& g) {
  parallel_for(reinterpret_cast<TyContext*>(context), blocks(count, kChunk), [&](int64_t task, int) {
    const int64_t to = least(count, (task + 1) * kChunk);
    for (int64_t i = task * kChunk; i < to; i += W) g(i, least(W, to - i));
  });
}

struct Scalars {
  double lr, correction1, correction2, clip;
  bool finite;
  explicit Scalars(int64_t address) {
    const double* s = reinterpret_cast<const double*>(address);
    lr = s[0], correction1 = s[1], correction2 = s[2], clip = s[5], finite = s[6] != 0;
  }
};
}  // namespace

// flags: 1 = decay added to the gradient (Adam), 2 = the lecture notes' convention: eps inside the root, no bias
// correction, and the weights step with the moments from before this gradient.
TY_EXPORT(ty_adam)(int64_t context, int64_t weight, int64_t m, int64_t v, int64_t grad, int64_t scalars, int64_t count,
                   double beta1, double beta2, double eps, double weightDecay, int32_t flags) {
  const Scalars s(scalars);
  if (!s.finite) return;
  const bool coupled = flags & 1, notes = flags & 2;
  const float clip = float(s.clip), b1 = float(beta1), b2 = float(beta2), c1 = float(1 - beta1), c2 = float(1 - beta2);
  const float keep = coupled ? 1 : float(1 - s.lr * weightDecay), added = coupled ? float(weightDecay) : 0;
  const float step = float(notes ? s.lr : s.lr / s.correction1), root = float(1 / sqrt(s.correction2)), e = float(eps);
  flat(context, count, [&](int64_t i, int64_t n) {
    const vf w = get(F(weight) + i, n), m0 = get(F(m) + i, n), v0 = get(F(v) + i, n);
    const vf g = get(F(grad) + i, n) * clip + added * w;
    const vf m1 = b1 * m0 + c1 * g, v1 = b2 * v0 + c2 * g * g;
    const vf move = notes ? m0 / vsqrt(v0 + e) : m1 / (vsqrt(v1) * root + e);
    put(F(weight) + i, w * keep - step * move, n);
    put(F(m) + i, m1, n);
    put(F(v) + i, v1, n);
  });
}

// velocity is 0 where momentum is not used.
TY_EXPORT(ty_sgd)(int64_t context, int64_t weight, int64_t velocity, int64_t grad, int64_t scalars, int64_t count,
                  double momentum, int32_t nesterov, double weightDecay) {
  const Scalars s(scalars);
  if (!s.finite) return;
  const float clip = float(s.clip), mu = float(momentum), lr = float(s.lr), keep = float(1 - s.lr * weightDecay);
  flat(context, count, [&](int64_t i, int64_t n) {
    const vf g = get(F(grad) + i, n) * clip;
    vf move = g;
    if (velocity) {
      const vf v = mu * get(F(velocity) + i, n) + g;
      put(F(velocity) + i, v, n);
      move = nesterov ? g + mu * v : v;
    }
    put(F(weight) + i, get(F(weight) + i, n) * keep - lr * move, n);
  });
}

TY_EXPORT(ty_lion)(int64_t context, int64_t weight, int64_t m, int64_t grad, int64_t scalars, int64_t count,
                   double beta1, double beta2, double weightDecay) {
  const Scalars s(scalars);
  if (!s.finite) return;
  const float clip = float(s.clip), b1 = float(beta1), b2 = float(beta2), lr = float(s.lr);
  const float c1 = float(1 - beta1), c2 = float(1 - beta2), keep = float(1 - s.lr * weightDecay);
  flat(context, count, [&](int64_t i, int64_t n) {
    const vf g = get(F(grad) + i, n) * clip, m0 = get(F(m) + i, n);
    put(F(weight) + i, get(F(weight) + i, n) * keep - lr * vsign(b1 * m0 + c1 * g), n);
    put(F(m) + i, b2 * m0 + c2 * g, n);
  });
}

TY_EXPORT(ty_momentum)(int64_t context, int64_t out, int64_t m, int64_t grad, int64_t scalars, int64_t count,
                       double momentum, int32_t nesterov) {
  const Scalars s(scalars);
  const float clip = float(s.clip), mu = float(momentum);
  flat(context, count, [&](int64_t i, int64_t n) {
    const vf g = get(F(grad) + i, n) * clip, v = mu * get(F(m) + i, n) + g;
    if (s.finite) put(F(m) + i, v, n);
    put(F(out) + i, nesterov ? g + mu * v : v, n);
  });
}

TY_EXPORT(ty_apply_update)(int64_t context, int64_t weight, int64_t update, int64_t scalars, int64_t count,
                           double scale, double weightDecay) {
  const Scalars s(scalars);
  if (!s.finite) return;
  const float keep = float(1 - s.lr * weightDecay), step = float(s.lr * scale);
  flat(context, count, [&](int64_t i, int64_t n) {
    put(F(weight) + i, get(F(weight) + i, n) * keep - step * get(F(update) + i, n), n);
  });
}
