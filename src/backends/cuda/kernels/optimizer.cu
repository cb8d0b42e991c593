// Gradient norm, clipping and the update rules over flat ranges of f32 weights and states: one pass over memory each.
//
// scalar_t is what a kernel writes beside them (the working copy of a weight, or `out`), grad_t what it reads: a
// gradient, an update or a matrix. A step whose gradients are not finite leaves weights and states as they were.
// `quads` (or `packs`) of a range are handled by wide accesses, the elements behind them one by one: 0 where an address
// is not aligned.
#include "prelude.cuh"

#ifndef TY_GRAD_DTYPE
#define TY_GRAD_DTYPE 0
#endif
#if TY_GRAD_DTYPE == 0
typedef float grad_t;
#elif TY_GRAD_DTYPE == 1
typedef bf16_t grad_t;
#else
typedef f16_t grad_t;
#endif

/** Slots of the step's scalars: SCALAR of core/kernels.ts. */
constexpr int LR = 0, BIAS_CORRECTION1 = 1, BIAS_CORRECTION2 = 2, SUM_OF_SQUARES = 3, NORM = 4, CLIP_FACTOR = 5,
              IS_FINITE = 6, GRAD_SCALE = 8, GOOD_STEPS = 9, HYSTERESIS_LEFT = 10, SKIPPED_STEPS = 11;

/** Four elements: 16 bytes of f32, 8 of a 16-bit type. */
template <typename T>
struct alignas(4 * sizeof(T)) Quad {
  T at[4];
};
TY_INLINE Quad<float> loadQuad(const float* p, i64 index) {
  Quad<float> quad;
  *reinterpret_cast<uint4*>(&quad) = reinterpret_cast<const uint4*>(p)[index];
  return quad;
}
template <typename T>
TY_INLINE Quad<T> loadQuad(const T* p, i64 index) {
  Quad<T> quad;
  *reinterpret_cast<uint2*>(&quad) = reinterpret_cast<const uint2*>(p)[index];
  return quad;
}
TY_INLINE void storeQuad(float* p, i64 index, const Quad<float>& quad) {
  reinterpret_cast<uint4*>(p)[index] = *reinterpret_cast<const uint4*>(&quad);
}
template <typename T>
TY_INLINE void storeQuad(T* p, i64 index, const Quad<T>& quad) {
  reinterpret_cast<uint2*>(p)[index] = *reinterpret_cast<const uint2*>(&quad);
}

TY_INLINE i64 globalThread() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }
TY_INLINE i64 globalThreads() { return (i64)gridDim.x * blockDim.x; }

/** Most ranges of one launch: MOST_RANGES of optimizer.ts. Their addresses and sizes are arguments, 4 KiB at most. */
constexpr int MOST_RANGES = 60;

/** Which of `ranges` ranges this block works on: the last whose first block is not behind it. */
TY_INLINE int rangeOfBlock(const int (&firstBlock)[MOST_RANGES + 1], int ranges) {
  int low = 0, high = ranges;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (firstBlock[middle] <= (int)blockIdx.x) low = middle;
    else high = middle;
  }
  return low;
}

/**
 * Applies `rule(w, first, second, g)` to every element of a range, g being the clipped gradient, and writes back the
 * weight, the first STATES states and, where `working` is given, the weight rounded to scalar_t.
 */
template <int STATES, typename Rule>
TY_INLINE void updateRange(float* weight, float* first, float* second, const grad_t* grad, scalar_t* working,
                           const double* scalars, i64 count, i64 quads, float clip, const Rule& rule,
                           i64 thread = globalThread(), i64 threads = globalThreads()) {
  if (scalars[IS_FINITE] == 0) return;
  if (thread < quads) {
    Quad<float> w = loadQuad(weight, thread), a = w, b = w;
    if (STATES > 0) a = loadQuad(first, thread);
    if (STATES > 1) b = loadQuad(second, thread);
    const Quad<grad_t> g = loadQuad(grad, thread);
#pragma unroll
    for (int i = 0; i < 4; i++) rule(w.at[i], a.at[i], b.at[i], clip * toFloat(g.at[i]));
    storeQuad(weight, thread, w);
    if (STATES > 0) storeQuad(first, thread, a);
    if (STATES > 1) storeQuad(second, thread, b);
    if (working != nullptr) {
      Quad<scalar_t> rounded;
#pragma unroll
      for (int i = 0; i < 4; i++) fromFloat(rounded.at[i], w.at[i]);
      storeQuad(working, thread, rounded);
    }
  }
#pragma unroll 1
  for (i64 i = quads * 4 + thread; i < count; i += threads) {
    float w = weight[i], a = 0, b = 0;
    if (STATES > 0) a = first[i];
    if (STATES > 1) b = second[i];
    rule(w, a, b, clip * toFloat(grad[i]));
    weight[i] = w;
    if (STATES > 0) first[i] = a;
    if (STATES > 1) second[i] = b;
    if (working != nullptr) fromFloat(working[i], w);
  }
}

