// The Llama family (Llama 2/3, TinyLlama, stories): RMSNorm before each branch, rotary positions, grouped-query
// attention, SwiGLU, no biases, head tied to the embedding or not. One file, read top to bottom.
import type { LlamaWeights } from '../core/decode-plan.ts'
import { ConfigError } from '../core/errors.ts'
import type { Parameter } from '../core/parameter.ts'
import { block } from '../core/tape.ts'
import type { Tensor } from '../core/tensor.ts'
import { Embedding, Linear } from '../nn/linear.ts'
import { RmsNorm } from '../nn/norm.ts'
import { type RopeScaling, RotaryEmbedding } from '../nn/rotary.ts'
import { add } from '../ops/add.ts'
import { attention } from '../ops/attention.ts'
import { rope } from '../ops/rope.ts'
import { swiglu } from '../ops/swiglu.ts'
import { addBranch, type DecoderInputs, type DecoderModel, type DecoderShape } from './decoder.ts'

/** config.json of a Llama model, names in camelCase. */
export interface LlamaConfig {
  modelType: 'llama'
  vocabSize: number
  hiddenSize: number
  intermediateSize: number
  numHiddenLayers: number
  numAttentionHeads: number
  numKeyValueHeads: number
  headDim: number
  maxPositionEmbeddings: number
  rmsNormEps: number
  ropeTheta: number
  ropeScaling?: RopeScaling
  tieWordEmbeddings: boolean
  /** Standard deviation of the initial weights; projections into the residual stream get it / sqrt(2 L). */
  initializerRange: number
  bosTokenId?: number
  eosTokenId?: number
}

class LlamaAttention {
  readonly qkvProj: Linear
  readonly oProj: Linear
  readonly #config: LlamaConfig

  constructor(config: LlamaConfig) {
    const { hiddenSize, headDim, numAttentionHeads, numKeyValueHeads } = config
    this.#config = config
    this.qkvProj = new Linear(
      hiddenSize,
      { qProj: numAttentionHeads * headDim, kProj: numKeyValueHeads * headDim, vProj: numKeyValueHeads * headDim },
      { init: { normal: config.initializerRange } },
    )
    this.oProj = new Linear(
      numAttentionHeads * headDim,
      { oProj: hiddenSize },
      { init: { normal: residualInit(config) } },
    )
  }

  /** Everything up to the output projection, which the layer adds to the residual stream. */
  mix(x: Tensor, layer: number, rotary: RotaryEmbedding, inputs: DecoderInputs): Tensor {
    const { headDim, numAttentionHeads: heads, numKeyValueHeads: kvHeads } = this.#config
    const qkv = rope(this.qkvProj.forward(x), inputs.positions, rotary, { numHeads: heads + kvHeads, headDim })
    const q = qkv.columns(0, heads * headDim)
    const k = qkv.columns(heads * headDim, kvHeads * headDim)
    const v = qkv.columns((heads + kvHeads) * headDim, kvHeads * headDim)
    const options = { numHeads: heads, numKeyValueHeads: kvHeads }
    if (inputs.cache) return inputs.cache.attend(layer, q, k, v, options)
    return attention(q, k, v, { ...options, docStart: inputs.docStart })
  }
}

class LlamaMlp {
  readonly gateUpProj: Linear
  readonly downProj: Linear

  constructor(config: LlamaConfig) {
    const { hiddenSize, intermediateSize } = config
    this.gateUpProj = new Linear(
      hiddenSize,
      { gateProj: intermediateSize, upProj: intermediateSize },
      { init: { normal: config.initializerRange } },
    )
    this.downProj = new Linear(intermediateSize, { downProj: hiddenSize }, { init: { normal: residualInit(config) } })
  }

  /** Everything up to the down projection, which the layer adds to the residual stream. */
  activate(x: Tensor): Tensor {
    const { gateUpProj, downProj } = this
    return swiglu(gateUpProj.forward(x), { from: gateUpProj.weight, to: downProj.weight })
  }
}

class LlamaLayer {
  readonly inputLayernorm: RmsNorm
  readonly selfAttn: LlamaAttention
  readonly postAttentionLayernorm: RmsNorm
  readonly mlp: LlamaMlp

