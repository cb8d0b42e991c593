// Matrix products for Hopper (sm_90a) whose epilogue costs no time of the tensor cores: out [M, N] = f(a b), a [M, K].
// Persistent blocks of three warpgroups: one brings tiles of a and b by TMA, two multiply.
//
// PINGPONG 1: each warpgroup has tiles of 128 x TILE_N of its own, and they take turns: while one multiplies, the other
// finishes and stores its last tile. PINGPONG 0: both share a tile of 128 x TILE_N, 64 rows each, which reads less from
// the second-level cache but leaves the tensor cores idle during the epilogue.
// CLUSTER 2: two blocks have neighbouring rows of the same columns; each brings half of b's tile for both.
// B_IS_KN 1: b is stored [K, N], else [N, K]. Sums over k run in ascending order: the same bits in every run.
// Results go from registers to memory, so that all of shared memory is for tiles under way: latency is what limits.
#include "gelu.cuh"
#include "hopper.cuh"

#ifndef TILE_N
#define TILE_N 128
#define STAGES 6
#define PINGPONG 1
#define CLUSTER 2
#define B_IS_KN 0
#define EPILOGUE 3
#endif

/** What is made of a product: 0 + bias; + bias + extra; gelu of + bias, which `extra` takes; times gelu'(extra). */
constexpr int ADD_RESIDUAL = 1, GELU = 2, GELU_BACKWARD = 3;
constexpr bool READS_EXTRA = EPILOGUE == ADD_RESIDUAL || EPILOGUE == GELU_BACKWARD;

constexpr int TILE_M = 128, TILE_K = 64, PANEL_COLUMNS = 64;
/** Products of 64 rows that a warpgroup makes of a tile, and its rows of it. */
constexpr int BLOCKS = PINGPONG ? 2 : 1, OWN_ROWS = 64 * BLOCKS;
constexpr int PANELS = TILE_N / PANEL_COLUMNS;
constexpr u32 A_BYTES = TILE_M * PANEL_ROW_BYTES, B_BYTES = TILE_N * PANEL_ROW_BYTES, STAGE_BYTES = A_BYTES + B_BYTES;
/** A panel of b that is stored [K, N]: 64 columns of TILE_K rows. */
constexpr u32 B_PANEL_BYTES = TILE_K * PANEL_ROW_BYTES;

/** Named barriers: a warpgroup's turn to multiply, and the threads of a warpgroup among themselves. */
constexpr int TURN = 1, OWN = 3;
constexpr int GROUP_THREADS = 128;
/** Warps that let go of a stage, in each block of the cluster. */
constexpr int RELEASES = (PINGPONG ? 4 : 8) * CLUSTER;

// ---- What hopper.cuh has not: copies of two dimensions, to all blocks of a cluster, and back to memory ----

TY_INLINE void copyBox2(u32 shared, const TensorMap& map, u32 barrier, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3,%4}], [%2];" ::"r"(
          shared),
      "l"(&map), "r"(barrier), "r"(c0), "r"(c1)
      : "memory");
}
/** To the same place of every block of the cluster; each one's barrier at that place counts the bytes. */
TY_INLINE void copyBoxToCluster(u32 shared, const TensorMap& map, u32 barrier, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%3,%4}], [%2], %5;" ::"r"(shared),
      "l"(&map), "r"(barrier), "r"(c0), "r"(c1), "h"((u16)((1 << CLUSTER) - 1))
      : "memory");
}
/** Brings a box into the second-level cache. */
TY_INLINE void prefetchBox2(const TensorMap& map, int c0, int c1) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1,%2}];" ::"l"(&map), "r"(c0), "r"(c1) : "memory");
}

/**
 * Arrives at the barrier of block `rank` of the cluster. What was read is no longer needed, and nothing was written: no
 * release to the cluster, whose fence would cost more than a step.
 */
