// Softmax cross-entropy over rows of logits, the gradient written in their place.
#include "context.h"
#include "simd.h"

// scalars: address of the f64 slots (7 = loss scale, 8 = gradient scale) or 0 for the loss alone.
TY_EXPORT(ty_softmax_cross_entropy)(int64_t context, int64_t losses, int64_t logits, int64_t targets, int64_t scalars,
                                    int64_t rows, int64_t vocab) {
  const int32_t* target = reinterpret_cast<const int32_t*>(targets);
  const double* s = reinterpret_cast<const double*>(scalars);
  const double scale = scalars ? s[7] * s[8] : 0;
  const int64_t perTask = rows_per_task(vocab, 1 << 14);
  parallel_for(reinterpret_cast<TyContext*>(context), blocks(rows, perTask), [&](int64_t task, int) {
    for (int64_t r = task * perTask; r < least(rows, (task + 1) * perTask); r++) {
      float* x = reinterpret_cast<float*>(logits) + r * vocab;
      float* loss = reinterpret_cast<float*>(losses) + r;
      const int32_t t = target[r];
      if (t < 0) {
        *loss = 0;
        if (scalars) memset(x, 0, size_t(vocab) * 4);
        continue;
      }
      vf m = splat(-INFINITY);
      int64_t j = 0;
      for (; j + W <= vocab; j += W) m = vmax(m, load(x + j));
      float top = hmax(m);
      for (; j < vocab; j++) top = x[j] > top ? x[j] : top;
      const float targetLogit = x[t];
      // Blocks of 2^12 keep the f32 partial sums short; the total is f64.
      double sum = 0;
      for (int64_t b = 0; b < vocab; b += 4096) {
        const int64_t to = least(vocab, b + 4096);
        vf part{};
        for (j = b; j < to; j += W) {
          const int64_t n = least(W, to - j);
          if (n == W) {
            const vf e = vexp(load(x + j) - top);
            part += e;
            if (scalars) store(x + j, e);
          } else {
            vf e = vexp(load_partial(x + j, n) - top), kept{};
            memcpy(&kept, &e, size_t(n) * 4);
            part += kept;
            if (scalars) store_partial(x + j, e, n);
          }
        }
        sum += hsum(part);
      }
      *loss = float(log(sum) + double(top) - double(targetLogit));
      if (!scalars) continue;
      const vf factor = splat(float(scale / sum));
      for (j = 0; j + W <= vocab; j += W) store(x + j, load(x + j) * factor);
      for (; j < vocab; j++) x[j] *= factor[0];
      x[t] -= float(scale);
    }
  });
}
