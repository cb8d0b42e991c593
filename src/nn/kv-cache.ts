// Key-value cache of one sequence: what attention has seen so far, layer by layer, in memory of its own.
import { standaloneTensor } from '../core/allocator.ts'
import type { Device } from '../core/device.ts'
import { ConfigError } from '../core/errors.ts'
import type { Tensor } from '../core/tensor.ts'

export class KvCache {
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

  advance(count: number): void {
    this.#length += count
  }

  /** Forgets positions from `length` on (0 empties the cache). */
  truncate(length: number): void {
    this.#length = Math.min(this.#length, length)
  }
}