/** Within 2 units of the last place, and without the branches of the exact ones. */
TY_INLINE float sqrtFast(float x) {
  float y;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
TY_INLINE float divideFast(float x, float y) { return __fdividef(x, y); }

constexpr int COUPLED_DECAY = 1, NOTES_CONVENTION = 2;

struct AdamRule {
  float lr, decay, coupledDecay, inverseCorrection1, inverseCorrection2, beta1, rest1, beta2, rest2, eps;
  bool isNotes;

  TY_INLINE void operator()(float& w, float& m, float& v, float g) const {
    g = fmaf(coupledDecay, w, g);
    const float newFirst = fmaf(beta1, m, rest1 * g), newSecond = fmaf(beta2, v, rest2 * g * g);
    const float update =
        isNotes ? divideFast(m, sqrtFast(v + eps))
                : divideFast(newFirst * inverseCorrection1, sqrtFast(newSecond * inverseCorrection2) + eps);
    w = fmaf(-lr, update, fmaf(-decay, w, w));
    m = newFirst;
    v = newSecond;
  }
};

struct AdamRanges {
  float* weight[MOST_RANGES];
  float* m[MOST_RANGES];
  float* v[MOST_RANGES];
  const grad_t* grad[MOST_RANGES];
  scalar_t* working[MOST_RANGES];
  i64 count[MOST_RANGES], quads[MOST_RANGES];
  int firstBlock[MOST_RANGES + 1];
  float weightDecay[MOST_RANGES];
};

/** Adam and AdamW of all ranges. rest1 = 1 - beta1, rest2 = 1 - beta2, rounded after the subtraction. */
TY_KERNEL adam(const __grid_constant__ AdamRanges all, const double* scalars, int ranges, float beta1, float rest1,
               float beta2, float rest2, float eps, int flags) {
  const int r = rangeOfBlock(all.firstBlock, ranges), block = (int)blockIdx.x - all.firstBlock[r];
  const float lr = (float)scalars[LR], weightDecay = all.weightDecay[r];
  const bool isCoupled = flags & COUPLED_DECAY;
  const AdamRule rule = {lr,
                         isCoupled ? 0.f : lr * weightDecay,
                         isCoupled ? weightDecay : 0.f,
                         divideFast(1.f, (float)scalars[BIAS_CORRECTION1]),
                         divideFast(1.f, (float)scalars[BIAS_CORRECTION2]),
                         beta1,
                         rest1,
                         beta2,
                         rest2,
                         eps,
                         (flags & NOTES_CONVENTION) != 0};
  updateRange<2>(all.weight[r], all.m[r], all.v[r], all.grad[r], all.working[r], scalars, all.count[r], all.quads[r],
                 (float)scalars[CLIP_FACTOR], rule, (i64)block * blockDim.x + threadIdx.x,
                 (i64)(all.firstBlock[r + 1] - all.firstBlock[r]) * blockDim.x);
}

/** Gradient descent; `velocity` may be null (then momentum is not used). */
TY_KERNEL sgd(float* weight, float* velocity, const grad_t* grad, scalar_t* working, const double* scalars, i64 count,
              i64 quads, float momentum, int isNesterov, float weightDecay) {
  const float lr = (float)scalars[LR], decay = lr * weightDecay, clip = (float)scalars[CLIP_FACTOR];
  if (velocity == nullptr) {
    updateRange<0>(weight, nullptr, nullptr, grad, working, scalars, count, quads, clip,
                   [=](float& w, float&, float&, float g) { w = fmaf(-lr, g, fmaf(-decay, w, w)); });
  } else {
    updateRange<1>(weight, velocity, nullptr, grad, working, scalars, count, quads, clip,
                   [=](float& w, float& state, float&, float g) {
                     state = fmaf(momentum, state, g);
                     w = fmaf(-lr, isNesterov ? fmaf(momentum, state, g) : state, fmaf(-decay, w, w));
                   });
  }
}

/** Lion: the step is the sign of the interpolated moment, 0 where that is 0. */
TY_KERNEL lion(float* weight, float* m, const grad_t* grad, scalar_t* working, const double* scalars, i64 count,
               i64 quads, float beta1, float rest1, float beta2, float rest2, float weightDecay) {
  const float lr = (float)scalars[LR], decay = lr * weightDecay;
  updateRange<1>(weight, m, nullptr, grad, working, scalars, count, quads, (float)scalars[CLIP_FACTOR],
                 [=](float& w, float& state, float&, float g) {
                   const float direction = fmaf(beta1, state, rest1 * g);
                   const float sign = direction > 0 ? 1.f : direction < 0 ? -1.f : 0.f;
                   w = fmaf(-lr, sign, fmaf(-decay, w, w));
                   state = fmaf(beta2, state, rest2 * g);
                 });
}

/** The update of another rule (Muon's), times lr * scale. It is not clipped. */
TY_KERNEL apply_update(float* weight, const grad_t* update, scalar_t* working, const double* scalars, i64 count,
                       i64 quads, float scale, float weightDecay) {
  const float lr = (float)scalars[LR], decay = lr * weightDecay, step = lr * scale;
  updateRange<0>(weight, nullptr, nullptr, update, working, scalars, count, quads, 1.f,
                 [=](float& w, float&, float&, float u) { w = fmaf(-step, u, fmaf(-decay, w, w)); });
}

/** m' = momentum m + g, kept only if the step is usable; out = nesterov ? g + momentum m' : m', always. */
TY_KERNEL momentum(scalar_t* out, float* m, const grad_t* grad, const double* scalars, i64 count, i64 quads,
                   float momentum, int isNesterov) {
  const i64 thread = globalThread();
  Quad<float> state;
  Quad<grad_t> gradient;
  if (thread < quads) {
    state = loadQuad(m, thread);
    gradient = loadQuad(grad, thread);
  }
  const float clip = (float)scalars[CLIP_FACTOR];
  const bool isUsable = scalars[IS_FINITE] != 0;
  if (thread < quads) {
    Quad<scalar_t> y;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float g = clip * toFloat(gradient.at[i]);
      state.at[i] = fmaf(momentum, state.at[i], g);
      fromFloat(y.at[i], isNesterov ? fmaf(momentum, state.at[i], g) : state.at[i]);
    }
    storeQuad(out, thread, y);
    if (isUsable) storeQuad(m, thread, state);
  }
  for (i64 i = quads * 4 + thread; i < count; i += globalThreads()) {
    const float g = clip * toFloat(grad[i]), next = fmaf(momentum, m[i], g);
    fromFloat(out[i], isNesterov ? fmaf(momentum, next, g) : next);
    if (isUsable) m[i] = next;
  }
}

