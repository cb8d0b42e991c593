// What a layer keeps between forward and backward, in closed form (Korthikanti et al. 2022, arXiv:2205.05198, section 4,
// extended to gated MLPs, grouped queries, latent attention and experts). This program's own activations are planned
// exactly, by a dry run; these are for models and clusters that it does not run.
import type { Architecture } from './architecture.ts'
import type { RecomputePolicy } from './flops.ts'
import type { Parallelism } from './parallel.ts'

export interface ActivationSetup {
  readonly microBatchSize: number
  readonly seqLen: number
  readonly recompute: RecomputePolicy
  /** unfused: probabilities of all T^2 pairs are kept; flash: one sum a row (Dao et al. 2022, arXiv:2205.14135). */
  readonly attention: 'flash' | 'unfused'
  /** With dropout, masks of one byte are kept, and in unfused attention the probabilities a second time. */
  readonly hasDropout: boolean
  /** Of an element. */
  readonly bytes: number
}

/** Bytes on one device. */
export interface LayerActivations {
  /** What is left of a layer under full recomputation: its input. */
  readonly input: number
  /** Scores, probabilities and their masks, or the sums that flash attention keeps: dropped by `selective` if unfused. */
  readonly core: number
  /** Everything. */
  readonly total: number
}

/** One layer and one micro-batch. @param isMoe  whether the layer has experts */
export function layerActivations(
  model: Architecture,
  setup: ActivationSetup,
  { tensor, context, sequence }: Pick<Parallelism, 'tensor' | 'context' | 'sequence'>,
  isMoe = false,
): LayerActivations {
  const { hiddenSize } = model
  const { bytes, hasDropout, microBatchSize, seqLen } = setup
  const tokens = (microBatchSize * seqLen) / context
  const wholePart = sequence ? 1 / tensor : 1
  const norms = model.normsPerLayer === 1 ? 1 : 2
  const masks = hasDropout ? 2 * hiddenSize : 0
  // Inputs of norms and of the two branches, and dropout masks: whole on each device without sequence parallelism.
  const outside = wholePart * (2 * norms * bytes * hiddenSize + masks)
  const { projected, core } = attentionActivations(model, setup)
  const mlp = isMoe ? expertActivations(model, bytes) : mlpActivations(model, model.intermediateSize, bytes)
  return {
    input: tokens * wholePart * bytes * hiddenSize,
    core: (tokens * core) / tensor,
    total: tokens * (outside + (projected + core + mlp) / tensor),
  }
}

/** Bytes a token, all heads: queries, keys, values and output; and what lies between them. */
function attentionActivations(model: Architecture, setup: ActivationSetup): { projected: number; core: number } {
  const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim, latentAttention: latent } = model
  const { bytes, attention, hasDropout, seqLen } = setup
  const pairBytes = hasDropout ? 2 * bytes + 1 : bytes
  const core = attention === 'unfused' ? heads * seqLen * pairBytes : 4 * heads
  if (latent === undefined) return { projected: bytes * headDim * (2 * heads + 2 * kvHeads), core }
  const { queryRank, keyValueRank, contentDim, rotaryDim, valueDim } = latent
  const perHead = 2 * (contentDim + rotaryDim) + 2 * valueDim
  return { projected: bytes * (heads * perHead + queryRank + keyValueRank + rotaryDim), core }
}

/** Bytes a token: input and output of the activation function. */
function mlpActivations({ isGated }: Architecture, width: number, bytes: number): number {
  return (isGated ? 3 : 2) * bytes * width
}

/** Bytes a token, balanced over the experts: tokens sent out and coming back, probabilities, and what the MLPs keep. */
function expertActivations(model: Architecture, bytes: number): number {
  const experts = model.experts!
  const travelling = 2 * bytes * model.hiddenSize * experts.active
  const routed = experts.active * mlpActivations(model, experts.intermediateSize, bytes)
  return travelling + 4 * experts.count + routed + mlpActivations(model, experts.sharedIntermediateSize, bytes)
}

/** What is kept of a layer until its backward. */
export function keptBytes(layer: LayerActivations, { recompute, attention }: ActivationSetup): number {
  if (recompute === 'full') return layer.input
  return recompute === 'selective' && attention === 'unfused' ? layer.total - layer.core : layer.total
}

/** Last norm, head and loss: the norm's and the head's input, and logits in fp32, which are cut over tensor parallelism. */
export function headActivations(
  model: Architecture,
  { bytes, microBatchSize, seqLen }: ActivationSetup,
  { tensor, context, sequence }: Pick<Parallelism, 'tensor' | 'context' | 'sequence'>,
): { readonly inputs: number; readonly logits: number } {
  const tokens = (microBatchSize * seqLen) / context
  return {
    inputs: (tokens * 2 * bytes * model.hiddenSize) / (sequence ? tensor : 1),
    logits: (tokens * 4 * model.vocabSize) / tensor,
  }
}
