// Reference kernels: decoding over a cache of several sequences, each with a length of its own.
import type { Kernels } from '../../core/kernels.ts'
import { attentionKernels } from './attention.ts'
import { elementsOf, rowsOf, slicedRowsOf } from './memory.ts'

export const decodeKernels: Pick<Kernels, 'cacheAppend' | 'attentionCached' | 'greedyToken'> = {
  cacheAppend(keys, values, k, v, lengths) {
    const [batch, capacity] = keys.shape as [number, number]
    const count = k.shape[1]!
    for (const [cache, x] of [
      [keys, k],
      [values, v],
    ] as const) {
      const rows = rowsOf(cache)
      const news = slicedRowsOf(x)
      for (let b = 0; b < batch; b++) {
        for (let t = 0; t < count; t++) {
          const position = Math.min(elementsOf(lengths)[b] + t, capacity - 1)
          rows[b * capacity + position].set(news[b * count + t])
        }
      }
    }
  },

  attentionCached(out, lse, q, keys, values, lengths, options) {
    const [batch, capacity] = keys.shape as [number, number]
    for (let b = 0; b < batch; b++) {
      const count = Math.min(elementsOf(lengths)[b] + 1, capacity)
      const [k, v] = [keys, values].map((cache) =>
        cache
          .reshape(batch * capacity, cache.columnCount)
          .slice(b * capacity, count)
          .reshape(1, count, cache.columnCount),
      )
      attentionKernels.attention(out.slice(b, 1), lse.slice(b, 1), q.slice(b, 1), k, v, {
        ...options,
        isCausal: true,
        window: 0,
      })
    }
  },

  greedyToken(tokens, lengths, history, made, logits, capacity) {
    const row = elementsOf(made)[0]
    const rows = rowsOf(history)
    rowsOf(logits).forEach((z, b) => {
      const token = z.reduce((best, value, i) => (value > z[best] ? i : best), 0)
      elementsOf(tokens)[b] = token
      elementsOf(lengths)[b] = Math.min(elementsOf(lengths)[b] + 1, capacity)
      if (row < rows.length) rows[row][b] = token
    })
    elementsOf(made)[0] = row + 1
  },
}