/**
 * Sum of four squares. Their f32 sum has a relative error of 1e-7, of either sign, so that a sum of many is far closer;
 * it saves three of four f64 additions, slow on many cards. Where f32 would overflow or lose digits: f64 throughout.
 */
TY_INLINE double squaresOfFour(float a, float b, float c, float d) {
  const float sum = fmaf(a, a, b * b) + fmaf(c, c, d * d);
  if (sum >= 1e-30f && sum <= 1e37f) return (double)sum;
  return (double)a * a + (double)b * b + ((double)c * c + (double)d * d);
}

struct SquareRanges {
  const grad_t* x[MOST_RANGES];
  i64 count[MOST_RANGES], packs[MOST_RANGES];
  int firstBlock[MOST_RANGES + 1];
};

/** partials[block] = sum of the squares of its packs and of its share of the elements behind all packs of its range. */
TY_KERNEL square_sums(const __grid_constant__ SquareRanges all, double* partials, i64 packsPerBlock, int ranges) {
  __shared__ double shared[32];
  constexpr int DEPTH = 4, SIZE = Pack<grad_t>::size;
  const int r = rangeOfBlock(all.firstBlock, ranges), block = (int)blockIdx.x - all.firstBlock[r];
  const grad_t* x = all.x[r];
  const i64 count = all.count[r], packs = all.packs[r];
  const i64 from = block * packsPerBlock;
  const i64 to = from + packsPerBlock < packs ? from + packsPerBlock : packs;
  double sum = 0;
  for (i64 first = from + threadIdx.x; first < to; first += DEPTH * (i64)blockDim.x) {
    Pack<grad_t> pack[DEPTH];
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      const i64 i = first + k * (i64)blockDim.x;
      if (i < to) pack[k] = loadPack(x + i * SIZE);
    }
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      if (first + k * (i64)blockDim.x >= to) break;
#pragma unroll
      for (int i = 0; i < SIZE; i += 4) {
        sum += squaresOfFour(toFloat(pack[k].at[i]), toFloat(pack[k].at[i + 1]), toFloat(pack[k].at[i + 2]),
                             toFloat(pack[k].at[i + 3]));
      }
    }
  }
  const int blocks = all.firstBlock[r + 1] - all.firstBlock[r];
  for (i64 i = packs * SIZE + (i64)block * blockDim.x + threadIdx.x; i < count; i += (i64)blocks * blockDim.x) {
    const double value = toFloat(x[i]);
    sum += value * value;
  }
  sum = blockSum(sum, shared);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

