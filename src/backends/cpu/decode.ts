// Launchers of native/decode.cc: decoding over a cache of several sequences.
import type { Kernels } from '../../core/kernels.ts'
import type { CpuLibrary } from './library.ts'

/** f32. `context` is the address of a native context (native/context.h). */
export function decodeKernels(
  library: CpuLibrary,
  context: number,
): Pick<Kernels, 'cacheAppend' | 'attentionCached' | 'greedyToken'> {
  const append = library.kernel('cache_append', 'pplpllll')
  const attention = library.kernel('attention_cached', 'plpplpppiiiiid')
  const greedy = library.kernel('greedy_token', 'ppplpplll')
  return {
    cacheAppend(keys, values, k, v, lengths) {
      const [batch, capacity, width] = keys.shape as [number, number, number]
      const count = k.shape[1]!
      append(context, keys.address, k.address, k.rowStride, lengths.address, batch, count, capacity, width)
      append(context, values.address, v.address, v.rowStride, lengths.address, batch, count, capacity, width)
    },
    attentionCached(out, lse, q, keys, values, lengths, { numHeads, numKeyValueHeads, headDim, scale }) {
      attention(
        context,
        out.address,
        out.rowStride,
        lse.address,
        q.address,
        q.rowStride,
        keys.address,
        values.address,
        lengths.address,
        q.shape[0]!,
        numHeads,
        numKeyValueHeads,
        headDim,
        keys.shape[1]!,
        scale,
      )
    },
    greedyToken(tokens, lengths, history, made, logits, capacity) {
      greedy(
        context,
        tokens.address,
        lengths.address,
        history.address,
        history.shape[0]!,
        made.address,
        logits.address,
        logits.rowCount,
        logits.columnCount,
        capacity,
      )
    },
  }
}
