// Sums down the columns of matrices, for the gradients of biases and norm weights.
#pragma once
#include "context.h"
#include "simd.h"

namespace {
// Sums over rows of SUMS functions at once: d[s][c] (+)= sum of g(r, j, n)[s]. A task owns columns and goes down all of
// their vectors together: independent chains of additions, and whole lines of each row. Partials of ROWS rows are added
// in order.
template <int SUMS>
struct Terms {
  vf of[SUMS];
};

template <int SUMS, int64_t ROWS, int VECTORS, typename G>
static inline void stripSums(float* const (&d)[SUMS], const bool (&accumulate)[SUMS], int64_t j0, int64_t columns,
                             int64_t rows, const G& g) {
  vf total[SUMS][VECTORS] = {};
  for (int64_t r0 = 0; r0 < rows; r0 += ROWS) {
    vf part[SUMS][VECTORS] = {};
    for (int64_t r = r0; r < least(rows, r0 + ROWS); r++)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++) {
        const Terms<SUMS> terms = g(r, j0 + v * W, VECTORS == 1 ? columns : W);
#pragma GCC unroll 2
        for (int s = 0; s < SUMS; s++) part[s][v] += terms.of[s];
      }
    for (int s = 0; s < SUMS; s++)
      for (int v = 0; v < VECTORS; v++) total[s][v] += part[s][v];
  }
  for (int s = 0; s < SUMS; s++)
    for (int v = 0; v < VECTORS; v++) {
      const int64_t n = VECTORS == 1 ? columns : W;
      float* at = d[s] + j0 + v * W;
      put(at, accumulate[s] ? get(at, n) + total[s][v] : total[s][v], n);
    }
}

template <int SUMS, int64_t ROWS, typename G>
static void columnSums(int64_t context, float* const (&d)[SUMS], const bool (&accumulate)[SUMS], int64_t rows,
                       int64_t columns, const G& g) {
  constexpr int64_t strip = 4 * W;
  parallel_for(reinterpret_cast<TyContext*>(context), blocks(columns, strip), [&](int64_t task, int) {
    int64_t j = task * strip;
    const int64_t to = least(columns, j + strip);
    if (to - j == strip) return stripSums<SUMS, ROWS, 4>(d, accumulate, j, strip, rows, g);
    for (; j < to; j += W) stripSums<SUMS, ROWS, 1>(d, accumulate, j, least(W, to - j), rows, g);
  });
}
}  // namespace
