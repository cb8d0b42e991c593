// Records what a dry run allocates and touches, and turns it into a memory plan: which offset each allocation of a step
// gets inside one block, so that what is never alive together shares memory.
import { type Allocator, alignUp, type MemoryKind, type MemoryPlan } from './allocator.ts'
import type { Device, DeviceBuffer } from './device.ts'
import { type Storage, Tensor } from './tensor.ts'

/** A device that runs programs without arithmetic or memory, and tells a trace what they touch. */
export interface DryRunDevice extends Device {
  /** Set while a program is traced. */
  trace: MemoryTrace | undefined
}

interface Allocation {
  readonly bytes: number
  readonly kind: MemoryKind
  readonly first: number
  last: number
}

/** Records allocations in order and the span of kernel calls that each is alive for. */
export class MemoryTrace implements Allocator {
  readonly #allocations: Allocation[] = []
  readonly #current = new Map<Storage, Allocation>()
  #clock = 0

  allocate(storage: Storage, kind: MemoryKind): void {
    // Its life starts at the next kernel call: what the last call used may already make room for it.
    const allocation = { bytes: storage.bytes, kind, first: this.#clock + 1, last: this.#clock + 1 }
    this.#allocations.push(allocation)
    this.#current.set(storage, allocation)
    storage.bind(NOWHERE, 0)
  }

  /** One kernel call: everything it is given is alive until at least now. */
  tick(args: readonly unknown[]): void {
    this.#clock++
    for (const arg of args) {
      if (arg instanceof Tensor) this.#touch(arg)
      else if (typeof arg === 'object' && arg !== null) {
        for (const value of Object.values(arg)) if (value instanceof Tensor) this.#touch(value)
      }
    }
  }

  #touch(tensor: Tensor): void {
    const allocation = this.#current.get(tensor.storage)
    if (allocation !== undefined) allocation.last = this.#clock
  }

  /** Assigns offsets: larger allocations first, each at the lowest place free during its life. */
  plan(): MemoryPlan {
    const allocations = this.#allocations
    const offsets = new Array<number>(allocations.length).fill(0)
    const order = allocations.map((_, i) => i).sort((a, b) => allocations[b]!.bytes - allocations[a]!.bytes || a - b)
    const placed: number[] = []
    let totalBytes = 0
    for (const i of order) {
      const { first, last, bytes } = allocations[i]!
      const size = alignUp(bytes)
      const neighbours = placed
        .filter((j) => allocations[j]!.first <= last && first <= allocations[j]!.last)
        .sort((a, b) => offsets[a]! - offsets[b]!)
      let offset = 0
      for (const j of neighbours) {
        if (offset + size <= offsets[j]!) break
        offset = Math.max(offset, offsets[j]! + alignUp(allocations[j]!.bytes))
      }
      offsets[i] = offset
      placed.push(i)
      totalBytes = Math.max(totalBytes, offset + size)
    }
    return { totalBytes, sizes: allocations.map((a) => a.bytes), offsets, peakByKind: this.#peakByKind() }
  }

  #peakByKind(): Record<MemoryKind, number> {
    let best = { activation: 0, gradient: 0, workspace: 0 }
    let bestTotal = -1
    for (let time = 0; time <= this.#clock; time++) {
      const now = { activation: 0, gradient: 0, workspace: 0 }
      for (const a of this.#allocations) if (a.first <= time && time <= a.last) now[a.kind] += alignUp(a.bytes)
      const total = now.activation + now.gradient + now.workspace
      if (total > bestTotal) {
        best = now
        bestTotal = total
      }
    }
    return best
  }
}

const NOWHERE: DeviceBuffer = { bytes: Number.POSITIVE_INFINITY, address: 0 }
