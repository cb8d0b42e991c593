// Which kernels a call of attention runs on: our Hopper kernels, cuDNN's where that is installed and faster, our mma.sync
// kernels on every card since sm_80, and plain f32 arithmetic for f32 models, soft-capped scores and biases. docs/attention.md has the measurements.
import { ConfigError } from '../../core/errors.ts'
import type { AttentionOptions, Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import { type AttentionCudnn, attentionCudnn } from './attention-cudnn.ts'
import { attentionHopperBackward } from './attention-hopper-backward.ts'
import { attentionHopperForward } from './attention-hopper-forward.ts'
import { attentionMmaKernels } from './attention-mma.ts'
import { attentionSimpleKernels } from './attention-simple.ts'
import type { CudnnLibrary } from './cudnn.ts'
import type { CudaRuntime } from './runtime.ts'

/** `auto`: the fastest for the shape; `own`: never cuDNN; `mma`: the kernels of older cards; `cudnn`: only cuDNN's. */
export const ATTENTION_CHOICES = ['auto', 'own', 'mma', 'cudnn', 'simple'] as const
export type AttentionChoice = (typeof ATTENTION_CHOICES)[number]

type Family = Pick<Kernels, 'attention' | 'attentionBackward' | 'unrotatesAttention'>

export interface AttentionSettings {
  readonly cudnn: CudnnLibrary | undefined
  readonly choice: AttentionChoice
  readonly isDeterministic: boolean
}

/** @throws ConfigError when only cuDNN may be used and it is not there, or cannot do a shape */
export function attentionKernels(runtime: CudaRuntime, settings: AttentionSettings): Family {
  const { choice, isDeterministic } = settings
  const simple = attentionSimpleKernels(runtime)
  const mma = attentionMmaKernels(runtime)
  const isHopper = runtime.isHopper && (choice === 'auto' || choice === 'own')
  const forward = isHopper ? attentionHopperForward(runtime) : undefined
  const backward = isHopper ? attentionHopperBackward(runtime, { isDeterministic }) : undefined
  const cudnn = openCudnn(runtime, settings)
  const isAlone = choice === 'cudnn'
  const prefersCudnn = (pass: 'forward' | 'backward', q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) => {
    if (cudnn === undefined || !(isAlone || isCudnnFaster(pass, options))) return false
    const isSupported = pass === 'forward' ? cudnn.supports(q, k, v, options) : cudnn.supportsBackward(q, k, v, options)
    if (isAlone && !isSupported) {
      throw new ConfigError(
        `attention: cuDNN cannot do ${options.numHeads} heads of ${options.headDim} with these options: use attention auto`,
      )
    }
    return isSupported
  }
  const usesSimple = (q: Tensor, { headDim, softcap, bias }: AttentionOptions) =>
    choice === 'simple' || q.dtype === 'f32' || headDim > 256 || softcap !== undefined || bias !== undefined

  return {
    attention(out, lse, q, k, v, options) {
      if (usesSimple(q, options)) simple.attention(out, lse, q, k, v, options)
      else if (prefersCudnn('forward', q, k, v, options)) cudnn!.attention(out, lse, q, k, v, options)
      else if (forward?.supports(q, k, v, options)) forward.attention(out, lse, q, k, v, options)
      else mma.attention(out, lse, q, k, v, options)
    },
    attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options, dBias) {
      if (usesSimple(q, options)) simple.attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options, dBias)
      else if (prefersCudnn('backward', q, k, v, options)) {
        cudnn!.attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options)
      } else if (backward?.supports(q, k, v, options)) {
        backward.attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options)
      } else mma.attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options)
    },
    unrotatesAttention(q, k, v, options) {
      if (usesSimple(q, options) || prefersCudnn('backward', q, k, v, options)) return false
      return backward?.supports(q, k, v, options) === true && backward.unrotates(options)
    },
  }
}

function openCudnn(runtime: CudaRuntime, settings: AttentionSettings): AttentionCudnn | undefined {
  const { cudnn, choice, isDeterministic } = settings
  if (choice === 'cudnn' && cudnn === undefined) {
    throw new ConfigError(
      'attention: cudnn was asked for, but cuDNN is not on this machine: install it or use attention auto',
    )
  }
  if (cudnn === undefined || (choice !== 'cudnn' && choice !== 'auto')) return undefined
  return attentionCudnn(runtime, cudnn, { isDeterministic })
}

/**
 * Ours are as fast or faster on an H100 (docs/attention.md) but for gradients of heads of more than 128 columns, for which
 * we have none of our own for Hopper; those by mma.sync take 1.9 times as long as cuDNN's (heads of 256).
 */
function isCudnnFaster(pass: 'forward' | 'backward', { headDim }: AttentionOptions): boolean {
  return pass === 'backward' && headDim > 128
}
