// The matrix product with factors rounded to bf16 (nearest even) while they are packed and sums in f32, by AVX512-BF16:
// twice the rate of f32. Memory holds f32 throughout. Subnormal factors count as zero (the instruction's rule).
#include <immintrin.h>

#include "gemm-blocked.h"

namespace {
// A packed word holds steps k (low half) and k + 1 (high half).
struct Bf16Product {
  static constexpr int kDepth = 2;
  static inline vf pack(vf x0, vf x1) {
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)x1, (__m512)x0);  // x0 in the low 16 lanes
    const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                                6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (vf)_mm512_permutexvar_epi16(interleave, halves);
  }
  static inline vf packPairs(vf x0, vf x1) { return (vf)_mm512_cvtne2ps_pbh((__m512)x1, (__m512)x0); }
  static inline vf add(vf sum, vf x, vf y) {
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
  }
};
}  // namespace

// The arguments of ty_matmul (gemm.cc).
TY_EXPORT(ty_matmul_bf16)(int64_t context, int64_t c, int64_t cStride, int64_t a, int64_t aStride, int64_t b,
                          int64_t bStride, int64_t M, int64_t N, int64_t K, int32_t flags, int64_t bias,
                          int64_t residual, int64_t residualStride) {
  const Operand A{F(a), aStride, (flags & 1) != 0}, B{F(b), bStride, (flags & 2) != 0};
  const Epilogue e{F(bias), F(residual), residualStride, (flags & 4) != 0};
  gemm<Bf16Product>(reinterpret_cast<TyContext*>(context), F(c), cStride, A, B, M, N, K, e);
}
