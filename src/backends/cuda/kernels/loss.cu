// Softmax cross-entropy over rows of logits, the gradient written in their place. One block a row; the row is read from
// memory once: its maximum and sum of exponentials are kept per thread while it arrives, and what fits is kept in
// shared memory for the gradient. The rest of a longer row is read again, which the second-level cache then serves.
#include "prelude.cuh"

/** Slots of the step's scalars: SCALAR of core/kernels.ts. */
constexpr int LOSS_SCALE = 7, GRAD_SCALE = 8;
constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;
/** Below every logit, and finite even after a multiplication by LOG2_E: no infinity minus infinity. */
constexpr float LOWEST = -1e38f;
constexpr int SIZE = Pack<scalar_t>::size;
/** Packs that a thread has on their way at a time. */
constexpr int DEPTH = 4;

TY_INLINE float exp2Fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/** Maximum of what was seen and the sum of exp(z - maximum). */
struct Running {
  float maximum = LOWEST, sum = 0;

  TY_INLINE void raise(float candidate) {
    if (candidate > maximum) {
      sum *= exp2Fast((maximum - candidate) * LOG2_E);
      maximum = candidate;
    }
  }
  TY_INLINE void add(float z) {
    raise(z);
    sum += exp2Fast(fmaf(z, LOG2_E, -maximum * LOG2_E));
  }
  TY_INLINE void add(const Pack<scalar_t>& pack) {
    float z[SIZE];
#pragma unroll
    for (int i = 0; i < SIZE; i++) z[i] = toFloat(pack.at[i]);
    float top = z[0];
#pragma unroll
    for (int i = 1; i < SIZE; i++) top = fmaxf(top, z[i]);
    raise(top);
    const float offset = -maximum * LOG2_E;
    float even = 0, odd = 0;
#pragma unroll
    for (int i = 0; i < SIZE; i += 2) {
      even += exp2Fast(fmaf(z[i], LOG2_E, offset));
      odd += exp2Fast(fmaf(z[i + 1], LOG2_E, offset));
    }
    sum += even + odd;
  }
};

/**
 * losses[row] = log sum exp(z) - z[target], in nats, and with scalars z becomes (softmax - onehot) * scale; zeros where
 * target is -1. A row starts at any element: `head` elements before its first 16-byte boundary and those behind its
 * last pack are handled one by one. cachedPacks: packs of 16 bytes that the dynamic shared memory holds.
 */
TY_KERNEL softmax_cross_entropy(float* losses, scalar_t* logits, const i32* targets, const double* scalars,
                                i64 vocabSize, int cachedPacks) {
  extern __shared__ uint4 cache[];
  __shared__ float shared[32];
  const i64 row = blockIdx.x;
  scalar_t* z = logits + row * vocabSize;
  const int thread = threadIdx.x, threads = blockDim.x;
  const int columns = (int)vocabSize;
  const int toBoundary = (int)((16 - (reinterpret_cast<u64>(z) & 15)) & 15) / (int)sizeof(scalar_t);
  const int head = toBoundary < columns ? toBoundary : columns;
  const int packs = (columns - head) / SIZE;
  scalar_t* body = z + head;
  // Elements outside the packs: number e is column e of the head, then those behind the packs.
  const int loose = columns - packs * SIZE;
  const int target = targets[row];

  if (target < 0) {
    if (thread == 0) losses[row] = 0;
    if (scalars == nullptr) return;
    const Pack<scalar_t> zeros = {};
    for (int i = thread; i < packs; i += threads) storePack(body + (i64)i * SIZE, zeros);
    for (int e = thread; e < loose; e += threads) fromFloat(z[e < head ? e : e + packs * SIZE], 0.f);
    return;
  }

  const float targetLogit = thread == 0 ? toFloat(z[target]) : 0.f;
  const bool hasGradient = scalars != nullptr;
  const int cached = hasGradient ? cachedPacks : 0;
  Running running;
  for (int first = thread; first < packs; first += DEPTH * threads) {
    Pack<scalar_t> pack[DEPTH];
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      const int i = first + k * threads;
      if (i < packs) pack[k] = loadPack(body + (i64)i * SIZE);
    }
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      const int i = first + k * threads;
      if (i >= packs) break;
      // The thread that stores a pack is the one that takes it back: no barrier.
      if (i < cached) cache[i] = *reinterpret_cast<const uint4*>(&pack[k]);
      running.add(pack[k]);
    }
  }
  for (int e = thread; e < loose; e += threads) running.add(toFloat(z[e < head ? e : e + packs * SIZE]));

  const float maximum = blockMax(running.maximum, shared);
  const float sum = blockSum(running.sum * exp2Fast((running.maximum - maximum) * LOG2_E), shared);
  const float offset = -maximum * LOG2_E;
  // Both terms are exact to their last bits even where the target has nearly all of the probability.
  if (thread == 0) losses[row] = LN_2 * (log2f(sum) - fmaf(targetLogit, LOG2_E, offset));
  if (!hasGradient) return;

  const float scale = (float)(scalars[LOSS_SCALE] * scalars[GRAD_SCALE]), factor = scale / sum;
  const int targetPack = target >= head ? (target - head) / SIZE : -1, targetPlace = (target - head) % SIZE;
  const auto storeGradient = [=](int i, Pack<scalar_t> pack) {
    float gradient[SIZE];
#pragma unroll
    for (int j = 0; j < SIZE; j++) gradient[j] = exp2Fast(fmaf(toFloat(pack.at[j]), LOG2_E, offset)) * factor;
    if (i == targetPack) {
#pragma unroll
      for (int j = 0; j < SIZE; j++) gradient[j] -= j == targetPlace ? scale : 0.f;
    }
#pragma unroll
    for (int j = 0; j < SIZE; j++) fromFloat(pack.at[j], gradient[j]);
    storePack(body + (i64)i * SIZE, pack);
  };
  const int fromCache = cached < packs ? cached : packs;
  int i = thread;
#pragma unroll 2
  for (; i < fromCache; i += threads) {
    Pack<scalar_t> pack;
    *reinterpret_cast<uint4*>(&pack) = cache[i];
    storeGradient(i, pack);
  }
  for (; i < packs; i += DEPTH * threads) {
    Pack<scalar_t> pack[DEPTH];
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      if (i + k * threads < packs) pack[k] = loadPack(body + (i64)(i + k * threads) * SIZE);
    }
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      if (i + k * threads < packs) storeGradient(i + k * threads, pack[k]);
    }
  }
  for (int e = thread; e < loose; e += threads) {
    const int column = e < head ? e : e + packs * SIZE;
    const float gradient = exp2Fast(fmaf(toFloat(z[column]), LOG2_E, offset)) * factor;
    fromFloat(z[column], column == target ? gradient - scale : gradient);
  }
}