TY_INLINE void arriveAt(u32 barrier, int rank) {
  if constexpr (CLUSTER == 1) {
    mbarrierArrive(barrier);
  } else {
    asm volatile(
        "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}\n" ::"r"(barrier),
        "r"(rank)
        : "memory");
  }
}
TY_INLINE int clusterRank() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
TY_INLINE void clusterSync() {
  if constexpr (CLUSTER > 1) {
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
  }
}

/** Sixteen bytes that nothing writes while the kernel runs. */
TY_INLINE void loadConstant(u32 (&x)[4], const void* p) {
  asm("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "l"(p));
}
TY_INLINE float lowOf(u32 pair) {
  scalar_t x;
  x.bits = (u16)pair;
  return toFloat(x);
}
TY_INLINE float highOf(u32 pair) {
  scalar_t x;
  x.bits = (u16)(pair >> 16);
  return toFloat(x);
}

/** The order of tiles: columns of a group of tile rows one after the other, so that a wave shares a's and b's tiles. */
struct Order {
  int tileRows, tileColumns, groupRows;

  /** Rows are counted in units of a cluster. */
  TY_INLINE void place(int tile, int& row, int& column) const {
    const int perGroup = groupRows * tileColumns, group = tile / perGroup, first = group * groupRows;
    const int inGroup = tileRows - first < groupRows ? tileRows - first : groupRows, rest = tile - group * perGroup;
    column = rest / inGroup;
    row = first + rest - column * inGroup;
  }
  TY_INLINE int count() const { return tileRows * tileColumns; }
};

/** Where things lie in shared memory. */
struct Memory {
  u32 base;

  TY_INLINE u32 a(int stage) const { return base + stage * STAGE_BYTES; }
  TY_INLINE u32 b(int stage) const { return base + stage * STAGE_BYTES + A_BYTES; }
  TY_INLINE u32 full(int stage) const { return base + STAGES * STAGE_BYTES + 8 * stage; }
  TY_INLINE u32 empty(int stage) const { return full(STAGES) + 8 * stage; }
};

/** A place in the ring of stages. */
struct Ring {
  int stage = 0;
  u32 parity = 0;

  TY_INLINE void next() {
    if (++stage == STAGES) {
      stage = 0;
      parity ^= 1;
    }
  }
  TY_INLINE void skip(int steps) {
    const int all = stage + steps;
    parity ^= (all / STAGES) & 1;
    stage = all % STAGES;
  }
};

/** One thread brings the tiles of all products of this block, as far ahead as there are stages. */
TY_INLINE void produce(const Memory& memory, const Order& order, const TensorMap& mapA, const TensorMap& mapB,
                       const TensorMap& mapExtra, int steps, int rank) {
  Ring ring;
  for (int tile = blockIdx.x / CLUSTER; tile < order.count(); tile += gridDim.x / CLUSTER) {
    int unit, column;
    order.place(tile, unit, column);
    const int row = (unit * CLUSTER + rank) * TILE_M;
    if (READS_EXTRA) {
#pragma unroll
      for (int p = 0; p < PANELS; p++) prefetchBox2(mapExtra, column * TILE_N + p * PANEL_COLUMNS, row);
    }
    for (int step = 0; step < steps; step++, ring.next()) {
      const u32 full = memory.full(ring.stage), b = memory.b(ring.stage);
      mbarrierWait(memory.empty(ring.stage), ring.parity ^ 1);
      mbarrierExpect(full, STAGE_BYTES);
      copyBox2(memory.a(ring.stage), mapA, full, step * TILE_K, row);
      if constexpr (B_IS_KN) {
#pragma unroll
        for (int p = 0; p < PANELS; p++) {
          const int c = column * TILE_N + p * PANEL_COLUMNS;
          if constexpr (CLUSTER == 1) copyBox2(b + p * B_PANEL_BYTES, mapB, full, c, step * TILE_K);
          else if (p % CLUSTER == rank) copyBoxToCluster(b + p * B_PANEL_BYTES, mapB, full, c, step * TILE_K);
        }
      } else {
        constexpr int SHARE = TILE_N / CLUSTER;
        const u32 to = b + rank * SHARE * PANEL_ROW_BYTES;
        const int c = column * TILE_N + rank * SHARE;
        if constexpr (CLUSTER == 1) copyBox2(to, mapB, full, step * TILE_K, c);
        else copyBoxToCluster(to, mapB, full, step * TILE_K, c);
      }
    }
  }
}

/** Tensors of the epilogue. */
struct Ends {
  scalar_t* out;
  scalar_t* extra;
  const scalar_t* bias;
  float* sums;
  i64 outStride, extraStride;
  int rows, columns;
};

/** Pairs of neighbouring columns that a thread has in a row of a tile; four of them are one access of 16 bytes. */
constexpr int PAIRS = TILE_N / 8, QUADS = PAIRS / 4;

/**
 * Word i of thread t of four neighbouring threads goes to word t of thread i: accumulators, of which a thread has a pair
 * of columns in each of four groups of eight, become eight neighbouring columns of one group, and back.
 */
TY_INLINE void transposeOfFour(u32 (&x)[4], int lane) {
  const bool isOdd = lane & 1, isUpper = lane & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const u32 other = __shfl_xor_sync(0xffffffffu, isOdd ? x[i] : x[i + 1], 1);
    x[i] = isOdd ? other : x[i];
    x[i + 1] = isOdd ? x[i + 1] : other;
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const u32 other = __shfl_xor_sync(0xffffffffu, isUpper ? x[i] : x[i + 2], 2);
    x[i] = isUpper ? other : x[i];
    x[i + 2] = isUpper ? x[i + 2] : other;
  }
}

