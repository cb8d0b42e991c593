// Philox4x32-10 and the normal quantile of core/random.ts, operation by operation: compiled without fused multiply-adds
// so that every double has the same bits as in TypeScript.
#include "prelude.cuh"

struct Words {
  u32 at[4];
};

TY_INLINE Words philox(u64 counter, u32 k0, u32 k1) {
  u32 c0 = (u32)counter, c1 = (u32)(counter >> 32), c2 = 0, c3 = 0;
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const u64 p0 = (u64)0xd2511f53u * c0, p1 = (u64)0xcd9e8d57u * c2;
    c0 = (u32)(p1 >> 32) ^ c1 ^ k0;
    c1 = (u32)p1;
    c2 = (u32)(p0 >> 32) ^ c3 ^ k1;
    c3 = (u32)p0;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return {{c0, c1, c2, c3}};
}

/** Natural logarithm of a normal x > 0. */
TY_INLINE double exactLog(double x) {
  const u64 bits = (u64)__double_as_longlong(x);
  int exponent = (int)((bits >> 52) & 0x7ff) - 1023;
  double m = __longlong_as_double((i64)((bits & 0x000fffffffffffffull) | 0x3ff0000000000000ull));
  if (m > 1.4142135623730951) {
    m = m * 0.5;
    exponent = exponent + 1;
  }
  const double s = (m - 1) / (m + 1), z = s * s;
  double series = 1.0 / 23;
  series = series * z + 1.0 / 21;
  series = series * z + 1.0 / 19;
  series = series * z + 1.0 / 17;
  series = series * z + 1.0 / 15;
  series = series * z + 1.0 / 13;
  series = series * z + 1.0 / 11;
  series = series * z + 1.0 / 9;
  series = series * z + 1.0 / 7;
  series = series * z + 1.0 / 5;
  series = series * z + 1.0 / 3;
  series = series * z + 1;
  return exponent * 0.6931471805599453 + 2 * s * series;
}

TY_INLINE double polynomial(double r, double c7, double c6, double c5, double c4, double c3, double c2, double c1,
                            double c0) {
  return ((((((c7 * r + c6) * r + c5) * r + c4) * r + c3) * r + c2) * r + c1) * r + c0;
}

/** Wichura's AS241 (PPND16, 1988). p in (0, 1). */
TY_INLINE double normalFromUniform(double p) {
  const double q = p - 0.5;
  if (fabs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    return q *
           polynomial(r, 2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
                      13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608) /
           polynomial(r, 5226.495278852545925, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
                      5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1);
  }
  const double tail = q < 0 ? p : 1 - p;
  double r = sqrt(-exactLog(tail)), value;
  if (r <= 5) {
    r = r - 1.6;
    value = polynomial(r, 7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177,
                       1.27045825245236838258, 3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959,
                       1.42343711074968357734) /
            polynomial(r, 1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966,
                       0.14810397642748007459, 0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187,
                       1);
  } else {
    r = r - 5;
    value = polynomial(r, 2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386,
                       0.026532189526576123093, 0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699,
                       6.6579046435011037772) /
            polynomial(r, 2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5,
                       7.868691311456132591e-4, 0.0148753612908506148525, 0.13692988092273580531,
                       0.59983220655588793769, 1);
  }
  return q < 0 ? -value : value;
}

/** out[i] = mean + std * normal(start + i), rounded to f32, then to scalar_t. A thread makes the four of one block. */
TY_KERNEL random_normal(scalar_t* out, i64 count, i64 start, u32 keyLow, u32 keyHigh, double mean, double std) {
  const i64 block = start / 4 + (i64)blockIdx.x * blockDim.x + threadIdx.x;
  const i64 first = block * 4 - start;
  if (first >= count) return;
  const Words words = philox((u64)block, keyLow, keyHigh);
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const i64 i = first + k;
    if (i < 0 || i >= count) continue;
    const double uniform = ((double)words.at[k] + 0.5) * 2.3283064365386963e-10;
    fromFloat(out[i], (float)(mean + std * normalFromUniform(uniform)));
  }
}

/** Number of the first element of a sequence in its stream: (low + 2^32 high) * sequenceSize. */
TY_INLINE u64 firstOf(const u32* sampleIndex, int sequence, i64 sequenceSize) {
  const u64 number = (u64)sampleIndex[2 * (i64)sequence] | (u64)sampleIndex[2 * (i64)sequence + 1] << 32;
  return number * (u64)sequenceSize;
}

/**
 * Dropout of whole packs: sequenceSize is a multiple of the pack, the addresses of 16 bytes. Grid: packs of a sequence
 * by sequences. A word up to lastDropped drops its element (dropsAny: not p = 0).
 */
TY_KERNEL dropout_packs(scalar_t* out, const scalar_t* x, const u32* sampleIndex, int batch, i64 sequenceSize,
                        u32 keyLow, u32 keyHigh, u32 lastDropped, int dropsAny, float keepScale) {
  constexpr int SIZE = Pack<scalar_t>::size;
  const i64 at = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * SIZE;
  if (at >= sequenceSize) return;
  for (int sequence = blockIdx.y; sequence < batch; sequence += gridDim.y) {
    const i64 place = sequence * sequenceSize + at;
    Pack<scalar_t> pack = loadPack(x + place);
    const u64 counter = (firstOf(sampleIndex, sequence, sequenceSize) + (u64)at) / 4;
#pragma unroll
    for (int i = 0; i < SIZE; i += 4) {
      const Words words = philox(counter + i / 4, keyLow, keyHigh);
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const bool isDropped = dropsAny && words.at[k] <= lastDropped;
        fromFloat(pack.at[i + k], isDropped ? 0.f : toFloat(pack.at[i + k]) * keepScale);
      }
    }
    storePack(out + place, pack);
  }
}

/** The same for any sizes and addresses, one element a thread. */
TY_KERNEL dropout_elements(scalar_t* out, const scalar_t* x, const u32* sampleIndex, int batch, i64 sequenceSize,
                           u32 keyLow, u32 keyHigh, u32 lastDropped, int dropsAny, float keepScale) {
  const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= sequenceSize) return;
  for (int sequence = blockIdx.y; sequence < batch; sequence += gridDim.y) {
    const i64 place = sequence * sequenceSize + at;
    const u64 index = firstOf(sampleIndex, sequence, sequenceSize) + (u64)at;
    const Words words = philox(index / 4, keyLow, keyHigh);
    const int k = (int)(index & 3);
    const u32 word = k == 0 ? words.at[0] : k == 1 ? words.at[1] : k == 2 ? words.at[2] : words.at[3];
    const bool isDropped = dropsAny && word <= lastDropped;
    fromFloat(out[place], isDropped ? 0.f : toFloat(x[place]) * keepScale);
  }
}
