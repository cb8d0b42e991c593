// GPT-2: learned positions, LayerNorm before each branch, fused q|k|v, GELU, biases everywhere, head tied to the
// embedding. Linear weights are stored [in, out] (Conv1D), as in its published files.
import { ConfigError } from '../core/errors.ts'
import type { Parameter } from '../core/parameter.ts'
import { block } from '../core/tape.ts'
import type { Tensor } from '../core/tensor.ts'
import { Embedding, Linear } from '../nn/linear.ts'
import { LayerNorm } from '../nn/norm.ts'
import { add } from '../ops/add.ts'
import { attention } from '../ops/attention.ts'
import { gelu } from '../ops/gelu.ts'
import { geluMlp } from '../ops/gelu-mlp.ts'
import { addBranch, type DecoderInputs, type DecoderModel, type DecoderShape } from './decoder.ts'

/** config.json of GPT-2 under the common names (n_embd is hiddenSize ...; checkpoint/names.ts holds the rows). */
export interface Gpt2Config {
  modelType: 'gpt2'
  vocabSize: number
  hiddenSize: number
  intermediateSize: number
  numHiddenLayers: number
  numAttentionHeads: number
  maxPositionEmbeddings: number
  layerNormEps: number
  /** 'gelu_new' is the tanh approximation of the published models; 'gelu' is exact. */
  activationFunction: 'gelu_new' | 'gelu'
  /** Standard deviation of the initial weights; projections into the residual stream get it / sqrt(2 L). */
  initializerRange: number
  bosTokenId?: number
  eosTokenId?: number
}

class Gpt2Attention {
  readonly cAttn: Linear
  readonly cProj: Linear
  readonly #config: Gpt2Config

  constructor(config: Gpt2Config) {
    const { hiddenSize: width, initializerRange } = config
    this.#config = config
    this.cAttn = conv1d(width, 'cAttn', 3 * width, initializerRange)
    this.cProj = conv1d(width, 'cProj', width, residualInit(config))
  }

  mix(x: Tensor, layer: number, inputs: DecoderInputs): Tensor {
    const { hiddenSize: width, numAttentionHeads: numHeads } = this.#config
    const qkv = this.cAttn.forward(x)
    const q = qkv.columns(0, width)
    const k = qkv.columns(width, width)
    const v = qkv.columns(2 * width, width)
    if (inputs.cache) return inputs.cache.attend(layer, q, k, v, { numHeads, numKeyValueHeads: numHeads })
    return attention(q, k, v, { numHeads, docStart: inputs.docStart })
  }
}

class Gpt2Mlp {
  readonly cFc: Linear
  readonly cProj: Linear
  readonly #isExact: boolean

  constructor(config: Gpt2Config) {
    this.cFc = conv1d(config.hiddenSize, 'cFc', config.intermediateSize, config.initializerRange)
    this.cProj = conv1d(config.intermediateSize, 'cProj', config.hiddenSize, residualInit(config))
    this.#isExact = config.activationFunction === 'gelu'
  }

  forward(x: Tensor, residual?: Tensor): Tensor {
    const { cFc, cProj } = this
    if (this.#isExact) return cProj.forward(gelu(cFc.forward(x), 'none'), residual)
    return geluMlp(x, { weight: cFc.weight, bias: cFc.bias! }, { weight: cProj.weight, bias: cProj.bias! }, residual)
  }
}

class Gpt2Layer {
  readonly ln1: LayerNorm
  readonly attn: Gpt2Attention
  readonly ln2: LayerNorm
  readonly mlp: Gpt2Mlp

  constructor(config: Gpt2Config) {
    this.ln1 = new LayerNorm('ln1', config.hiddenSize, config.layerNormEps)
    this.attn = new Gpt2Attention(config)
    this.ln2 = new LayerNorm('ln2', config.hiddenSize, config.layerNormEps)
    this.mlp = new Gpt2Mlp(config)
  }

  forward(h: Tensor, layer: number, inputs: DecoderInputs): Tensor {
    const { attn, mlp } = this
    const mixed = attn.mix(this.ln1.forward(h, attn.cAttn), layer, inputs)
    const h1 = addBranch((r) => attn.cProj.forward(mixed, r), h, inputs.dropout, `h.${layer}.attention`, add)
    const normed = this.ln2.forward(h1, mlp.cFc)
    return addBranch((r) => mlp.forward(normed, r), h1, inputs.dropout, `h.${layer}.mlp`, add)
  }
}

/** Decoder-only transformer; the constructor makes shapes only (see nn/module.ts, `materialize`). */
export class Gpt2 implements DecoderModel {
  readonly config: Gpt2Config
  readonly transformer: { wte: Embedding; wpe: Embedding; h: Map<number, Gpt2Layer>; lnF: LayerNorm }

  /** @throws ConfigError if the heads do not divide the width */
  constructor(config: Gpt2Config) {
    if (config.hiddenSize % config.numAttentionHeads !== 0) {
      throw new ConfigError(
        `gpt2: hiddenSize must be a multiple of numAttentionHeads, got ${config.hiddenSize} and ${config.numAttentionHeads}`,
      )
    }
    this.config = config
    const init = { normal: config.initializerRange }
    this.transformer = {
      wte: new Embedding('wte', config.vocabSize, config.hiddenSize, init),
      wpe: new Embedding('wpe', config.maxPositionEmbeddings, config.hiddenSize, init),
      h: new Map(Array.from({ length: config.numHiddenLayers }, (_, i) => [i, new Gpt2Layer(config)])),
      lnF: new LayerNorm('lnF', config.hiddenSize, config.layerNormEps),
    }
  }

  get shape(): DecoderShape {
    const { hiddenSize, numAttentionHeads } = this.config
    return { ...this.config, numKeyValueHeads: numAttentionHeads, headDim: hiddenSize / numAttentionHeads }
  }

  get headWeight(): Parameter {
    return this.transformer.wte.weight
  }

  forward(inputs: DecoderInputs): Tensor {
    const { wte, wpe, lnF } = this.transformer
    let h = add(wte.forward(inputs.tokens), wpe.forward(inputs.positions)) // [B, T, D]
    if (inputs.dropout) h = inputs.dropout.apply(h, 'wte')
    for (const [index, layer] of this.transformer.h) {
      const x = h
      h = block(() => layer.forward(x, index, inputs))
    }
    inputs.cache?.advance(inputs.tokens.shape[1]!)
    return lnF.forward(h)
  }
}

function conv1d(inFeatures: number, name: string, outFeatures: number, std: number): Linear {
  return new Linear(inFeatures, { [name]: outFeatures }, { init: { normal: std }, bias: true, layout: 'in-out' })
}

function residualInit(config: Gpt2Config): number {
  return config.initializerRange / Math.sqrt(2 * config.numHiddenLayers)
}
