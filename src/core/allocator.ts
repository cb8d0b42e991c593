// Where the tensors of a step get their memory. An allocator binds storage slots; `emptyTensor` asks the current
// one. Two kinds live here: `GrowingArena` (chunks that are kept and reused scope after scope, for inference
// and small programs) and `PlannedArena` (the offsets that a dry run on the meta device assigned, for training:
// one block, nothing allocated after the first step). The meta device brings a third, which records.
import type { Device, DeviceBuffer } from './device.ts'
import type { Dtype } from './dtype.ts'
import { invariant } from './errors.ts'
import { Storage, sizeOf, Tensor } from './tensor.ts'

/** What a piece of step memory is for, so that memory can be shown by component. */
export type MemoryKind = 'activation' | 'gradient' | 'workspace'

export interface Allocator {
  allocate(storage: Storage, kind: MemoryKind): void
}

/** Every slot starts on a 64-byte boundary: a cache line, and the widest vector. */
export const ALIGNMENT = 64

export function alignUp(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT
}

/** Bump allocation in chunks of device memory. `reset` makes all of it free again and keeps the chunks. */
export class GrowingArena implements Allocator {
  readonly device: Device
  #chunks: DeviceBuffer[] = []
  #chunk = 0
  #used = 0
  readonly #chunkBytes: number

  constructor(device: Device, chunkBytes = 8 << 20) {
    this.device = device
    this.#chunkBytes = chunkBytes
  }

  allocate(storage: Storage): void {
    const bytes = alignUp(storage.bytes)
    for (;;) {
      const chunk = this.#chunks[this.#chunk]
      if (chunk === undefined) {
        this.#chunks.push(this.device.allocate(Math.max(bytes, this.#chunkBytes)))
        this.#used = 0
        continue
      }
      if (this.#used + bytes <= chunk.bytes) {
        storage.bind(chunk, this.#used)
        this.#used += bytes
        return
      }
      this.#chunk++
      this.#used = 0
    }
  }

  reset(): void {
    this.#chunk = 0
    this.#used = 0
  }

  /** Bytes held from the device. */
  get bytes(): number {
    return this.#chunks.reduce((sum, chunk) => sum + chunk.bytes, 0)
  }
}

/** The memory of one step as a dry run decided it: the n-th allocation has sizes[n] bytes at offsets[n]. */
export interface MemoryPlan {
  readonly totalBytes: number
  readonly sizes: readonly number[]
  readonly offsets: readonly number[]
  /** Where memory lies that outlives the program (MemoryTrace.keep), in the order in which it was asked for. */
  readonly keptOffsets: readonly number[]
  /** Bytes alive at the high-water mark, by kind. */
  readonly peakByKind: Readonly<Record<MemoryKind, number>>
}

/** Replays a MemoryPlan inside one buffer. The same program must run again: a different size is a bug. */
export class PlannedArena implements Allocator {
  readonly plan: MemoryPlan
  readonly #buffer: DeviceBuffer
  #next = 0

  constructor(plan: MemoryPlan, buffer: DeviceBuffer) {
    invariant(buffer.bytes >= plan.totalBytes, 'the buffer of a planned arena is smaller than the plan')
    this.plan = plan
    this.#buffer = buffer
  }

  allocate(storage: Storage): void {
    const n = this.#next++
    invariant(this.plan.sizes[n] === storage.bytes, `allocation ${n} differs from the planned one`)
    storage.bind(this.#buffer, this.plan.offsets[n]!)
  }

  /** Binds a slot into the n-th piece of memory that outlives the program. */
  bindKept(storage: Storage, n: number, distance = 0): void {
    storage.bind(this.#buffer, this.plan.keptOffsets[n]! + distance)
  }

  /** Starts the program over. `done` must be true: a step that stopped early is not a complete replay. */
  reset(): void {
    this.#next = 0
  }

  get isComplete(): boolean {
    return this.#next === this.plan.sizes.length
  }
}

const stack: Allocator[] = []

/** Runs `body` with `allocator` giving the memory of every tensor made inside. */
export function withAllocator<T>(allocator: Allocator, body: () => T): T {
  stack.push(allocator)
  try {
    return body()
  } finally {
    stack.pop()
  }
}

export function pushAllocator(allocator: Allocator): void {
  stack.push(allocator)
}

export function popAllocator(allocator: Allocator): void {
  invariant(stack[stack.length - 1] === allocator, 'scopes must end in the reverse order of their beginning')
  stack.pop()
}

/** Binds memory to a slot from the current allocator, or memory of its own where there is none. */
export function bindMemory(storage: Storage, kind: MemoryKind): void {
  const allocator = stack[stack.length - 1]
  if (allocator !== undefined) allocator.allocate(storage, kind)
  else storage.bind(storage.device.allocate(Math.max(storage.bytes, ALIGNMENT)), 0)
}

/** A new tensor with undefined contents, in the current scope's memory. */
export function emptyTensor(
  device: Device,
  shape: readonly number[],
  dtype: Dtype = device.floatDtype,
  kind: MemoryKind = 'activation',
): Tensor {
  const storage = new Storage(device, sizeOf(shape) * device.itemBytes(dtype))
  bindMemory(storage, kind)
  return new Tensor(shape, dtype, storage)
}

/** A tensor without memory, for numbers that exist in fp8 only (Tensor.fp8). */
export function virtualTensor(device: Device, shape: readonly number[]): Tensor {
  return new Tensor(shape, device.floatDtype, new Storage(device, 0))
}

/** A new tensor with the given values, in memory of its own (it outlives the current scope). */
export function tensorFrom(
  device: Device,
  shape: readonly number[],
  values: ArrayLike<number>,
  dtype: Dtype = device.floatDtype,
): Tensor {
  const tensor = standaloneTensor(device, shape, dtype)
  device.write(tensor, values)
  return tensor
}

/** A new tensor with undefined contents in memory of its own: parameters, inputs, caches. */
export function standaloneTensor(device: Device, shape: readonly number[], dtype: Dtype = device.floatDtype): Tensor {
  const storage = new Storage(device, sizeOf(shape) * device.itemBytes(dtype))
  storage.bind(device.allocate(Math.max(storage.bytes, ALIGNMENT)), 0)
  return new Tensor(shape, dtype, storage)
}
