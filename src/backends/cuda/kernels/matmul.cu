// Around cuBLASLt's products: the passes for what its epilogues do not offer, and a plain product for shapes that it
// refuses (16-bit rows that start at odd elements, among others), which is simply correct: 64 x 64 tiles, f32 sums in the
// order of k, no tensor cores.
//
// Compiled for the factors' type. Bits of `wide` name what is f32 although scalar_t is narrower.
#include "prelude.cuh"

constexpr int WIDE_OUT = 1, WIDE_BIAS = 2, WIDE_RESIDUAL = 4, WIDE_PRE = 8;
/** Modes of the pass; 0 adds, and no more. */
constexpr int GELU = 1, GELU_BACKWARD = 2;

template <int WIDTH, typename T>
TY_INLINE void loadOf(float (&x)[WIDTH], const T* p) {
  if constexpr (WIDTH == 1) {
    x[0] = toFloat(*p);
  } else {
    constexpr int SIZE = Pack<T>::size;
#pragma unroll
    for (int i = 0; i < WIDTH; i += SIZE) {
      const Pack<T> pack = loadPack(p + i);
#pragma unroll
      for (int j = 0; j < SIZE; j++) x[i + j] = toFloat(pack.at[j]);
    }
  }
}
template <int WIDTH, typename T>
TY_INLINE void storeOf(T* p, const float (&x)[WIDTH]) {
  if constexpr (WIDTH == 1) {
    fromFloat(*p, x[0]);
  } else {
    constexpr int SIZE = Pack<T>::size;
#pragma unroll
    for (int i = 0; i < WIDTH; i += SIZE) {
      Pack<T> pack;
#pragma unroll
      for (int j = 0; j < SIZE; j++) fromFloat(pack.at[j], x[i + j]);
      storePack(p + i, pack);
    }
  }
}
template <int WIDTH>
TY_INLINE void load(float (&x)[WIDTH], const void* p, i64 at, bool isWide) {
  if (isWide) loadOf(x, (const float*)p + at);
  else loadOf(x, (const scalar_t*)p + at);
}
template <int WIDTH>
TY_INLINE void store(void* p, i64 at, const float (&x)[WIDTH], bool isWide) {
  if (isWide) storeOf((float*)p + at, x);
  else storeOf((scalar_t*)p + at, x);
}

/** 1 / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3): then gelu(x) = x s and (1 + tanh u) / 2 = s. */
TY_INLINE float geluGate(float x) {
  constexpr float ROOT = 0.7978845608028654f, CUBIC = 0.044715f, LOG2_E = 1.4426950408889634f;
  const float u = ROOT * x * fmaf(CUBIC * x, x, 1.f);
  return __fdividef(1.f, 1.f + exp2f(-2.f * LOG2_E * u));
}
/** s + 2 x s (1 - s) du/dx */
TY_INLINE float geluSlope(float x) {
  constexpr float ROOT = 0.7978845608028654f, CUBIC = 0.044715f;
  const float s = geluGate(x);
  return fmaf(2.f * x * s * (1.f - s), ROOT * fmaf(3.f * CUBIC * x, x, 1.f), s);
}

struct Finish {
  void* out;
  i64 outStride;
  void* pre;
  i64 preStride;
  const void* bias;
  const void* residual;
  i64 residualStride, rows, columns;
  int mode, wide;
};

/** One block a row at a time, `WIDTH` columns a thread. */
template <int WIDTH>
TY_INLINE void finish(const Finish& of) {
  const bool wideOut = of.wide & WIDE_OUT, widePre = of.wide & WIDE_PRE;
  for (i64 row = blockIdx.x; row < of.rows; row += gridDim.x) {
    for (i64 column = (i64)threadIdx.x * WIDTH; column < of.columns; column += (i64)blockDim.x * WIDTH) {
      const i64 at = row * of.outStride + column, preAt = row * of.preStride + column;
      float x[WIDTH], other[WIDTH];
      if (of.mode == GELU) load(x, of.pre, preAt, widePre);
      else load(x, of.out, at, wideOut);
      if (of.bias != nullptr) {
        load(other, of.bias, column, of.wide & WIDE_BIAS);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) x[i] += other[i];
        if (of.mode == GELU) store(of.pre, preAt, x, widePre);
      }
      if (of.residual != nullptr) {
        load(other, of.residual, row * of.residualStride + column, of.wide & WIDE_RESIDUAL);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) x[i] += other[i];
      }
      if (of.mode == GELU) {
#pragma unroll
        for (int i = 0; i < WIDTH; i++) x[i] *= geluGate(x[i]);
      } else if (of.mode == GELU_BACKWARD) {
        load(other, of.pre, preAt, widePre);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) x[i] *= geluSlope(other[i]);
      }
      store(of.out, at, x, wideOut);
    }
  }
}