/** Adds one half of x[0 .. 2 HALF) of lane `lane` and one of lane `lane` ^ STEP: the lane without bit STEP gets the lower. */
template <int HALF, int STEP, int COUNT>
TY_INLINE void exchangeHalves(float (&x)[COUNT], int lane) {
  const bool isUpper = lane & STEP;
#pragma unroll
  for (int i = 0; i < HALF; i++) {
    const float lower = x[i], upper = x[i + HALF];
    x[i] = (isUpper ? upper : lower) + __shfl_xor_sync(0xffffffffu, isUpper ? lower : upper, STEP);
  }
}
/** Sums of x over the 8 lanes with the same lane % 4: an eighth of them, from the returned one on, is left in x[0 ..]. */
template <int COUNT>
TY_INLINE int sumOverRows(float (&x)[COUNT], int lane) {
  exchangeHalves<COUNT / 2, 16>(x, lane);
  exchangeHalves<COUNT / 4, 8>(x, lane);
  exchangeHalves<COUNT / 8, 4>(x, lane);
  return (lane & 16 ? COUNT / 2 : 0) + (lane & 8 ? COUNT / 4 : 0) + (lane & 4 ? COUNT / 8 : 0);
}

/**
 * Adds bias, and what else the epilogue says, and stores. row, column: of the warpgroup's part of the tile. `sums` gets one
 * row of sums over rows for each OWN_ROWS rows.
 */