  constructor(config: LlamaConfig) {
    this.inputLayernorm = new RmsNorm('inputLayernorm', config.hiddenSize, config.rmsNormEps)
    this.selfAttn = new LlamaAttention(config)
    this.postAttentionLayernorm = new RmsNorm('postAttentionLayernorm', config.hiddenSize, config.rmsNormEps)
    this.mlp = new LlamaMlp(config)
  }

  forward(h: Tensor, layer: number, rotary: RotaryEmbedding, inputs: DecoderInputs): Tensor {
    const { selfAttn, mlp } = this
    const mixed = selfAttn.mix(this.inputLayernorm.forward(h, selfAttn.qkvProj), layer, rotary, inputs)
    const h1 = addBranch((r) => selfAttn.oProj.forward(mixed, r), h, inputs.dropout, `layers.${layer}.attention`, add)
    const activated = mlp.activate(this.postAttentionLayernorm.forward(h1, mlp.gateUpProj))
    return addBranch((r) => mlp.downProj.forward(activated, r), h1, inputs.dropout, `layers.${layer}.mlp`, add)
  }
}

/** Decoder-only transformer; the constructor makes shapes only (see nn/module.ts, `materialize`). */
export class Llama implements DecoderModel {
  readonly config: LlamaConfig
  readonly model: { embedTokens: Embedding; layers: Map<number, LlamaLayer>; norm: RmsNorm }
  readonly lmHead: Linear | undefined
  readonly rotary: RotaryEmbedding

  /** @throws ConfigError if heads and widths do not fit together */
  constructor(config: LlamaConfig) {
    checkHeads(config)
    this.config = config
    const { vocabSize, hiddenSize } = config
    this.model = {
      embedTokens: new Embedding('embedTokens', vocabSize, hiddenSize, { normal: config.initializerRange }),
      layers: new Map(Array.from({ length: config.numHiddenLayers }, (_, i) => [i, new LlamaLayer(config)])),
      norm: new RmsNorm('norm', hiddenSize, config.rmsNormEps),
    }
    if (!config.tieWordEmbeddings) {
      this.lmHead = new Linear(hiddenSize, { lmHead: vocabSize }, { init: { normal: config.initializerRange } })
    }
    this.rotary = new RotaryEmbedding(
      config.headDim,
      config.maxPositionEmbeddings,
      config.ropeTheta,
      config.ropeScaling,
    )
  }

  get shape(): DecoderShape {
    return this.config
  }

  get headWeight(): Parameter {
    return this.lmHead?.weight ?? this.model.embedTokens.weight
  }

  llamaWeights(): LlamaWeights {
    const { headDim, intermediateSize, numAttentionHeads: numHeads, numKeyValueHeads, rmsNormEps: eps } = this.config
    const { embedTokens, layers, norm } = this.model
    return {
      table: embedTokens.weight,
      layers: [...layers.values()].map(({ inputLayernorm, selfAttn, postAttentionLayernorm, mlp }) => ({
        inputNorm: inputLayernorm.weight,
        qkv: selfAttn.qkvProj.weight,
        o: selfAttn.oProj.weight,
        postNorm: postAttentionLayernorm.weight,
        gateUp: mlp.gateUpProj.weight,
        down: mlp.downProj.weight,
      })),
      norm: norm.weight,
      head: this.headWeight,
      cos: this.rotary.cos,
      sin: this.rotary.sin,
      numHeads,
      numKeyValueHeads,
      headDim,
      intermediateSize,
      eps,
    }
  }

  forward(inputs: DecoderInputs): Tensor {
    let h = this.model.embedTokens.forward(inputs.tokens) // [B, T, D]
    if (inputs.dropout) h = inputs.dropout.apply(h, 'embedTokens')
    for (const [index, layer] of this.model.layers) {
      const x = h
      h = block(() => layer.forward(x, index, this.rotary, inputs))
    }
    inputs.cache?.advance(inputs.tokens.shape[1]!)
    return this.model.norm.forward(h)
  }
}

function residualInit(config: LlamaConfig): number {
  return config.initializerRange / Math.sqrt(2 * config.numHiddenLayers)
}

function checkHeads(config: LlamaConfig): void {
  const { numAttentionHeads, numKeyValueHeads, headDim } = config
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    throw new ConfigError(
      `llama: numAttentionHeads must be a multiple of numKeyValueHeads, got ${numAttentionHeads} and ${numKeyValueHeads}`,
    )
  }
  if (headDim % 2 !== 0) throw new ConfigError(`llama: headDim must be even for rotary positions, got ${headDim}`)
}
