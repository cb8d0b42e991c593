// Launchers of kernels/decode.cu: decoding over a cache of several sequences, kernel by kernel.
import type { Dtype } from '../../core/dtype.ts'
import { ConfigError } from '../../core/errors.ts'
import type { Kernels } from '../../core/kernels.ts'
import type { CudaKernel, Launcher } from './launcher.ts'

/** WARPS of the kernel file, in threads. */
const ATTENTION_THREADS = 256
const MAX_HEAD_DIM = 256
const APPEND_THREADS = 128
const GREEDY_THREADS = 512

export function decodeKernels(launcher: Launcher): Pick<Kernels, 'cacheAppend' | 'attentionCached' | 'greedyToken'> {
  const family = (name: string, signature: string): ((dtype: Dtype) => CudaKernel) => {
    const made = new Map<Dtype, CudaKernel>()
    return (dtype) => {
      let kernel = made.get(dtype)
      if (kernel === undefined) {
        kernel = launcher.kernel('decode', name, signature, { dtype })
        made.set(dtype, kernel)
      }
      return kernel
    }
  }
  const append = family('cache_append', 'ppppplliii')
  const attention = family('attention_cached', 'pppppplliiiif')
  const greedy = family('greedy_token', 'pppppiii')
  const countStep = family('count_step', 'p')
  return {
    cacheAppend(keys, values, k, v, lengths) {
      const [, capacity, width] = keys.shape as [number, number, number]
      append(keys.dtype)(
        k.rowCount,
        APPEND_THREADS,
        keys.address,
        values.address,
        k.address,
        v.address,
        lengths.address,
        k.rowStride,
        v.rowStride,
        k.shape[1]!,
        capacity,
        width,
      )
    },

    attentionCached(out, lse, q, keys, values, lengths, { numHeads, numKeyValueHeads, headDim, scale }) {
      if (headDim > MAX_HEAD_DIM) {
        throw new ConfigError(
          `cuda: attention over a cache has heads of at most ${MAX_HEAD_DIM}, got ${headDim}: use --device cpu`,
        )
      }
      attention(q.dtype)(
        [numHeads, q.shape[0]!],
        ATTENTION_THREADS,
        out.address,
        lse.address,
        q.address,
        keys.address,
        values.address,
        lengths.address,
        out.rowStride,
        q.rowStride,
        numHeads,
        numKeyValueHeads,
        headDim,
        keys.shape[1]!,
        scale,
      )
    },

    greedyToken(tokens, lengths, history, made, logits, capacity) {
      greedy(logits.dtype)(
        logits.rowCount,
        GREEDY_THREADS,
        tokens.address,
        lengths.address,
        history.address,
        made.address,
        logits.address,
        history.shape[0]!,
        logits.columnCount,
        capacity,
      )
      countStep(logits.dtype)(1, 1, made.address)
    },
  }
}
