// The sizes of a decoder-only transformer, of our own or published by others, and its exact parameter count by component.
// Field names are those of models/decoder.ts. Presets are in presets.ts, config.json is read in hf-architecture.ts.
import { ConfigError } from '../core/errors.ts'

/** Latent attention of DeepSeek-V2/V3 (arXiv:2405.04434 section 2.1): queries, keys and values through low ranks. */
export interface LatentAttention {
  /** 0: queries without a low rank. */
  readonly queryRank: number
  readonly keyValueRank: number
  /** Per head, without positions. */
  readonly contentDim: number
  /** Per head of queries, shared by all heads of keys. */
  readonly rotaryDim: number
  /** Per head. */
  readonly valueDim: number
}

export interface Experts {
  /** Routed experts of a layer. */
  readonly count: number
  /** Routed experts that a token goes through. */
  readonly active: number
  /** Experts that every token goes through; one of `sharedIntermediateSize` together. */
  readonly sharedIntermediateSize: number
  /** Width of one routed expert. */
  readonly intermediateSize: number
  /** Layers at the start that have the dense MLP instead. */
  readonly denseLayers: number
  /** A bias for each expert in the router (DeepSeek-V3's balancing). */
  readonly hasRouterBias: boolean
}

export interface Architecture {
  readonly name: string
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly numHiddenLayers: number
  readonly numAttentionHeads: number
  readonly numKeyValueHeads: number
  readonly headDim: number
  /** Of the dense MLP. */
  readonly intermediateSize: number
  readonly maxPositionEmbeddings: number
  /** Three matrices (SwiGLU, GeGLU) instead of two. */
  readonly isGated: boolean
  readonly tieWordEmbeddings: boolean
  /** relative: Transformer-XL's, with a projection of hiddenSize x heads x headDim a layer (Gopher, Chinchilla). */
  readonly positions: 'learned' | 'rotary' | 'alibi' | 'relative' | 'none'
  /** layernorm has a bias beside its weight; `none` has neither (OLMo 1). */
  readonly norm: 'rmsnorm' | 'layernorm' | 'layernorm-no-bias' | 'none'
  /** 2; 1 where branches run in parallel (PaLM), 4 with norms after them too (Gemma 2). */
  readonly normsPerLayer: number
  /** A norm after the embedding (BLOOM). */
  readonly hasEmbeddingNorm: boolean
  /** Norms of headDim on queries and keys (Qwen 3). */
  readonly hasQkNorm: boolean
  readonly attentionBias: 'none' | 'qkv' | 'all'
  readonly hasMlpBias: boolean
  readonly latentAttention?: LatentAttention
  readonly experts?: Experts
}

/** What must be said of a model; the rest is that of a Llama. */
export type ArchitectureInput = Pick<
  Architecture,
  'name' | 'vocabSize' | 'hiddenSize' | 'numHiddenLayers' | 'numAttentionHeads' | 'intermediateSize'
> &
  Partial<Architecture>

/** GPT-2 and what was made like it: learned positions, LayerNorm, GELU of two matrices, biases, tied head. */
export const GPT_STYLE = {
  isGated: false,
  tieWordEmbeddings: true,
  positions: 'learned',
  norm: 'layernorm',
  attentionBias: 'all',
  hasMlpBias: true,
} as const satisfies Partial<Architecture>

/** Fills in what a Llama has. @throws ConfigError for sizes that no model can have */
export function architecture(input: ArchitectureInput): Architecture {
  const { hiddenSize, numAttentionHeads } = input
  const complete: Architecture = {
    numKeyValueHeads: numAttentionHeads,
    headDim: hiddenSize / numAttentionHeads,
    maxPositionEmbeddings: 2048,
    isGated: true,
    tieWordEmbeddings: false,
    positions: 'rotary',
    norm: 'rmsnorm',
    normsPerLayer: 2,
    hasEmbeddingNorm: false,
    hasQkNorm: false,
    attentionBias: 'none',
    hasMlpBias: false,
    ...input,
  }
  checkArchitecture(complete)
  return complete
}

function checkArchitecture(model: Architecture): void {
  const sizes = [
    'vocabSize',
    'hiddenSize',
    'numHiddenLayers',
    'numAttentionHeads',
    'numKeyValueHeads',
    'intermediateSize',
    'maxPositionEmbeddings',
  ] as const
  for (const size of sizes) {
    if (!Number.isSafeInteger(model[size]) || model[size] < 1) {
      throw new ConfigError(`plan: ${model.name}: ${size} must be a whole number of at least 1, got ${model[size]}`)
    }
  }
  const { hiddenSize, numAttentionHeads, numKeyValueHeads, headDim, experts } = model
  if (!Number.isInteger(headDim)) {
    throw new ConfigError(
      `plan: ${model.name}: hiddenSize must be a multiple of numAttentionHeads, got ${hiddenSize} and ${numAttentionHeads}; give headDim, or take a width of ${nearestMultiple(hiddenSize, numAttentionHeads)}`,
    )
  }
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    throw new ConfigError(
      `plan: ${model.name}: numAttentionHeads must be a multiple of numKeyValueHeads, got ${numAttentionHeads} and ${numKeyValueHeads}`,
    )
  }
  if (experts !== undefined && (experts.active > experts.count || experts.active < 1)) {
    throw new ConfigError(
      `plan: ${model.name}: active experts must be from 1 to the ${experts.count} there are, got ${experts.active}`,
    )
  }
}

