// Floating-point operations of a decoder, in closed form: by part of the model, forward and training, under the
// conventions of the papers that report them. A multiply-add counts two. The count op by op, by a dry run of the real
// model, is in dry-run.ts; a test holds the two equal.
import { type Architecture, countParameters, mlpParameters } from './architecture.ts'

/** Which query-key pairs are counted: those that a causal mask leaves, or all T^2 as most papers do. */
export type AttentionMask = 'causal' | 'full'

/** FLOPs of matrix products by what they are for. */
export interface FlopsByPart {
  /** Projections to queries, keys, values, and back. */
  readonly projections: number
  /** Scores and weighted values: the part that grows with the square of the sequence. */
  readonly attention: number
  /** Dense MLPs and shared experts. */
  readonly mlp: number
  /** Routed experts that tokens are sent to. */
  readonly experts: number
  readonly router: number
  /** Logits. The look-up of embeddings has no product. */
  readonly head: number
  readonly total: number
}

/** Query-key pairs of one sequence and head. */
export function attentionPairs(seqLen: number, mask: AttentionMask): number {
  return mask === 'full' ? seqLen * seqLen : (seqLen * (seqLen + 1)) / 2
}

/** Forward pass over one sequence of `seqLen` tokens. */
export function forwardFlops(model: Architecture, seqLen: number, mask: AttentionMask = 'causal'): FlopsByPart {
  const { hiddenSize, numHiddenLayers: layers, numAttentionHeads: heads, experts, latentAttention: latent } = model
  const moeLayers = experts === undefined ? 0 : layers - experts.denseLayers
  const perWeight = 2 * seqLen
  const weightsOf = (width: number): number => (width === 0 ? 0 : mlpParameters({ ...model, hasMlpBias: false }, width))
  const projections = perWeight * layers * projectionWeights(model)
  const queryDim = latent === undefined ? model.headDim : latent.contentDim + latent.rotaryDim
  const valueDim = latent === undefined ? model.headDim : latent.valueDim
  const attention = 2 * layers * heads * (queryDim + valueDim) * attentionPairs(seqLen, mask)
  const dense = (layers - moeLayers) * weightsOf(model.intermediateSize)
  const shared = moeLayers * weightsOf(experts?.sharedIntermediateSize ?? 0)
  const mlp = perWeight * (dense + shared)
  const routed = perWeight * moeLayers * (experts?.active ?? 0) * weightsOf(experts?.intermediateSize ?? 0)
  const router = perWeight * moeLayers * (experts?.count ?? 0) * hiddenSize
  const head = perWeight * model.vocabSize * hiddenSize
  const total = projections + attention + mlp + routed + router + head
  return { projections, attention, mlp, experts: routed, router, head, total }
}

/** Weights of one layer's attention that are multiplied by every token. */
function projectionWeights(model: Architecture): number {
  const { hiddenSize, headDim, numAttentionHeads: heads, numKeyValueHeads: kvHeads, latentAttention: latent } = model
  if (latent === undefined) {
    const relative = model.positions === 'relative' ? hiddenSize * heads * headDim : 0
    return hiddenSize * headDim * 2 * (heads + kvHeads) + relative
  }
  const { queryRank, keyValueRank, contentDim, rotaryDim, valueDim } = latent
  const queryDim = heads * (contentDim + rotaryDim)
  const queries = queryRank === 0 ? hiddenSize * queryDim : queryRank * (hiddenSize + queryDim)
  const keyValues = hiddenSize * (keyValueRank + rotaryDim) + keyValueRank * heads * (contentDim + valueDim)
  return queries + keyValues + heads * valueDim * hiddenSize
}

export type RecomputePolicy = 'none' | 'selective' | 'full'

export interface TrainingFlops {
  /** What the mathematics needs: forward and twice as much backward. MFU counts these. */
  readonly model: number
  /** What is computed, activations that are made again included. HFU counts these. */
  readonly hardware: number
}

export interface TrainingWork {
  readonly recompute?: RecomputePolicy
  readonly mask?: AttentionMask
  /** Parameters of adapters, which alone are trained: the model's own weights need no gradients. */
  readonly adapterParameters?: number
}

/**
 * Training FLOPs of one token, in sequences of `seqLen`.
 * @param work.recompute  selective makes scores and weighted values again, full a whole layer (Korthikanti et al. 2022,
 *   arXiv:2205.05198); the head is never made again
 */
export function trainingFlopsPerToken(
  model: Architecture,
  seqLen: number,
  { recompute = 'none', mask = 'causal', adapterParameters }: TrainingWork = {},
): TrainingFlops {
  const { attention, head, total } = forwardFlops(model, seqLen, mask)
  const backward = adapterParameters === undefined ? 2 * total : total + attention + 6 * adapterParameters * seqLen
  const again = { none: 0, selective: attention, full: total - head }[recompute]
  return { model: (total + backward) / seqLen, hardware: (total + backward + again) / seqLen }
}

/** Rules by which papers report the FLOPs of training on D tokens. */
export const CONVENTIONS = {
  /** 6 N D with all parameters that a token goes through (GPT-3's table D.1, Llama). */
  '6ND': (model: Architecture) => 6 * countParameters(model).active,
  /** Without embeddings, positions and head (Kaplan et al. 2020, arXiv:2001.08361). */
  '6ND-non-embedding': (model: Architecture) => {
    const { active, embedding, positions, head } = countParameters(model)
    return 6 * (active - embedding - positions - head)
  },
  /** 6 N + 12 L H Q T: all parameters and the whole square of attention (Chowdhery et al. 2022, arXiv:2204.02311, B). */
  palm: (model: Architecture, seqLen: number) => {
    const { numHiddenLayers, numAttentionHeads, headDim } = model
    return 6 * countParameters(model).active + 12 * numHiddenLayers * numAttentionHeads * headDim * seqLen
  },
  /**
   * Layers only, the whole square and softmax, neither embeddings nor logits: what reproduces all six ratios of table A4
   * of Hoffmann et al. 2022 (arXiv:2203.15556). Their appendix F lists embeddings and logits too; the table has none.
   */
  chinchilla: (model: Architecture, seqLen: number) => {
    const { projections, attention, mlp, experts } = forwardFlops({ ...model, positions: 'none' }, seqLen, 'full')
    const softmax = 3 * model.numHiddenLayers * model.numAttentionHeads * seqLen * seqLen
    return (3 * (projections + attention + mlp + experts + softmax)) / seqLen
  },
  /** Products only, the whole square, each layer's forward run twice (Narayanan et al. 2021, arXiv:2104.04473, eq. 3). */
  'megatron-recomputed': (model: Architecture, seqLen: number) =>
    trainingFlopsPerToken(model, seqLen, { recompute: 'full', mask: 'full' }).hardware,
  /** Products only, with the pairs that a causal mask leaves: what is least needed. */
  exact: (model: Architecture, seqLen: number) => trainingFlopsPerToken(model, seqLen).model,
} satisfies Record<string, (model: Architecture, seqLen: number) => number>

export type Convention = keyof typeof CONVENTIONS

/** FLOPs of training on `tokens` in sequences of `seqLen`, by the rule of a paper. */
export function trainingFlops(convention: Convention, model: Architecture, seqLen: number, tokens: number): number {
  return CONVENTIONS[convention](model, seqLen) * tokens
}

/** Model FLOPs utilization (Chowdhery et al. 2022, arXiv:2204.02311, appendix B). */
export function mfu(flopsPerToken: number, tokensPerSecond: number, devices: number, peakFlops: number): number {
  return (flopsPerToken * tokensPerSecond) / (devices * peakFlops)
}