TY_INLINE void finish(float (&acc)[BLOCKS][TILE_N / 2], const Ends& ends, int group, int thread, int row, int column,
                      float (*sumsOfWarps)[TILE_N]) {
  constexpr bool HAS_BIAS = EPILOGUE != GELU_BACKWARD, HAS_SUMS = EPILOGUE == GELU_BACKWARD;
  const int lane = thread % 32, quarter = lane % 4, own = 16 * (thread / 32) + lane / 4;
  float sums[HAS_SUMS ? 2 * PAIRS : 8] = {};
#pragma unroll
  for (int block = 0; block < BLOCKS; block++) {
#pragma unroll
    for (int below = 0; below < 2; below++) {
      const int r = row + 64 * block + own + 8 * below;
      // Eight columns of the thread's accesses of row r: those from `wide` + 32 q.
      const int wide = column + 8 * quarter;
      const bool isRow = r < ends.rows;
      u32 extra[READS_EXTRA ? QUADS : 1][4] = {};
      if (READS_EXTRA) {
#pragma unroll
        for (int q = 0; q < QUADS; q++) {
          const int c = wide + 32 * q;
          if (isRow && c < ends.columns) loadConstant(extra[q], ends.extra + r * ends.extraStride + c);
        }
      }
#pragma unroll
      for (int q = 0; q < QUADS; q++) {
        if (READS_EXTRA) transposeOfFour(extra[q], lane);
        u32 first[4], second[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
          const int j = 4 * q + k;
          float* x = acc[block] + 4 * j + 2 * below;
          if (HAS_BIAS && ends.bias != nullptr) {
            const int c = column + 8 * j + 2 * quarter;
            const u32 bias = c < ends.columns ? *reinterpret_cast<const u32*>(ends.bias + c) : 0;
            x[0] += lowOf(bias);
            x[1] += highOf(bias);
          }
          if (EPILOGUE == ADD_RESIDUAL) {
            x[0] += lowOf(extra[q][k]);
            x[1] += highOf(extra[q][k]);
          }
          if (EPILOGUE == GELU_BACKWARD) {
            x[0] *= geluSlope(lowOf(extra[q][k]));
            x[1] *= geluSlope(highOf(extra[q][k]));
            sums[2 * j] += x[0];
            sums[2 * j + 1] += x[1];
          }
          first[k] = packScalars(x[0], x[1]);
          if (EPILOGUE == GELU) second[k] = packScalars(x[0] * geluGate(x[0]), x[1] * geluGate(x[1]));
        }
        transposeOfFour(first, lane);
        if (EPILOGUE == GELU) transposeOfFour(second, lane);
        const int c = wide + 32 * q;
        if (isRow && c < ends.columns) {
          scalar_t* to = ends.out + r * ends.outStride + c;
          if (EPILOGUE == GELU) {
            *reinterpret_cast<uint4*>(ends.extra + r * ends.extraStride + c) =
                make_uint4(first[0], first[1], first[2], first[3]);
            *reinterpret_cast<uint4*>(to) = make_uint4(second[0], second[1], second[2], second[3]);
          } else {
            *reinterpret_cast<uint4*>(to) = make_uint4(first[0], first[1], first[2], first[3]);
          }
        }
      }
    }
  }
  if (HAS_SUMS && ends.sums != nullptr) {
    const int from = sumOverRows(sums, lane);
    float* to = sumsOfWarps[4 * group + thread / 32] + 4 * from + 2 * quarter;
#pragma unroll
    for (int i = 0; i < PAIRS / 8; i++) {
      *reinterpret_cast<float2*>(to + 8 * i) = make_float2(sums[2 * i], sums[2 * i + 1]);
    }
    barrierSync(OWN + group, GROUP_THREADS);
    const float(*parts)[TILE_N] = sumsOfWarps + 4 * group;
    for (int c = thread; c < TILE_N; c += GROUP_THREADS) {
      if (row < ends.rows && column + c < ends.columns) {
        ends.sums[(i64)(row / OWN_ROWS) * ends.columns + column + c] =
            (parts[0][c] + parts[1][c]) + (parts[2][c] + parts[3][c]);
      }
    }
    barrierSync(OWN + group, GROUP_THREADS);
  }
}

