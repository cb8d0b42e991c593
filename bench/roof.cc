// What this machine can do at most: f32 fused multiply-adds in registers, and reading memory that is in no cache.
// Compiled with -march=native and run by roof.ts; prints "GFLOP/s GB/s" for the given number of threads.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
#define LANES 16
#define KEEP(x) asm volatile("" : "+v"(x))
#elif defined(__AVX__)
#define LANES 8
#define KEEP(x) asm volatile("" : "+x"(x))
#elif defined(__x86_64__)
#define LANES 4
#define KEEP(x) asm volatile("" : "+x"(x))
#else
#define LANES 4
#define KEEP(x) asm volatile("" : "+w"(x))
#endif
typedef float Vector __attribute__((vector_size(LANES * 4)));

static double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The shortest of several rounds of `work` on all threads.
template <typename WORK>
static double best(int threads, int rounds, const WORK& work) {
  double shortest = 1e9;
  for (int round = 0; round < rounds; round++) {
    const double start = seconds();
    std::vector<std::thread> others;
    for (int t = 1; t < threads; t++) others.emplace_back([&, t] { work(t); });
    work(0);
    for (std::thread& other : others) other.join();
    shortest = std::min(shortest, seconds() - start);
  }
  return shortest;
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? atoi(argv[1]) : 1;
  const int64_t steps = 2000000;
  const double multiply = best(threads, 8, [&](int) {
    // Ten chains: more than latency times units, and all in registers.
    Vector a = Vector{} + float(threads), b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a;
    const Vector x = Vector{} + 0.999f, y = Vector{} + 0.001f;
    for (int64_t n = 0; n < steps; n++) {
      a = a * x + y, b = b * x + y, c = c * x + y, d = d * x + y, e = e * x + y;
      f = f * x + y, g = g * x + y, h = h * x + y, i = i * x + y, j = j * x + y;
      KEEP(a); KEEP(b); KEEP(c); KEEP(d); KEEP(e);
      KEEP(f); KEEP(g); KEEP(h); KEEP(i); KEEP(j);
    }
  });
  const int64_t perThread = (int64_t(512) << 20) / threads / int64_t(sizeof(Vector) * 8);
  std::vector<float*> blocks;
  for (int t = 0; t < threads; t++) {
    blocks.push_back(static_cast<float*>(aligned_alloc(64, size_t(perThread) * sizeof(Vector) * 8)));
    std::fill(blocks[t], blocks[t] + perThread * 8 * LANES, 1.f);
  }
  const double reading = best(threads, 6, [&](int t) {
    const Vector* p = reinterpret_cast<const Vector*>(blocks[t]);
    Vector sum[8] = {};
    for (int64_t n = 0; n < perThread; n++, p += 8)
      for (int u = 0; u < 8; u++) sum[u] += p[u];
    for (Vector& s : sum) KEEP(s);
  });
  printf("%.2f %.2f\n", 10. * steps * LANES * 2 * threads / multiply / 1e9,
         double(perThread) * 8 * sizeof(Vector) * threads / reading / 1e9);
}
