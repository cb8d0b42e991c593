// What the norms' kernels share: which elements of a row a thread has, and sums over a row.
//
// A row belongs to a team of WARPS warps; a block has TEAMS of them. Thread t of a team has the groups
// t, t + 32 WARPS, .. of its row, GROUPS of them, each of GROUP neighbouring elements, in registers from the first sum
// to the last store: the row is read once. GROUP 1 serves rows that do not start at 16-byte boundaries.
#pragma once
#include "elements.cuh"

/** 768 columns of 16-bit elements, where nothing is said (checks that compile the file by itself). */
#ifndef WARPS
#define GROUP 8
#define GROUPS 3
#define WARPS 1
#define TEAMS 8
#define IS_LAYERNORM 1
#define WITH_INPUT 1
#define WITH_WEIGHT 1
#define WITH_SUMS 1
#define WITH_OUT 1
#define MIN_BLOCKS 2
#endif

constexpr int TEAM_THREADS = 32 * WARPS;
constexpr int THREADS = TEAM_THREADS * TEAMS;
typedef Group<scalar_t, GROUP> group_t;

struct Member {
  int team, thread, groups;

  TY_INLINE explicit Member(int columns)
      : team((int)threadIdx.x / TEAM_THREADS), thread((int)threadIdx.x % TEAM_THREADS), groups(columns / GROUP) {}

  /** First column of the thread's k-th group. */
  TY_INLINE int column(int k) const { return (thread + k * TEAM_THREADS) * GROUP; }
  TY_INLINE bool has(int k) const { return thread + k * TEAM_THREADS < groups; }

  /** The thread's groups of a row, zeros where it has none. */
  TY_INLINE void load(group_t (&to)[GROUPS], const scalar_t* row) const {
#pragma unroll
    for (int k = 0; k < GROUPS; k++) {
      to[k] = {};
      if (has(k)) to[k] = loadGroup<GROUP>(row + column(k));
    }
  }
};

/** Sums over the warps of a team; two sets, used in turn, so that one barrier a sum is enough. */
struct TeamShared {
  float at[2][TEAMS][WARPS][2];
};

/** x[i] summed over the team, for every thread of it. `turn` alternates from call to call. */
template <int COUNT>
TY_INLINE void teamSum(float (&x)[COUNT], TeamShared& shared, const Member& member, int turn) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) x[i] += __shfl_xor_sync(0xffffffffu, x[i], step);
  }
  if constexpr (WARPS > 1) {
    float(*sums)[2] = shared.at[turn][member.team];
    if (member.thread % 32 == 0) {
#pragma unroll
      for (int i = 0; i < COUNT; i++) sums[member.thread / 32][i] = x[i];
    }
    asm volatile("bar.sync %0, %1;" ::"r"(member.team + 1), "n"(TEAM_THREADS) : "memory");
#pragma unroll
    for (int i = 0; i < COUNT; i++) x[i] = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
#pragma unroll
      for (int i = 0; i < COUNT; i++) x[i] += sums[w][i];
    }
  }
}