function nearestMultiple(value: number, of: number): number {
  return Math.max(1, Math.round(value / of)) * of
}

/** Parameters by component. Those of layers are sums over all layers. */
export interface ParameterCounts {
  /** Token embedding. */
  readonly embedding: number
  /** Learned positions. */
  readonly positions: number
  readonly attention: number
  /** Dense MLPs and shared experts. */
  readonly mlp: number
  /** Routed experts. */
  readonly experts: number
  readonly router: number
  readonly norms: number
  /** 0 where it is tied to the embedding. */
  readonly head: number
  readonly total: number
  /** Those that one token goes through: all but the routed experts that it is not sent to. */
  readonly active: number
  /** Without token embedding, positions and head: Kaplan's N (arXiv:2001.08361 section 2.1, which drops norms and biases too). */
  readonly nonEmbedding: number
}

export function countParameters(model: Architecture): ParameterCounts {
  const { vocabSize, hiddenSize, numHiddenLayers: layers, experts } = model
  const embedding = vocabSize * hiddenSize
  const positions = model.positions === 'learned' ? model.maxPositionEmbeddings * hiddenSize : 0
  const head = model.tieWordEmbeddings ? 0 : embedding
  const moeLayers = experts === undefined ? 0 : layers - experts.denseLayers
  const attention = layers * attentionParameters(model)
  const dense = (layers - moeLayers) * mlpParameters(model, model.intermediateSize)
  const shared =
    experts === undefined || experts.sharedIntermediateSize === 0
      ? 0
      : moeLayers * mlpParameters(model, experts.sharedIntermediateSize)
  const expert = experts === undefined ? 0 : mlpParameters(model, experts.intermediateSize)
  const routed = moeLayers * (experts?.count ?? 0) * expert
  const router = experts === undefined ? 0 : moeLayers * experts.count * (hiddenSize + (experts.hasRouterBias ? 1 : 0))
  const norms = layers * normParametersOfLayer(model) + (model.hasEmbeddingNorm ? 2 : 1) * normParameters(model)
  const mlp = dense + shared
  const nonEmbedding = attention + mlp + routed + router + norms
  const total = embedding + positions + head + nonEmbedding
  const idle = moeLayers * ((experts?.count ?? 0) - (experts?.active ?? 0)) * expert
  return {
    embedding,
    positions,
    attention,
    mlp,
    experts: routed,
    router,
    norms,
    head,
    total,
    active: total - idle,
    nonEmbedding,
  }
}

/** Weights and biases of one layer's attention, without norms on queries and keys. */
export function attentionParameters(model: Architecture): number {
  const { hiddenSize, headDim, numAttentionHeads: heads, numKeyValueHeads: kvHeads, attentionBias } = model
  const latent = model.latentAttention
  if (latent !== undefined) return latentAttentionParameters(hiddenSize, heads, latent)
  const [queries, keys] = [heads * headDim, kvHeads * headDim]
  const weights = hiddenSize * (2 * queries + 2 * keys)
  const bias = attentionBias === 'none' ? 0 : queries + 2 * keys + (attentionBias === 'all' ? hiddenSize : 0)
  const relative = model.positions === 'relative' ? hiddenSize * queries : 0
  return weights + bias + relative
}

/** The norms of both low ranks are counted in. */
function latentAttentionParameters(hiddenSize: number, heads: number, latent: LatentAttention): number {
  const { queryRank, keyValueRank, contentDim, rotaryDim, valueDim } = latent
  const queryDim = heads * (contentDim + rotaryDim)
  const queries = queryRank === 0 ? hiddenSize * queryDim : hiddenSize * queryRank + queryRank + queryRank * queryDim
  const down = hiddenSize * (keyValueRank + rotaryDim) + keyValueRank
  const up = keyValueRank * heads * (contentDim + valueDim)
  return queries + down + up + heads * valueDim * hiddenSize
}

/** One dense MLP, or one expert, of this width. */
export function mlpParameters({ hiddenSize, isGated, hasMlpBias }: Architecture, width: number): number {
  const matrices = (isGated ? 3 : 2) * hiddenSize * width
  const bias = hasMlpBias ? (isGated ? 2 : 1) * width + hiddenSize : 0
  return matrices + bias
}

/** One norm over the residual stream. */
export function normParameters({ hiddenSize, norm }: Architecture): number {
  if (norm === 'none') return 0
  return norm === 'layernorm' ? 2 * hiddenSize : hiddenSize
}

/** All norms of one layer. */
export function normParametersOfLayer(model: Architecture): number {
  return model.normsPerLayer * normParameters(model) + (model.hasQkNorm ? 2 * model.headDim : 0)
}
