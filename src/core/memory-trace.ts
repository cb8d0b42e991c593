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
  first: number
  last: number
}

/** Records allocations in order and the span of kernel calls that each is alive for. */
export class MemoryTrace implements Allocator {
  readonly #allocations: Allocation[] = []
  readonly #kept: Allocation[] = []
  readonly #current = new Map<Storage, Allocation>()
  #clock = 0

  allocate(storage: Storage, kind: MemoryKind): void {
    // Its life starts at the next kernel call: what the last call used may already make room for it.
    const allocation = { bytes: storage.bytes, kind, first: this.#clock + 1, last: this.#clock + 1 }
    this.#allocations.push(allocation)
    this.#current.set(storage, allocation)
    storage.bind(NOWHERE, 0)
  }

  /**
   * Memory of that many bytes which is alive from the first kernel call that is given one of the slots until after the
   * program: what it leaves to the next one.
   */
  keep(storages: readonly Storage[], bytes: number): void {
    const allocation: Allocation = { bytes, kind: 'gradient', first: Number.POSITIVE_INFINITY, last: 0 }
    this.#kept.push(allocation)
    for (const storage of storages) this.#current.set(storage, allocation)
  }

  /** One kernel call: everything it is given, in options too, is alive until at least now. */
  tick(args: readonly unknown[]): void {
    this.#clock++
    for (const arg of args) this.#touch(arg)
  }

  #touch(value: unknown): void {
    if (value instanceof Tensor) {
      const allocation = this.#current.get(value.storage)
      if (allocation === undefined) return
      allocation.first = Math.min(allocation.first, this.#clock)
      allocation.last = this.#clock
    } else if (typeof value === 'object' && value !== null) {
      for (const part of Object.values(value)) this.#touch(part)
    }
  }

  /** Assigns offsets: larger allocations first, each at the lowest place free during its life. */
  plan(): MemoryPlan {
    for (const kept of this.#kept) {
      kept.last = this.#clock + 1
      kept.first = Math.min(kept.first, kept.last)
    }
    const count = this.#allocations.length
    const allocations = [...this.#allocations, ...this.#kept]
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
    return {
      totalBytes,
      sizes: this.#allocations.map((a) => a.bytes),
      offsets: offsets.slice(0, count),
      keptOffsets: offsets.slice(count),
      peakByKind: this.#peakByKind(allocations),
    }
  }

  #peakByKind(allocations: readonly Allocation[]): Record<MemoryKind, number> {
    let best = { activation: 0, gradient: 0, workspace: 0 }
    let bestTotal = -1
    for (let time = 0; time <= this.#clock; time++) {
      const now = { activation: 0, gradient: 0, workspace: 0 }
      for (const a of allocations) if (a.first <= time && time <= a.last) now[a.kind] += alignUp(a.bytes)
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
