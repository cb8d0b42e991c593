// What the training program does, as far as it decides about time: facts about a program, not constants that are fitted.
import { ConfigError } from '../../core/errors.ts'
import type { DeviceSpec } from '../devices.ts'
import { PRECISIONS, type PrecisionName } from '../precision.ts'
import type { Rails } from './collectives.ts'
import type { ProductPrecision } from './gemm.ts'

export interface Software {
  readonly name: string
  /** materialized: scores are written to memory; flash2, flash3: fused kernels that skip what a causal mask hides. */
  readonly attention: 'materialized' | 'flash2' | 'flash3'
  readonly hasDropout: boolean
  /** Whether element-wise operations in a row are one kernel (by hand or by a compiler). */
  readonly isFused: boolean
  /** Norms and residuals work on 1/t of the tokens between tensor-parallel regions (arXiv:2205.05198). */
  readonly hasSequenceParallel: boolean
  /** Where tensor-parallel communication runs beside products. */
  readonly overlapsTensor: 'none' | 'forward' | 'all'
  /** Gradients are reduced while the last micro-batch's backward runs. */
  readonly overlapsData: boolean
  /** Transfers between pipeline stages run beside computation. */
  readonly overlapsPipeline: boolean
  /** Tensor-parallel ranks send 1/t of an activation each, and gather it inside the receiving node. */
  readonly scattersPipeline: boolean
  /** Bytes of an element of the gradients that are reduced. */
  readonly gradientBytes: 2 | 4
  /** Bytes of an element of the buffer in which the gradients of micro-batches are summed. */
  readonly gradientSumBytes: 2 | 4
  /** Bytes read and written for a parameter by unscaling, clipping and the optimizer. */
  readonly optimizerTraffic: number
  /** Of the factors of linear layers' products; attention and the head are in 16 bits where these are in 8. */
  readonly linearPrecision: ProductPrecision
  /** Network adapters that the collectives of data-parallel ranks use. */
  readonly collectiveRails: Rails
  /** What selective recomputation does: attention's core (arXiv:2205.05198), or every second product and all else. */
  readonly selective: 'attention' | 'every-second-product'
}

/** Fused AdamW with f32 weights, moments and gradients, a norm for clipping, and a 16-bit copy of the weights. */
const FUSED_ADAMW_TRAFFIC = 38

/** What a present-day program does: also the default of a search. */
export const MODERN: Software = {
  name: 'modern',
  attention: 'flash3',
  hasDropout: false,
  isFused: true,
  hasSequenceParallel: true,
  overlapsTensor: 'none',
  overlapsData: true,
  overlapsPipeline: true,
  scattersPipeline: true,
  gradientBytes: 4,
  gradientSumBytes: 4,
  optimizerTraffic: FUSED_ADAMW_TRAFFIC,
  linearPrecision: 'bf16',
  collectiveRails: 'all',
  selective: 'attention',
}

/**
 * A present-day program in a precision recipe of the planner.
 * @throws ConfigError where the device has no products in that format
 */
export function modernSoftware(device: DeviceSpec, precision: PrecisionName, overlapsTensor: boolean): Software {
  const { format, gradientBytes } = PRECISIONS[precision]
  if (device.peakFlops[format] === undefined) {
    const works = (Object.keys(PRECISIONS) as PrecisionName[]).filter(
      (name) => device.peakFlops[PRECISIONS[name].format] !== undefined,
    )
    throw new ConfigError(
      `plan layout: ${device.name} has no products in ${format}, which ${precision} needs: --precision ${works.join(', ')} would work`,
    )
  }
  return {
    ...MODERN,
    linearPrecision: format,
    gradientBytes,
    gradientSumBytes: gradientBytes,
    overlapsTensor: overlapsTensor ? 'all' : 'none',
  }
}

/** Of everything that fp8 is not used for. */
export function otherPrecision({ linearPrecision }: Software): ProductPrecision {
  return linearPrecision === 'fp8' ? 'bf16' : linearPrecision
}

/**
 * Megatron-LM as of arXiv:2104.04473: fp16, scores in memory with a fused masked softmax, dropout, nothing overlapped
 * (`--DDP-impl local`), unscaling, overflow check, norm, clipping and Adam as separate passes, with NCCL 2.9 on DGX A100.
 */
export const MEGATRON_2021: Software = {
  ...MODERN,
  name: 'Megatron-LM 2021',
  attention: 'materialized',
  hasDropout: true,
  hasSequenceParallel: false,
  overlapsData: false,
  overlapsPipeline: false,
  gradientBytes: 2,
  gradientSumBytes: 2,
  linearPrecision: 'fp16',
  optimizerTraffic: 62,
  collectiveRails: 'contended',
}

/** The same with torch's DistributedDataParallel (`--DDP-impl torch`), which overlaps. */
export const MEGATRON_2021_TORCH_DDP: Software = { ...MEGATRON_2021, overlapsData: true }

/** Megatron's model under DeepSpeed ZeRO-3, as in table 2 of arXiv:2104.04473. */
export const ZERO3_2021: Software = {
  ...MEGATRON_2021,
  name: 'ZeRO-3 2021',
  overlapsData: true,
  collectiveRails: 'one',
}

/** Megatron-LM as of arXiv:2205.05198: sequence parallelism, and selective recomputation of the scores. */
export const MEGATRON_2022: Software = { ...MEGATRON_2021, name: 'Megatron-LM 2022', hasSequenceParallel: true }

/** Meta's trainer of Llama 3 405B (arXiv:2407.21783 section 3.3): f32 gradients, asynchronous transfers, sharded states. */
export const LLAMA_3: Software = { ...MODERN, name: 'Llama 3' }

/** torchtitan (arXiv:2410.06511) with torch.compile: bf16 products, f32 gradients, SDPA by FlashAttention-2. */
export const TORCHTITAN: Software = {
  ...MODERN,
  name: 'torchtitan',
  attention: 'flash2',
  overlapsPipeline: false,
  selective: 'every-second-product',
}

/** ... without the compiler: a kernel an operation. */
export const TORCHTITAN_EAGER: Software = { ...TORCHTITAN, name: 'torchtitan, eager', isFused: false }

/** ... with linear layers in fp8. */
export const TORCHTITAN_FLOAT8: Software = { ...TORCHTITAN, name: 'torchtitan, Float8', linearPrecision: 'fp8' }

/** ... and async TP, which was measured 20 to 29 % faster in the forward and 8 % end to end (PyTorch's announcement): the forward's. */
export const TORCHTITAN_FLOAT8_ASYNC: Software = {
  ...TORCHTITAN_FLOAT8,
  name: 'torchtitan, Float8, async TP',
  overlapsTensor: 'forward',
}
