// Philox and the normal quantile of core/random.ts, operation by operation: compiled without FMA contraction so that
// every double has the same bits as in TypeScript. Compiled once, for no particular instruction set.
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "context.h"

namespace {
struct Words {
  uint32_t w[4];
};

inline Words philox(uint64_t counter, uint32_t k0, uint32_t k1) {
  uint32_t c0 = uint32_t(counter), c1 = uint32_t(counter >> 32), c2 = 0, c3 = 0;
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = uint64_t(0xd2511f53u) * c0, p1 = uint64_t(0xcd9e8d57u) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
    c1 = uint32_t(p1);
    c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c3 = uint32_t(p0);
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return {{c0, c1, c2, c3}};
}

double exactLog(double x) {
  uint64_t bits;
  memcpy(&bits, &x, 8);
  int exponent = int((bits >> 52) & 0x7ff) - 1023;
  bits = (bits & 0x000fffffffffffffull) | 0x3ff0000000000000ull;
  double m;
  memcpy(&m, &bits, 8);
  if (m > 1.4142135623730951) {
    m = m * 0.5;
    exponent = exponent + 1;
  }
  const double s = (m - 1) / (m + 1), z = s * s;
  double series = 1.0 / 23;
  for (int k = 21; k >= 3; k -= 2) series = series * z + 1.0 / k;
  series = series * z + 1;
  return exponent * 0.6931471805599453 + 2 * s * series;
}

template <int N>
double polynomial(const double (&c)[N], double r) {
  double y = c[0];
  for (int i = 1; i < N; i++) y = y * r + c[i];
  return y;
}

double normalFromUniform(double p) {
  static constexpr double a[] = {2509.0809287301226727, 33430.575583588128105, 67265.770927008700853,
                                 45921.953931549871457, 13731.693765509461125, 1971.5909503065514427,
                                 133.14166789178437745, 3.387132872796366608};
  static constexpr double b[] = {5226.495278852545925,  28729.085735721942674, 39307.89580009271061,
                                 21213.794301586595867, 5394.1960214247511077, 687.1870074920579083,
                                 42.313330701600911252, 1};
  static constexpr double c[] = {7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177,
                                 1.27045825245236838258,   3.64784832476320460504,   5.7694972214606914055,
                                 4.6303378461565452959,    1.42343711074968357734};
  static constexpr double d[] = {1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966,
                                 0.14810397642748007459,    0.68976733498510000455,  1.6763848301838038494,
                                 2.05319162663775882187,    1};
  static constexpr double e[] = {2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386,
                                 0.026532189526576123093,   0.29656057182850489123,    1.7848265399172913358,
                                 5.4637849111641143699,     6.6579046435011037772};
  static constexpr double f[] = {2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5,
                                 7.868691311456132591e-4,    0.0148753612908506148525, 0.13692988092273580531,
                                 0.59983220655588793769,     1};
  const double q = p - 0.5;
  if (fabs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    return q * polynomial(a, r) / polynomial(b, r);
  }
  const double tail = q < 0 ? p : 1 - p;
  double r = sqrt(-exactLog(tail)), value;
  if (r <= 5) {
    r = r - 1.6;
    value = polynomial(c, r) / polynomial(d, r);
  } else {
    r = r - 5;
    value = polynomial(e, r) / polynomial(f, r);
  }
  return q < 0 ? -value : value;
}

constexpr int64_t kChunk = 1 << 13;
}  // namespace

extern "C" {
__attribute__((visibility("default"))) void ty_random_normal(int64_t context, int64_t out, int64_t count, int64_t start,
                                                             uint32_t keyLow, uint32_t keyHigh, double mean,
                                                             double std) {
  float* y = reinterpret_cast<float*>(out);
  parallel_for(reinterpret_cast<TyContext*>(context), (count + kChunk - 1) / kChunk, [&](int64_t task, int) {
    const int64_t to = (task + 1) * kChunk < count ? (task + 1) * kChunk : count;
    Words words{};
    uint64_t block = ~uint64_t(0);
    for (int64_t i = task * kChunk; i < to; i++) {
      const uint64_t index = uint64_t(start + i);
      if (index / 4 != block) words = philox(block = index / 4, keyLow, keyHigh);
      const double u = (double(words.w[index % 4]) + 0.5) * 2.3283064365386963e-10;
      y[i] = float(mean + std * normalFromUniform(u));
    }
  });
}

// x [B, T, D], sampleIndex i32 [B, 2]; element index (sample * T + t) * D + d.
__attribute__((visibility("default"))) void ty_dropout(int64_t context, int64_t out, int64_t x, int64_t sampleIndex,
                                                       int64_t batch, int64_t rows, int64_t width, uint32_t keyLow,
                                                       uint32_t keyHigh, double p) {
  const float *in = reinterpret_cast<const float*>(x), keepScale = float(1 / (1 - p));
  float* y = reinterpret_cast<float*>(out);
  const uint32_t* sample = reinterpret_cast<const uint32_t*>(sampleIndex);
  const uint64_t threshold = uint64_t(floor(p * 4294967296.0 + 0.5));
  parallel_for(reinterpret_cast<TyContext*>(context), batch * rows, [&](int64_t row, int) {
    const int64_t b = row / rows;
    const uint64_t global = uint64_t(sample[2 * b]) | uint64_t(sample[2 * b + 1]) << 32;
    const uint64_t first = (global * uint64_t(rows) + uint64_t(row % rows)) * uint64_t(width);
    Words words{};
    uint64_t block = ~uint64_t(0);
    for (int64_t j = 0; j < width; j++) {
      const uint64_t index = first + uint64_t(j);
      if (index / 4 != block) words = philox(block = index / 4, keyLow, keyHigh);
      const float kept = in[row * width + j] * keepScale;
      y[row * width + j] = words.w[index % 4] < threshold ? 0.f : kept;
    }
  });
}
}