TY_INLINE void consume(const Memory& memory, const Order& order, const Ends& ends, int steps, int rank, int group,
                       float (*sumsOfWarps)[TILE_N]) {
  const int thread = threadIdx.x % GROUP_THREADS;
  Ring ring;
  const int stride = gridDim.x / CLUSTER;
  int tile = blockIdx.x / CLUSTER;
  if (PINGPONG && group == 1) {
    barrierArrive(TURN + 0, 2 * GROUP_THREADS);
    tile += stride;
    ring.skip(steps);
  }
  const auto release = [&](int stage) {
    if (thread % 32 < CLUSTER) arriveAt(memory.empty(stage), thread % 32);
  };
  for (; tile < order.count(); tile += PINGPONG ? 2 * stride : stride) {
    int unit, column;
    order.place(tile, unit, column);
    const int row = (unit * CLUSTER + rank) * TILE_M + (PINGPONG ? 0 : group * OWN_ROWS);
    if (PINGPONG) barrierSync(TURN + group, 2 * GROUP_THREADS);

    float acc[BLOCKS][TILE_N / 2];
    int last = 0;
    for (int step = 0; step < steps; step++, ring.next()) {
      mbarrierWait(memory.full(ring.stage), ring.parity);
      wgmmaFence();
      const u64 a = descriptorOfRows(memory.a(ring.stage) + (PINGPONG ? 0 : group * OWN_ROWS * PANEL_ROW_BYTES));
      const u64 b = B_IS_KN ? descriptorOfColumns(memory.b(ring.stage), B_PANEL_BYTES)
                            : descriptorOfRows(memory.b(ring.stage));
#pragma unroll
      for (int k = 0; k < TILE_K / 16; k++) {
#pragma unroll
        for (int block = 0; block < BLOCKS; block++) {
          Wgmma<TILE_N>::template shared<0, B_IS_KN>(acc[block], advance(a, block * 64 * PANEL_ROW_BYTES + k * 32),
                                                     advance(b, k * (B_IS_KN ? 16 * PANEL_ROW_BYTES : 32)),
                                                     step > 0 || k > 0);
        }
      }
      wgmmaCommit();
      if (step > 0) {
        wgmmaWait<1>();
        release(last);
      }
      last = ring.stage;
    }
    if (PINGPONG) barrierArrive(TURN + 1 - group, 2 * GROUP_THREADS);
    wgmmaWait<0>();
#pragma unroll
    for (int block = 0; block < BLOCKS; block++) keepAfterWait(acc[block]);
    release(last);
    if (PINGPONG) ring.skip(steps);

    finish(acc, ends, group, thread, row, column * TILE_N, sumsOfWarps);
  }
}

extern "C" __global__ void __launch_bounds__(3 * GROUP_THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    matmul_hopper(const __grid_constant__ TensorMap mapA, const __grid_constant__ TensorMap mapB,
                  const __grid_constant__ TensorMap mapExtra, scalar_t* out, i64 outStride, scalar_t* extra,
                  i64 extraStride, const scalar_t* bias, float* sums, int rows, int columns, int inner, int groupRows) {
  extern __shared__ u8 raw[];
  __shared__ float sumsOfWarps[EPILOGUE == GELU_BACKWARD ? 8 : 1][TILE_N];
  const Memory memory = {(sharedAddress(raw) + 1023) & ~1023u};
  const int rank = CLUSTER == 1 ? 0 : clusterRank();
  const int group = threadIdx.x / GROUP_THREADS;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      mbarrierInit(memory.full(stage), 1);
      mbarrierInit(memory.empty(stage), RELEASES);
    }
    mbarrierInitFence();
    prefetchTensorMap(mapA);
    prefetchTensorMap(mapB);
    if (READS_EXTRA) prefetchTensorMap(mapExtra);
  }
  __syncthreads();
  clusterSync();

  const int steps = (inner + TILE_K - 1) / TILE_K;
  const Order order = {((rows + TILE_M - 1) / TILE_M + CLUSTER - 1) / CLUSTER, (columns + TILE_N - 1) / TILE_N,
                       groupRows};
  if (group == 2) {
    decreaseRegisters<24>();
    if (threadIdx.x == 2 * GROUP_THREADS) produce(memory, order, mapA, mapB, mapExtra, steps, rank);
    __syncwarp();
  } else {
    increaseRegisters<240>();
    const Ends ends = {out, extra, bias, sums, outStride, extraStride, rows, columns};
    consume(memory, order, ends, steps, rank, group, sumsOfWarps);
  }
  // A block's shared memory is written, and its barriers are arrived at, by the other one to the end.
  clusterSync();
}
