// Copies between host and card in the order of the stream. Writes go through a ring of pinned memory, so that the caller's
// array is free at once and the card is not waited for; reads come back when the stream has got there.
import koffi from 'koffi'
import type { HostArray } from '../../core/dtype.ts'
import type { CudaRuntime } from './runtime.ts'

/** Two halves: while one is on its way the other is filled. */
const HALF_BYTES = 16 << 20
const ALIGNMENT = 256
/** Losses and norms: read after every step. */
const SMALL_READ_BYTES = 64 << 10
const EVENT_WITHOUT_TIMING = 2

/** Memory that the card reads and writes by itself. */
interface Pinned {
  readonly address: number
  readonly bytes: Uint8Array
}

interface Half extends Pinned {
  /** Recorded after the last copy out of it. */
  readonly event: number
  used: number
  isPending: boolean
}

export class HostLink {
  readonly #runtime: CudaRuntime
  readonly #halves: readonly [Half, Half]
  #current = 0
  /** Blocks for reads that no read uses now. */
  readonly #idle: Pinned[] = []
  /** Ends when the last large read does. */
  #largeRead: Promise<void> = Promise.resolve()

  constructor(runtime: CudaRuntime) {
    this.#runtime = runtime
    const half = (): Half => ({
      ...this.#pin(HALF_BYTES),
      event: runtime.driver.integer('cuEventCreate', EVENT_WITHOUT_TIMING),
      used: 0,
      isPending: false,
    })
    this.#halves = [half(), half()]
  }

  #pin(size: number): Pinned {
    const address = this.#runtime.driver.integer('cuMemAllocHost_v2', size)
    return { address, bytes: new Uint8Array(koffi.view(address, size) as ArrayBuffer) }
  }

  /** Copies an array to the card's address. */
  write(address: number, values: HostArray): void {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
    for (let from = 0; from < bytes.length; ) {
      const half = this.#room()
      const count = Math.min(bytes.length - from, HALF_BYTES - half.used)
      half.bytes.set(bytes.subarray(from, from + count), half.used)
      const { driver, stream } = this.#runtime
      driver.call('cuMemcpyHtoDAsync_v2', address + from, half.address + half.used, count, stream)
      half.used = Math.min(HALF_BYTES, Math.ceil((half.used + count) / ALIGNMENT) * ALIGNMENT)
      from += count
    }
  }

  /** The half with room; the one before it is marked as being on its way. */
  #room(): Half {
    const half = this.#halves[this.#current]!
    if (half.used < HALF_BYTES) return half
    const { driver, stream } = this.#runtime
    driver.call('cuEventRecord', half.event, stream)
    half.isPending = true
    this.#current = 1 - this.#current
    const next = this.#halves[this.#current]!
    if (next.isPending) driver.call('cuEventSynchronize', next.event)
    next.isPending = false
    next.used = 0
    return next
  }

  /** Fills `values` from the card's address, after everything that was launched before. */
  async read(values: HostArray, address: number): Promise<void> {
    const target = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
    // A small one takes its turn in the stream now: what is launched next may overwrite what it asks for.
    if (target.length <= SMALL_READ_BYTES) return await this.#copyOut(target, address, SMALL_READ_BYTES)
    // Large ones wait for each other: a checkpoint asks for all of its tensors at once, and pinned memory is scarce.
    const turn = this.#largeRead
    let done = (): void => {}
    this.#largeRead = new Promise((resolve) => {
      done = resolve
    })
    await turn
    try {
      await this.#copyOut(target, address, HALF_BYTES)
    } finally {
      done()
    }
  }

  async #copyOut(target: Uint8Array, address: number, wanted: number): Promise<void> {
    const { driver, stream } = this.#runtime
    const found = this.#idle.findIndex(({ bytes }) => bytes.length === wanted)
    const pinned = found < 0 ? this.#pin(wanted) : this.#idle.splice(found, 1)[0]!
    for (let from = 0; from < target.length; from += wanted) {
      const count = Math.min(wanted, target.length - from)
      driver.call('cuMemcpyDtoHAsync_v2', pinned.address, address + from, count, stream)
      await this.#runtime.finished()
      target.set(pinned.bytes.subarray(0, count), from)
    }
    // Not after a failure: the card may still write into it.
    this.#idle.push(pinned)
  }

  close(): void {
    const { driver } = this.#runtime
    for (const { event } of this.#halves) driver.call('cuEventDestroy_v2', event)
    for (const { address } of [...this.#halves, ...this.#idle]) driver.call('cuMemFreeHost', address)
  }
}
