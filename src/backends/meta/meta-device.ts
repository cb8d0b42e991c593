// The meta backend: runs the real model and step without arithmetic or memory. Kernels only note which storage they
// touch and when, so that `MemoryTrace.plan` can assign the offsets that a real device then uses: predicted memory
// equals used memory by construction. FLOPs and bytes come from the ops' own cost functions (train/plan.ts).
import type { Allocator, MemoryKind, MemoryPlan } from '../../core/allocator.ts'
import { alignUp } from '../../core/allocator.ts'
import type { Device, DeviceBuffer } from '../../core/device.ts'
import type { Dtype, HostArray } from '../../core/dtype.ts'
import { DTYPE_BYTES, hostArray } from '../../core/dtype.ts'
import type { Kernels } from '../../core/kernels.ts'
import { type Storage, Tensor } from '../../core/tensor.ts'

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

/** A device like `target` in its types and widths, with no memory and no arithmetic. */
export class MetaDevice implements Device {
  readonly name = 'meta'
  readonly kernels: Kernels
  readonly floatDtype: Dtype
  readonly #itemBytes: (dtype: Dtype) => number
  /** Set while a program is traced. */
  trace: MemoryTrace | undefined
  /** Bytes asked for outside any trace: parameters, gradients, optimizer states, inputs. */
  allocatedBytes = 0

  constructor(target: { floatDtype: Dtype; itemBytes(dtype: Dtype): number } = { floatDtype: 'f32', itemBytes }) {
    this.floatDtype = target.floatDtype
    this.#itemBytes = (dtype) => target.itemBytes(dtype)
    // Every kernel does the same here: note what it was given.
    this.kernels = new Proxy({} as Kernels, {
      get:
        () =>
        (...args: unknown[]) =>
          this.trace?.tick(args),
    })
  }

  itemBytes(dtype: Dtype): number {
    return this.#itemBytes(dtype)
  }

  allocate(bytes: number): DeviceBuffer {
    this.allocatedBytes += bytes
    return { bytes, address: 0 }
  }

  release(buffer: DeviceBuffer): void {
    this.allocatedBytes -= buffer.bytes
  }

  write(): void {}

  read(tensor: Tensor): Promise<HostArray> {
    return Promise.resolve(hostArray(tensor.dtype, tensor.size))
  }
}

function itemBytes(dtype: Dtype): number {
  return DTYPE_BYTES[dtype]
}
