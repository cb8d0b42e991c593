// What every decoder-only family offers to trainers, samplers and exporters, and what it takes as input.
import type { LlamaWeights } from '../core/decode-plan.ts'
import type { Parameter } from '../core/parameter.ts'
import { randomKey } from '../core/random.ts'
import type { Tensor } from '../core/tensor.ts'
import type { AttentionCache } from '../nn/kv-cache.ts'
import { dropout } from '../ops/dropout.ts'

/** Inputs of a forward. Positions and documents are arguments: models never count. */
export interface DecoderInputs {
  /** [B, T] i32. */
  tokens: Tensor
  /** [B, T] i32: position of each token in its document. */
  positions: Tensor
  /** [B, T] i32: index of the first position of each token's document; absent when a row is one document. */
  docStart?: Tensor
  /** Only for generation: keys and values so far. */
  cache?: AttentionCache
  /** Only for training with dropout. */
  dropout?: Dropout
}

/** Sizes that planners and caches ask for. */
export interface DecoderShape {
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly numHiddenLayers: number
  readonly numAttentionHeads: number
  readonly numKeyValueHeads: number
  readonly headDim: number
  readonly intermediateSize: number
  readonly maxPositionEmbeddings: number
}

export interface DecoderModel {
  readonly config: { readonly modelType: string }
  readonly shape: DecoderShape
  /** Final hidden states [B, T, D], after the last norm. */
  forward(inputs: DecoderInputs): Tensor
  /** [V, D]: the head, or the embedding it is tied to. */
  readonly headWeight: Parameter
  /** The weights by what they do, for programs that run a whole step of decoding; only of families that have one. */
  llamaWeights?(): LlamaWeights
}

/** Dropout of one forward: probability, the batch's sample numbers, and a key for each place in the model. */
export class Dropout {
  readonly p: number
  readonly sampleIndex: Tensor
  readonly #streams: DropoutStreams

  constructor(p: number, sampleIndex: Tensor, streams: DropoutStreams) {
    this.p = p
    this.sampleIndex = sampleIndex
    this.#streams = streams
  }

  /** `place` names the dropout in the model: `layers.3.attention`. */
  apply(x: Tensor, place: string): Tensor {
    return dropout(x, this.sampleIndex, { p: this.p, key: this.#streams.key(place) })
  }
}

/** Random keys by place, computed once a run. */
export class DropoutStreams {
  readonly #seed: number
  readonly #keys = new Map<string, ReturnType<typeof randomKey>>()

  constructor(seed: number) {
    this.#seed = seed
  }

  key(place: string): ReturnType<typeof randomKey> {
    let key = this.#keys.get(place)
    if (key === undefined) {
      key = randomKey(this.#seed, `dropout.${place}`)
      this.#keys.set(place, key)
    }
    return key
  }
}

/** The residual stream's next value: projection plus residual, with dropout on the branch where there is any. */
export function addBranch(
  project: (residual?: Tensor) => Tensor,
  residual: Tensor,
  dropoutOf: Dropout | undefined,
  place: string,
  add: (a: Tensor, b: Tensor) => Tensor,
): Tensor {
  if (dropoutOf === undefined || dropoutOf.p === 0) return project(residual)
  return add(residual, dropoutOf.apply(project(), place))
}