/**
 * Mode 0: out += bias + residual.  GELU: pre += bias, out = gelu(pre).  GELU_BACKWARD: out *= gelu'(pre).
 * `_packed` needs columns, strides and addresses that are multiples of 16 bytes of scalar_t.
 */
TY_KERNEL matmul_finish(void* out, i64 outStride, void* pre, i64 preStride, const void* bias, const void* residual,
                        i64 residualStride, i64 rows, i64 columns, int mode, int wide) {
  finish<1>({out, outStride, pre, preStride, bias, residual, residualStride, rows, columns, mode, wide});
}
TY_KERNEL matmul_finish_packed(void* out, i64 outStride, void* pre, i64 preStride, const void* bias,
                               const void* residual, i64 residualStride, i64 rows, i64 columns, int mode, int wide) {
  finish<Pack<scalar_t>::size>({out, outStride, pre, preStride, bias, residual, residualStride, rows, columns, mode, wide});
}

/** out += x, f32: the sums beside a product that is added to what is there. */
TY_KERNEL matmul_add_sums(float* out, const float* x, i64 count) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) out[i] += x[i];
}

/**
 * out = a b + bias + added; a[m][k] at m * aRow + k * aInner, b[k][n] at k * bInner + n * bColumn. 256 threads, grid
 * (rows / 64, columns / 64).
 */
TY_KERNEL matmul_simple(void* out, i64 outStride, const void* added, i64 addedStride, const void* bias,
                        const scalar_t* a, i64 aRow, i64 aInner, const scalar_t* b, i64 bInner, i64 bColumn, i64 rows,
                        i64 columns, i64 inner, int wide) {
  constexpr int TILE = 64, DEPTH = 16, EACH = 4, PAD = 4;
  __shared__ float tileA[DEPTH][TILE + PAD], tileB[DEPTH][TILE + PAD];
  const int thread = threadIdx.x, threadRow = thread / 16, threadColumn = thread % 16;
  const i64 firstRow = (i64)blockIdx.x * TILE, firstColumn = (i64)blockIdx.y * TILE;
  float sums[EACH][EACH] = {};
  for (i64 first = 0; first < inner; first += DEPTH) {
#pragma unroll
    for (int e = thread; e < TILE * DEPTH; e += 256) {
      // Neighbouring threads read neighbouring elements, whichever way the factor is stored.
      const int ka = aInner == 1 ? e % DEPTH : e / TILE, m = aInner == 1 ? e / DEPTH : e % TILE;
      const int kb = bInner == 1 ? e % DEPTH : e / TILE, n = bInner == 1 ? e / DEPTH : e % TILE;
      const bool hasA = firstRow + m < rows && first + ka < inner;
      const bool hasB = firstColumn + n < columns && first + kb < inner;
      tileA[ka][m] = hasA ? toFloat(a[(firstRow + m) * aRow + (first + ka) * aInner]) : 0.f;
      tileB[kb][n] = hasB ? toFloat(b[(first + kb) * bInner + (firstColumn + n) * bColumn]) : 0.f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
#pragma unroll
      for (int i = 0; i < EACH; i++) {
#pragma unroll
        for (int j = 0; j < EACH; j++) {
          sums[i][j] = fmaf(tileA[k][threadRow + 16 * i], tileB[k][threadColumn + 16 * j], sums[i][j]);
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < EACH; i++) {
#pragma unroll
    for (int j = 0; j < EACH; j++) {
      const i64 row = firstRow + threadRow + 16 * i, column = firstColumn + threadColumn + 16 * j;
      if (row >= rows || column >= columns) continue;
      float x[1] = {sums[i][j]}, other[1];
      if (bias != nullptr) {
        load(other, bias, column, wide & WIDE_BIAS);
        x[0] += other[0];
      }
      if (added != nullptr) {
        load(other, added, row * addedStride + column, wide & WIDE_OUT);
        x[0] += other[0];
      }
      store(out, row * outStride + column, x, wide & WIDE_OUT);
    }
  }
}

/** Different bits everywhere: what the search times products on. Zeros would take less power, and so less time. */
TY_INLINE u32 scrambled(u32 x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}
/** About normal: the sum of four uniform numbers, with variance 1. */
TY_KERNEL matmul_noise(scalar_t* out, i64 count, u32 seed) {
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (i64)gridDim.x * blockDim.x) {
    const u32 bits = scrambled((u32)i ^ scrambled(seed));
    const int sum = (bits & 255) + ((bits >> 8) & 255) + ((bits >> 16) & 255) + (bits >> 24);
    fromFloat(out[i], (sum - 510) * (1.f / 147.8f));
  }
}
/** Bytes that are finite, of middling size and of either sign in both fp8 formats. */
TY_KERNEL matmul_noise_fp8(u8* out, i64 count, u32 seed) {
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (i64)gridDim.x * blockDim.x) {
    const u32 bits = scrambled((u32)i ^ scrambled(seed));
    out[i] = (u8)((bits & 0x80) | 0x20 | (bits & 0x1f));
  }
}
