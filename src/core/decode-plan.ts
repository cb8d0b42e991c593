// What a device is told to decode a Llama with a program of its own: one call a step, for several sequences at once.
// Devices that have none, or none for these sizes, run the model's forward instead: the same meaning, kernel by kernel.
import type { Tensor } from './tensor.ts'

/** Weights [out, in] as the model keeps them: q, k and v stacked, gate and up stacked. */
export interface LlamaLayerWeights {
  readonly inputNorm: Tensor
  readonly qkv: Tensor
  readonly o: Tensor
  readonly postNorm: Tensor
  readonly gateUp: Tensor
  readonly down: Tensor
}

export interface LlamaWeights {
  /** [V, D] */
  readonly table: Tensor
  readonly layers: readonly LlamaLayerWeights[]
  readonly norm: Tensor
  /** [V, D] */
  readonly head: Tensor
  /** [positions, headDim / 2] */
  readonly cos: Tensor
  readonly sin: Tensor
  readonly numHeads: number
  readonly numKeyValueHeads: number
  readonly headDim: number
  readonly intermediateSize: number
  readonly eps: number
}

/** Where a step finds its state; tensors as `greedyToken` and `attentionCached` of kernels.ts take them. */
export interface DecodePlan {
  readonly weights: LlamaWeights
  /** [B, C, G*K] of each layer. */
  readonly keys: readonly Tensor[]
  readonly values: readonly Tensor[]
  /** i32 [B], and [N, B], [1]. */
  readonly tokens: Tensor
  readonly lengths: Tensor
  readonly history: Tensor
  readonly made: Tensor
  /** f32 [B, V]: written where it is given. */
  readonly logits: Tensor | undefined
}

/** One step for all sequences: reads `tokens`, appends to the cache, and does what `greedyToken` does. */
export type DecodeStep = () => void
