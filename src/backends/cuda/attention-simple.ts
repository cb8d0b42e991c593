// Launchers of kernels/attention-simple.cu: attention in f32 arithmetic for every element type and head size, and every form
// of scores.
import type { Dtype } from '../../core/dtype.ts'
import { ConfigError } from '../../core/errors.ts'
import type { AttentionOptions, Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import { type CudaKernel, type Launcher, memoized } from './launcher.ts'

const WARPS = 4
const MOST_HEAD_DIM = 512
/** struct Shape of the kernels. */
const SHAPE = 'iiiiifiif'

export function attentionSimpleKernels(launcher: Launcher): Pick<Kernels, 'attention' | 'attentionBackward'> {
  const family = (name: string, signature: string) =>
    memoized((dtype: Dtype, columns: number) =>
      launcher.kernel('attention-simple', name, signature, { dtype, defines: { COLUMNS: columns } }),
    )
  const forward = family('attention_simple', `pppppppllll${SHAPE}`)
  const query = family('attention_simple_query', `pppppppppp${'l'.repeat(6)}${SHAPE}`)
  const keyValue = family('attention_simple_key_value', `pppppppppp${'l'.repeat(6)}${SHAPE}`)
  const biasGradient = family('attention_simple_bias', `pppppppppllll${SHAPE}ii`)

  const variant = (
    kernels: (dtype: Dtype, columns: number) => CudaKernel,
    q: Tensor,
    { headDim }: AttentionOptions,
  ) => {
    if (headDim > MOST_HEAD_DIM) {
      throw new ConfigError(`attention: headDim must be at most ${MOST_HEAD_DIM} on a cuda device, got ${headDim}`)
    }
    return kernels(q.dtype, Math.ceil(headDim / 32))
  }

  return {
    attention(out, lse, q, k, v, options) {
      variant(forward, q, options)(
        [Math.ceil(q.shape[1]! / WARPS), options.numHeads, q.shape[0]!],
        32 * WARPS,
        ...[out, lse, q, k, v].map((tensor) => tensor.address),
        options.docStart?.address ?? 0,
        options.bias?.address ?? 0,
        ...[out, q, k, v].map((tensor) => tensor.rowStride),
        ...shapeOf(q, k, options),
      )
    },
    attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options, dBias) {
      const docStart = options.docStart?.address ?? 0
      const bias = options.bias?.address ?? 0
      const shape = shapeOf(q, k, options)
      variant(query, q, options)(
        [Math.ceil(q.shape[1]! / WARPS), options.numHeads, q.shape[0]!],
        32 * WARPS,
        ...[dq, delta, dOut, out, lse, q, k, v].map((tensor) => tensor.address),
        docStart,
        bias,
        ...[dq, dOut, out, q, k, v].map((tensor) => tensor.rowStride),
        ...shape,
      )
      variant(keyValue, q, options)(
        [Math.ceil(k.shape[1]! / WARPS), options.numKeyValueHeads, q.shape[0]!],
        32 * WARPS,
        ...[dk, dv, dOut, lse, delta, q, k, v].map((tensor) => tensor.address),
        docStart,
        bias,
        ...[dk, dv, dOut, q, k, v].map((tensor) => tensor.rowStride),
        ...shape,
      )
      if (dBias === undefined) return
      const { numHeads } = options
      variant(biasGradient, q, options)(
        [dBias.rowCount, numHeads],
        32 * WARPS,
        ...[dBias, dOut, lse, delta, q, k, v].map((tensor) => tensor.address),
        docStart,
        bias,
        ...[dOut, q, k, v].map((tensor) => tensor.rowStride),
        ...shape,
        q.shape[0]!,
        Number(dBias.dtype === 'f32'),
      )
    },
  }
}

function shapeOf(q: Tensor, k: Tensor, options: AttentionOptions): number[] {
  const { numHeads, numKeyValueHeads, headDim, scale, isCausal, window, softcap = 0 } = options
  return [numHeads, numKeyValueHeads, q.shape[1]!, k.shape[1]!, headDim, scale, Number(isCausal), window, softcap]
}