/** Sum of the partial sums, by one block: each thread's own in order, then over the block. */
TY_INLINE double sumPartials(const double* partials, int partialCount, double* shared) {
  double sum = 0;
  for (int i = threadIdx.x; i < partialCount; i += blockDim.x) sum += partials[i];
  return blockSum(sum, shared);
}

TY_KERNEL finish_sum_of_squares(double* scalars, const double* partials, int partialCount) {
  __shared__ double shared[32];
  const double sum = sumPartials(partials, partialCount, shared);
  if (threadIdx.x == 0) scalars[SUM_OF_SQUARES] = sum;
}

/** One thread. */
TY_KERNEL clip_factor(double* scalars, double maxNorm) {
  const double norm = sqrt(scalars[SUM_OF_SQUARES]) / scalars[GRAD_SCALE];
  scalars[NORM] = norm;
  scalars[CLIP_FACTOR] = (maxNorm > 0 && norm > maxNorm ? maxNorm / norm : 1.0) / scalars[GRAD_SCALE];
  // Infinity minus itself is not a number, and that is not equal to anything.
  scalars[IS_FINITE] = norm - norm == 0 ? 1.0 : 0.0;
}

/** One thread. Grows after an interval of finite steps, shrinks after `hysteresis` others. */
TY_KERNEL update_loss_scale(double* scalars, double growthFactor, double growthInterval, double backoffFactor,
                            double hysteresis, double minScale) {
  if (scalars[IS_FINITE] != 0) {
    scalars[GOOD_STEPS] += 1;
    if (scalars[GOOD_STEPS] < growthInterval) return;
    scalars[GRAD_SCALE] *= growthFactor;
  } else {
    scalars[SKIPPED_STEPS] += 1;
    scalars[HYSTERESIS_LEFT] -= 1;
    scalars[GOOD_STEPS] = 0;
    if (scalars[HYSTERESIS_LEFT] > 0) return;
    scalars[GRAD_SCALE] = fmax(minScale, scalars[GRAD_SCALE] * backoffFactor);
  }
  scalars[GOOD_STEPS] = 0;
  scalars[HYSTERESIS_LEFT] = hysteresis;
}

/** out = x / (sqrt(sum of partials) + eps). Each block adds up the few partials itself. */
TY_KERNEL normalize(scalar_t* out, const grad_t* x, const double* partials, int partialCount, i64 count, i64 quads,
                    double eps) {
  __shared__ double shared[32];
  constexpr int DEPTH = 4;
  const i64 first = (i64)blockIdx.x * DEPTH * blockDim.x + threadIdx.x;
  Quad<grad_t> quad[DEPTH];
#pragma unroll
  for (int k = 0; k < DEPTH; k++) {
    const i64 i = first + k * (i64)blockDim.x;
    if (i < quads) quad[k] = loadQuad(x, i);
  }
  const float factor = (float)(1.0 / (sqrt(sumPartials(partials, partialCount, shared)) + eps));
#pragma unroll
  for (int k = 0; k < DEPTH; k++) {
    const i64 i = first + k * (i64)blockDim.x;
    if (i >= quads) break;
    Quad<scalar_t> y;
#pragma unroll
    for (int j = 0; j < 4; j++) fromFloat(y.at[j], toFloat(quad[k].at[j]) * factor);
    storeQuad(out, i, y);
  }
  for (i64 i = quads * 4 + globalThread(); i < count; i += globalThreads()) fromFloat(out[i], toFloat(x[i]) * factor);
}
