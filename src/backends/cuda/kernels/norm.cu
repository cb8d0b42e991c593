// RMSNorm and LayerNorm (IS_LAYERNORM), forward: a row is read and written once, its statistics are f32.
#include "norm.cuh"

/** out = (x - mean) rstd weight + bias, rstd = 1 / sqrt(variance + eps); RMSNorm has mean 0 and no bias. */
extern "C" __global__ void __launch_bounds__(THREADS)
    norm_forward(scalar_t* out, float* means, float* rstds, const scalar_t* x, const scalar_t* weight,
                 const scalar_t* bias, i64 rows, int columns, float eps) {
  __shared__ TeamShared shared;
  const Member member(columns);
  const i64 row = (i64)blockIdx.x * TEAMS + member.team;
  if (row >= rows) return;
  group_t in[GROUPS];
  member.load(in, x + row * columns);

  float mean = 0;
  if constexpr (IS_LAYERNORM) {
    float sum[1] = {};
#pragma unroll
    for (int k = 0; k < GROUPS; k++) {
#pragma unroll
      for (int j = 0; j < GROUP; j++) sum[0] += floatAt(in[k], j);
    }
    teamSum(sum, shared, member, 0);
    mean = sum[0] / columns;
  }
  float squares[1] = {};
#pragma unroll
  for (int k = 0; k < GROUPS; k++) {
    if (!member.has(k)) continue;
#pragma unroll
    for (int j = 0; j < GROUP; j++) {
      const float deviation = floatAt(in[k], j) - mean;
      squares[0] = fmaf(deviation, deviation, squares[0]);
    }
  }
  teamSum(squares, shared, member, 1);
  const float rstd = rsqrtf(squares[0] / columns + eps);
  if (member.thread == 0) {
    rstds[row] = rstd;
    if constexpr (IS_LAYERNORM) means[row] = mean;
  }

#pragma unroll
  for (int k = 0; k < GROUPS; k++) {
    if (!member.has(k)) continue;
    const int column = member.column(k);
    const group_t w = loadGroup<GROUP>(weight + column);
    group_t b;
    if constexpr (IS_LAYERNORM) b = loadGroup<GROUP>(bias + column);
    float y[GROUP];
#pragma unroll
    for (int j = 0; j < GROUP; j++) {
      y[j] = (floatAt(in[k], j) - mean) * rstd * floatAt(w, j);
      if constexpr (IS_LAYERNORM) y[j] += floatAt(b, j);
    }
    storeGroup<GROUP>(out + row * columns + column, groupOf<scalar_t>(y));
  }
}
