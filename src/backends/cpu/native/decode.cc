// Decoding over a cache of several sequences, each with a length of its own. Attention is ty_attention_decode, one
// sequence after another.
#include "context.h"
#include "simd.h"

TY_EXPORT(ty_attention_decode)(int64_t context, int64_t out, int64_t outStride, int64_t lse, int64_t q, int64_t qStride,
                               int64_t k, int64_t kStride, int64_t v, int64_t vStride, int64_t docStart, int32_t B,
                               int32_t H, int32_t G, int32_t Tq, int32_t Tk, int32_t K, double scale, int32_t causal,
                               int32_t window);

// x [B, T, width] of rows xStride apart into cache [B, capacity, width].
TY_EXPORT(ty_cache_append)(int64_t context, int64_t cache, int64_t x, int64_t xStride, int64_t lengths, int64_t B,
                           int64_t T, int64_t capacity, int64_t width) {
  const int32_t* length = reinterpret_cast<const int32_t*>(lengths);
  parallel_for(reinterpret_cast<TyContext*>(context), B, [&](int64_t b, int) {
    for (int64_t t = 0; t < T; t++) {
      const int64_t position = least(length[b] + t, capacity - 1);
      memcpy(F(cache) + (b * capacity + position) * width, F(x) + (b * T + t) * xStride, size_t(width) * 4);
    }
  });
}

TY_EXPORT(ty_attention_cached)(int64_t context, int64_t out, int64_t outStride, int64_t lse, int64_t q, int64_t qStride,
                               int64_t keys, int64_t values, int64_t lengths, int32_t B, int32_t H, int32_t G,
                               int32_t K, int32_t capacity, double scale) {
  const int32_t* length = reinterpret_cast<const int32_t*>(lengths);
  const int64_t width = int64_t(G) * K, bytes = int64_t(capacity) * width * 4;
  for (int64_t b = 0; b < B; b++) {
    const int32_t count = int32_t(least(length[b] + 1, capacity));
    TY_SUFFIX(ty_attention_decode)
    (context, out + b * outStride * 4, outStride, lse + b * H * 4, q + b * qStride * 4, qStride, keys + b * bytes,
     width, values + b * bytes, width, 0, 1, H, G, 1, count, K, scale, 1, 0);
  }
}

TY_EXPORT(ty_greedy_token)(int64_t context, int64_t tokens, int64_t lengths, int64_t history, int64_t historyRows,
                           int64_t made, int64_t logits, int64_t B, int64_t V, int64_t capacity) {
  int32_t* token = reinterpret_cast<int32_t*>(tokens);
  int32_t* length = reinterpret_cast<int32_t*>(lengths);
  int32_t* row = reinterpret_cast<int32_t*>(made);
  parallel_for(reinterpret_cast<TyContext*>(context), B, [&](int64_t b, int) {
    const float* z = F(logits) + b * V;
    int64_t best = 0;
    for (int64_t i = 1; i < V; i++) best = z[i] > z[best] ? i : best;
    token[b] = int32_t(best);
    length[b] = int32_t(least(length[b] + 1, capacity));
    if (*row < historyRows) reinterpret_cast<int32_t*>(history)[*row * B + b] = int32_t(best);
  });
  *row += 1;
}
