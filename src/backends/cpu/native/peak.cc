// What the processor can do at most: multiply-adds in registers, no memory. The roof that percentages refer to.
#include "context.h"
#include "simd.h"

namespace {
// Enough independent chains to hide the latency of a multiply-add (4 cycles, two a cycle, and some to spare).
constexpr int kChains = 12;

// The products are never looked at, only kept alive: the compiler must not see through the loop.
static float multiplyAdds(int64_t rounds, float start) {
  vf chain[kChains];
  for (int i = 0; i < kChains; i++) chain[i] = splat(start + float(i));
  vf x = splat(0.999999f), y = splat(1e-6f);
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; i++) chain[i] = chain[i] * x + y;
  }
  vf sum{};
  for (int i = 0; i < kChains; i++) sum += chain[i];
  return hsum(sum);
}
}  // namespace

// `rounds` rounds on every thread of the context. Writes the floating-point operations done (two for a multiply-add)
// to *flops (f64), and one meaningless number a thread to `sink` (f32).
TY_EXPORT(ty_peak)(int64_t context, int64_t flops, int64_t rounds, int64_t sink) {
  TyContext* ctx = reinterpret_cast<TyContext*>(context);
  const int threads = ty_threads(ctx);
  parallel_for(ctx, threads, [&](int64_t task, int) { F(sink)[task] = multiplyAdds(rounds, float(task)); });
  *reinterpret_cast<double*>(flops) = double(rounds) * kChains * W * 2 * threads;
}
