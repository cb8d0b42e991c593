// RMSNorm and LayerNorm (IS_LAYERNORM) whose result is written in fp8 only, in both orders: a row is read once, its
// statistics are f32. The result is what the products behind the norm read.
//
// A block has 32 rows. A team of WARPS warps has four of them, a thread GROUPS groups of 8 columns of each, in registers
// from the first sum to the last store; columns thread * 8, (thread + 32 WARPS) * 8 ..
#include "fp8.cuh"

#ifndef WARPS
#define WARPS 1
#define GROUPS 3
#define IS_LAYERNORM 1
#endif

constexpr int GROUP = 8, TEAM_ROWS = 4, TEAMS = 8, ROWS = TEAM_ROWS * TEAMS;
constexpr int TEAM_THREADS = 32 * WARPS, THREADS = TEAM_THREADS * TEAMS;
typedef Group<scalar_t, GROUP> group_t;

/** Sums over the warps of a team of something of each of its rows. */
struct TeamSums {
  float at[TEAMS][WARPS][TEAM_ROWS];

  /** x[i] summed over the team, for every thread of it. All threads of the block come here together. */
  TY_INLINE void sum(float (&x)[TEAM_ROWS], int team, int thread) {
#pragma unroll
    for (int i = 0; i < TEAM_ROWS; i++) x[i] = warpSum(x[i]);
    if constexpr (WARPS > 1) {
      __syncthreads();
      if (thread % 32 == 0) {
#pragma unroll
        for (int i = 0; i < TEAM_ROWS; i++) at[team][thread / 32][i] = x[i];
      }
      __syncthreads();
#pragma unroll
      for (int i = 0; i < TEAM_ROWS; i++) {
        x[i] = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) x[i] += at[team][w][i];
      }
    }
  }
};

/**
 * The transposed bytes of one group of every thread: eight columns a thread of a team, eight words (of four rows) a column.
 * A word more between threads, so that those of a warp write to different banks.
 */
struct Transposed {
  u32 at[TEAM_THREADS][GROUP * TEAMS + 1];
};

/** out = (x - mean) rstd weight + bias, times the scale and rounded: rows [R, C], columns [C, R]. R is a multiple of 16. */
extern "C" __global__ void __launch_bounds__(THREADS)
    fp8_norm(u8* __restrict__ rows, u8* __restrict__ columns, float* means, float* rstds, const float* scaleOf, u32* amax,
             const scalar_t* __restrict__ x, const scalar_t* __restrict__ weight, const scalar_t* __restrict__ bias,
             int rowCount, int columnCount, float eps) {
  __shared__ TeamSums sums;
  __shared__ Transposed tile;
  __shared__ float shared[32];
  const int team = threadIdx.x / TEAM_THREADS, thread = threadIdx.x % TEAM_THREADS;
  const int row = blockIdx.x * ROWS + team * TEAM_ROWS;
  const bool isInside = row < rowCount;
  group_t in[TEAM_ROWS][GROUPS];
#pragma unroll
  for (int i = 0; i < TEAM_ROWS; i++) {
#pragma unroll
    for (int k = 0; k < GROUPS; k++) {
      const int column = (thread + k * TEAM_THREADS) * GROUP;
      in[i][k] = {};
      if (isInside && column < columnCount) in[i][k] = loadGroup<GROUP>(x + (i64)(row + i) * columnCount + column);
    }
  }

  float mean[TEAM_ROWS] = {}, rstd[TEAM_ROWS] = {};
  if constexpr (IS_LAYERNORM) {
#pragma unroll
    for (int i = 0; i < TEAM_ROWS; i++) {
#pragma unroll
      for (int k = 0; k < GROUPS; k++) {
#pragma unroll
        for (int j = 0; j < GROUP; j++) mean[i] += floatAt(in[i][k], j);
      }
    }
    sums.sum(mean, team, thread);
#pragma unroll
    for (int i = 0; i < TEAM_ROWS; i++) mean[i] /= columnCount;
  }
#pragma unroll
  for (int k = 0; k < GROUPS; k++) {
    if ((thread + k * TEAM_THREADS) * GROUP >= columnCount) continue;
#pragma unroll
    for (int i = 0; i < TEAM_ROWS; i++) {
#pragma unroll
      for (int j = 0; j < GROUP; j++) {
        const float deviation = floatAt(in[i][k], j) - mean[i];
        rstd[i] = fmaf(deviation, deviation, rstd[i]);
      }
    }
  }
  sums.sum(rstd, team, thread);
#pragma unroll
  for (int i = 0; i < TEAM_ROWS; i++) rstd[i] = rsqrtf(rstd[i] / columnCount + eps);
  if (thread < TEAM_ROWS && isInside) {
#pragma unroll
    for (int i = 0; i < TEAM_ROWS; i++) {
      if (thread != i) continue;
      rstds[row + i] = rstd[i];
      if constexpr (IS_LAYERNORM) means[row + i] = mean[i];
    }
  }

  const float scale = *scaleOf;
  float most = 0;
#pragma unroll
  for (int k = 0; k < GROUPS; k++) {
    const int column = (thread + k * TEAM_THREADS) * GROUP;
    if (isInside && column < columnCount) {
      const group_t w = loadGroup<GROUP>(weight + column);
      group_t b;
      if constexpr (IS_LAYERNORM) b = loadGroup<GROUP>(bias + column);
      u32 low[TEAM_ROWS], high[TEAM_ROWS];
#pragma unroll
      for (int i = 0; i < TEAM_ROWS; i++) {
        float y[GROUP];
#pragma unroll
        for (int j = 0; j < GROUP; j++) {
          y[j] = (floatAt(in[i][k], j) - mean[i]) * rstd[i] * floatAt(w, j);
          if constexpr (IS_LAYERNORM) y[j] += floatAt(b, j);
          most = fmaxf(most, fabsf(y[j]));
          y[j] *= scale;
        }
        const uint2 bytes = {packFp8(y[0], y[1], y[2], y[3]), packFp8(y[4], y[5], y[6], y[7])};
        *reinterpret_cast<uint2*>(rows + (i64)(row + i) * columnCount + column) = bytes;
        low[i] = bytes.x;
        high[i] = bytes.y;
      }
      transposeBytes(low);
      transposeBytes(high);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        tile.at[thread][j * TEAMS + team] = low[j];
        tile.at[thread][(j + 4) * TEAMS + team] = high[j];
      }
    }
    __syncthreads();
#pragma unroll
    for (int u = 0; u < 2; u++) {
      // Half a column's 32 rows each.
      const int unit = threadIdx.x + u * THREADS, inTile = unit / 2, half = unit % 2;
      const int to = k * TEAM_THREADS * GROUP + inTile, first = blockIdx.x * ROWS + half * 16;
      if (to >= columnCount || first >= rowCount) continue;
      const u32* words = tile.at[inTile / GROUP] + inTile % GROUP * TEAMS + half * 4;
      *reinterpret_cast<uint4*>(columns + (i64)to * rowCount + first) = make_uint4(words[0], words[1], words[2], words[3]);
    }
    __syncthreads();
  }
  most = blockMax(most, shared);
  if (threadIdx.x == 0) raise(amax, most);
}
