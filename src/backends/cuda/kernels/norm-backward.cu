// RMSNorm and LayerNorm (IS_LAYERNORM), backward: the gradient of the input (WITH_INPUT), of weight and bias
// (WITH_WEIGHT), or all of them while x and dOut are read once, and with them the sum of dx over rows (WITH_SUMS), which is
// the gradient of a bias that was added to x, or the forward's result once more (WITH_OUT). With xhat the normalised row, g = dOut weight:
//     dx (+)= rstd (g - mean(g) - xhat mean(g xhat)),  without mean(g) for RMSNorm
//     dWeight = sum over rows of dOut xhat,  dBias = sum over rows of dOut
// A block adds up the rows of its teams in registers and leaves one partial sum; norm_add_parts adds those in their
// order. How many there are follows from the number of rows alone.
#include "column-sums.cuh"
#include "norm.cuh"

/** Sums of a block in the order of (group, element, thread): every access is whole. */
constexpr int WIDTH = GROUPS * GROUP * TEAM_THREADS;

/** Hides from the compiler what it knows of these: else it keeps weights, xhat and g unpacked, in twice the registers. */
TY_INLINE void forget(group_t (&groups)[GROUPS]) {
#pragma unroll
  for (int k = 0; k < GROUPS; k++) {
    if constexpr (sizeof(group_t) == 16) {
      uint4& word = reinterpret_cast<uint4&>(groups[k].word);
      asm volatile("" : "+r"(word.x), "+r"(word.y), "+r"(word.z), "+r"(word.w));
    }
  }
}

#if WITH_WEIGHT
/** The teams' sums, added one after the other, to partials[0 .. WIDTH). */
TY_INLINE void storePartial(float* partials, const float (&sums)[GROUPS][GROUP], const Member& member, float* shared) {
#pragma unroll 1
  for (int team = 0; team < TEAMS; team++) {
    if (member.team == team) {
      const bool isFirst = team == 0, isLast = team == TEAMS - 1;
#pragma unroll
      for (int k = 0; k < GROUPS; k++) {
#pragma unroll
        for (int j = 0; j < GROUP; j++) {
          const int at = (k * GROUP + j) * TEAM_THREADS + member.thread;
          const float sum = isFirst ? sums[k][j] : shared[at] + sums[k][j];
          if (isLast) partials[at] = sum;
          else shared[at] = sum;
        }
      }
    }
    if (TEAMS > 1) __syncthreads();
  }
}
#endif

/** partials: [gridDim.x][WIDTH] of dWeight, then the same of dBias, then of the sums of dx. */
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    norm_backward(scalar_t* dx, float* partials, scalar_t* out, const scalar_t* dOut, const scalar_t* x,
                  const scalar_t* weight, const scalar_t* bias, const float* means, const float* rstds, i64 rows,
                  int columns, int accumulate) {
  __shared__ TeamShared shared;
  const Member member(columns);
  const float share = 1.f / columns;
  group_t w[GROUPS];
  if (WITH_INPUT) member.load(w, weight);
  float weightSums[GROUPS][GROUP] = {}, biasSums[GROUPS][GROUP] = {}, inputSums[GROUPS][GROUP] = {};

  int turn = 0;
#pragma unroll 1
  for (i64 row = (i64)blockIdx.x * TEAMS + member.team; row < rows; row += (i64)gridDim.x * TEAMS) {
    group_t in[GROUPS], dy[GROUPS], old[GROUPS];
    member.load(in, x + row * columns);
    member.load(dy, dOut + row * columns);
    if (WITH_INPUT && accumulate) member.load(old, dx + row * columns);
    const float rstd = rstds[row], mean = IS_LAYERNORM ? means[row] : 0.f;
    // sums[0] of g xhat, sums[1] of g.
    float sums[IS_LAYERNORM ? 2 : 1] = {};
#pragma unroll
    for (int k = 0; k < GROUPS; k++) {
#pragma unroll
      for (int j = 0; j < GROUP; j++) {
        const float xhat = (floatAt(in[k], j) - mean) * rstd, d = floatAt(dy[k], j);
        if (WITH_INPUT) {
          const float g = d * floatAt(w[k], j);
          sums[0] = fmaf(g, xhat, sums[0]);
          if constexpr (IS_LAYERNORM) sums[1] += g;
        }
        if (WITH_WEIGHT) {
          weightSums[k][j] = fmaf(d, xhat, weightSums[k][j]);
          if (IS_LAYERNORM) biasSums[k][j] += d;
        }
      }
    }
    if (!WITH_INPUT) continue;
    teamSum(sums, shared, member, turn);
    turn ^= 1;
    const float projection = sums[0] * share;
    float average = 0;
    if constexpr (IS_LAYERNORM) average = sums[1] * share;
    forget(in);
    forget(dy);
#pragma unroll
    for (int k = 0; k < GROUPS; k++) {
      if (!member.has(k)) continue;
      float y[GROUP];
#pragma unroll
      for (int j = 0; j < GROUP; j++) {
        const float xhat = (floatAt(in[k], j) - mean) * rstd, g = floatAt(dy[k], j) * floatAt(w[k], j);
        y[j] = rstd * (g - average - xhat * projection);
        if (accumulate) y[j] += floatAt(old[k], j);
        if (WITH_SUMS) inputSums[k][j] += y[j];
      }
      storeGroup<GROUP>(dx + row * columns + member.column(k), groupOf<scalar_t>(y));
      if (WITH_OUT) {
        group_t b = {};
        if (IS_LAYERNORM) b = loadGroup<GROUP>(bias + member.column(k));
#pragma unroll
        for (int j = 0; j < GROUP; j++) {
          y[j] = (floatAt(in[k], j) - mean) * rstd * floatAt(w[k], j);
          if (IS_LAYERNORM) y[j] += floatAt(b, j);
        }
        storeGroup<GROUP>(out + row * columns + member.column(k), groupOf<scalar_t>(y));
      }
    }
  }

#if WITH_WEIGHT
  __shared__ float combined[TEAMS > 1 ? WIDTH : 1];
  float* own = partials + (i64)blockIdx.x * WIDTH;
  storePartial(own, weightSums, member, combined);
  if (IS_LAYERNORM) storePartial(own + (i64)gridDim.x * WIDTH, biasSums, member, combined);
  if (WITH_SUMS) storePartial(own + 2 * (i64)gridDim.x * WIDTH, inputSums, member, combined);
#endif
}

#if WITH_WEIGHT
/** Adds the partial sums of dWeight (blocks of y 0), dBias (1) and dx (2). Bit y of accumulate: adds to what is there. */
TY_KERNEL norm_add_parts(float* dWeight, float* dBias, float* inputSums, const float* partials, int parts, int columns,
                         int accumulate) {
  const int which = blockIdx.y;
  const auto columnAt = [](int at) {
    const int thread = at % TEAM_THREADS, element = at / TEAM_THREADS;
    return (thread + element / GROUP * TEAM_THREADS) * GROUP + element % GROUP;
  };
  addParts(which == 0 ? dWeight : which == 1 ? dBias : inputSums, partials + (i64)which * parts * WIDTH, parts, WIDTH, columns,
           accumulate >> which & 1, columnAt);
}
#endif
