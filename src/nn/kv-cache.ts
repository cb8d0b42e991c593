// Key-value caches: what attention has seen so far, layer by layer, in memory of its own. Models ask a cache for the
// attention over all of it and know nothing of how it is kept; here is that of one sequence.
import { emptyTensor, standaloneTensor } from '../core/allocator.ts'
import type { Device } from '../core/device.ts'
import { ConfigError } from '../core/errors.ts'
import type { Tensor } from '../core/tensor.ts'
import { attention } from '../ops/attention.ts'

/** Keeps keys and values between the forwards of a generation. */
export interface AttentionCache {
  /** Stores k and v [B, T, G*K] of the next positions of a layer and attends from q [B, T, H*K] to all so far. */
  attend(layer: number, q: Tensor, k: Tensor, v: Tensor, heads: AttentionHeads): Tensor
  /** Moves on once every layer has stored `count` positions. */
  advance(count: number): void
}

export interface AttentionHeads {
  numHeads: number
  numKeyValueHeads: number
}

export class KvCache implements AttentionCache {
  readonly capacity: number
  readonly #keys: Tensor[] = []
  readonly #values: Tensor[] = []
  readonly #device: Device
  readonly #width: number
  #length = 0

  /** @param width  numKeyValueHeads * headDim */
  constructor(device: Device, numHiddenLayers: number, width: number, capacity: number) {
    this.capacity = capacity
    this.#device = device
    this.#width = width
    for (let layer = 0; layer < numHiddenLayers; layer++) {
      this.#keys.push(standaloneTensor(device, [capacity, width]))
      this.#values.push(standaloneTensor(device, [capacity, width]))
    }
  }

  /** Positions stored so far. */
  get length(): number {
    return this.#length
  }

  /**
   * Stores the keys and values [1, T, G*K] of the next T positions of a layer and returns all so far
   * [1, length + T, G*K]. `advance` moves on once every layer has stored.
   */
  append(layer: number, k: Tensor, v: Tensor): { k: Tensor; v: Tensor } {
    const count = k.shape[1]!
    const end = this.#length + count
    if (end > this.capacity) {
      throw new ConfigError(
        `key-value cache: ${end} positions do not fit in ${this.capacity}: shorten the prompt or generate fewer tokens`,
      )
    }
    const { kernels } = this.#device
    const keys = this.#keys[layer]!
    const values = this.#values[layer]!
    kernels.copy(keys.slice(this.#length, count), k.reshape(count, this.#width))
    kernels.copy(values.slice(this.#length, count), v.reshape(count, this.#width))
    return {
      k: keys.slice(0, end).reshape(1, end, this.#width),
      v: values.slice(0, end).reshape(1, end, this.#width),
    }
  }

  attend(layer: number, q: Tensor, k: Tensor, v: Tensor, heads: AttentionHeads): Tensor {
    const seen = this.append(layer, k, v)
    return attention(q, seen.k, seen.v, heads)
  }

  advance(count: number): void {
    this.#length += count
  }

  /** Forgets positions from `length` on (0 empties the cache). */
  truncate(length: number): void {
    this.#length = Math.min(this.#length, length)
  }
}

/** Keys and values of several sequences, each with a length of its own; lengths lie where the kernels read them. */
export class BatchCache {
  readonly batchSize: number
  readonly capacity: number
  /** [B, capacity, G*K] of each layer. */
  readonly keys: Tensor[] = []
  readonly values: Tensor[] = []
  /** i32 [B]: positions of each sequence so far. Whoever advances a sequence changes it. */
  readonly lengths: Tensor
  readonly #zeros: Tensor
  readonly #device: Device

  /** @param width  numKeyValueHeads * headDim */
  constructor(device: Device, numHiddenLayers: number, width: number, batchSize: number, capacity: number) {
    this.batchSize = batchSize
    this.capacity = capacity
    this.#device = device
    for (let layer = 0; layer < numHiddenLayers; layer++) {
      this.keys.push(standaloneTensor(device, [batchSize, capacity, width]))
      this.values.push(standaloneTensor(device, [batchSize, capacity, width]))
    }
    this.lengths = standaloneTensor(device, [batchSize], 'i32')
    this.#zeros = standaloneTensor(device, [batchSize], 'i32')
    for (const lengths of [this.lengths, this.#zeros]) device.write(lengths, new Int32Array(batchSize))
  }

  /** For the forward of prompts [count, T] of `count` sequences from `first` on, which start anew. */
  prompts(first: number, count: number): AttentionCache {
    const { kernels } = this.#device
    return {
      attend: (layer, q, k, v, heads) => {
        const [keys, values] = [this.keys, this.values].map((cache) => cache[layer]!.slice(first, count))
        kernels.cacheAppend(keys!, values!, k, v, this.#zeros.slice(0, count))
        return attention(q, k, v, heads)
      },
      advance: () => {},
    }
  }

  /** For the forward of one more token [B, 1] of every sequence. */
  next(): AttentionCache {
    const device = this.#device
    return {
      attend: (layer, q, k, v, { numHeads, numKeyValueHeads }) => {
        const headDim = q.columnCount / numHeads
        const keys = this.keys[layer]!
        const values = this.values[layer]!
        device.kernels.cacheAppend(keys, values, k, v, this.lengths)
        const out = emptyTensor(device, q.shape)
        const lse = emptyTensor(device, [this.batchSize, numHeads, 1], 'f32')
        const options = { numHeads, numKeyValueHeads, headDim, scale: 1 / Math.sqrt(headDim) }
        device.kernels.attentionCached(out, lse, q, keys, values, this.lengths, options)
        return out
      },
      advance: () => {},
    }
  }
}
