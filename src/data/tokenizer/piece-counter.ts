// Counts the pieces of a stream of documents in flat arrays: millions of distinct pieces cost some 40 bytes each and
// their characters, where a Map of strings would take several times that and ends at 2^24 entries.
import { hashOf } from './piece-cache.ts'
import { LLAMA3_PATTERN, scannerOf } from './pretokenize.ts'
import type { PieceScanner } from './scanners.ts'

/** Distinct pieces and how often each occurred. */
export interface PieceCounts extends Iterable<readonly [piece: string, count: number]> {
  /** Distinct pieces. */
  readonly size: number
  /** UTF-8 bytes of the distinct pieces, each counted once. */
  readonly distinctBytes: number
}

/** Characters are kept in chunks, because one array of all would have to be copied to grow. */
const CHUNK_UNITS = 1 << 20
/** Longer pieces are few, and are kept as strings. */
const LONGEST_FLAT = 1 << 10
const utf8 = new TextEncoder()

export class PieceCounter implements PieceCounts {
  readonly #scan: PieceScanner
  /** entry + 1, or 0; open addressing, at most half full. */
  #slots = new Int32Array(1 << 16)
  #hashes = new Int32Array(1 << 15)
  #counts = new Float64Array(1 << 15)
  /** First character of an entry, over all chunks; its length stands apart because chunks are not always filled up. */
  #starts = new Float64Array(1 << 15)
  #lengths = new Uint16Array(1 << 15)
  readonly #chunks: Uint16Array[] = [new Uint16Array(CHUNK_UNITS)]
  #chunkUnits = 0
  #entries = 0
  #distinctBytes = 0
  readonly #long = new Map<string, number>()

  /** @throws TokenizerError if the pattern is no regular expression that is known here */
  constructor(pattern: string = LLAMA3_PATTERN) {
    this.#scan = scannerOf(pattern)
  }

  get size(): number {
    return this.#entries + this.#long.size
  }

  get distinctBytes(): number {
    return this.#distinctBytes
  }

  add(document: string): void {
    const text = document.toWellFormed()
    for (let start = 0; start < text.length; ) {
      const end = this.#scan(text, start)
      if (end - start > LONGEST_FLAT) this.#countLong(text.slice(start, end))
      else this.#count(text, start, end)
      start = end
    }
  }

  *[Symbol.iterator](): Generator<readonly [string, number]> {
    for (let entry = 0; entry < this.#entries; entry++) {
      const start = this.#starts[entry]!
      const chunk = this.#chunks[Math.floor(start / CHUNK_UNITS)]!
      const from = start % CHUNK_UNITS
      const units = chunk.subarray(from, from + this.#lengths[entry]!)
      yield [String.fromCharCode.apply(null, units as unknown as number[]), this.#counts[entry]!]
    }
    yield* this.#long
  }

  #countLong(piece: string): void {
    const count = this.#long.get(piece)
    // A slice keeps the whole document in memory, so what stays is a copy.
    if (count === undefined) this.#long.set(Buffer.from(piece, 'utf16le').toString('utf16le'), 1)
    else this.#long.set(piece, count + 1)
    if (count === undefined) this.#distinctBytes += Buffer.byteLength(piece)
  }

  #count(text: string, start: number, end: number): void {
    const hash = hashOf(text, start, end)
    const mask = this.#slots.length - 1
    let slot = hash & mask
    for (let entry = this.#slots[slot]! - 1; entry >= 0; entry = this.#slots[slot]! - 1) {
      if (this.#hashes[entry] === hash && this.#holds(entry, text, start, end)) {
        this.#counts[entry]!++
        return
      }
      slot = (slot + 1) & mask
    }
    this.#slots[slot] = this.#insert(text, start, end, hash) + 1
    if (2 * this.#entries > this.#slots.length) this.#rehash()
  }

  #holds(entry: number, text: string, start: number, end: number): boolean {
    if (this.#lengths[entry] !== end - start) return false
    const first = this.#starts[entry]!
    const chunk = this.#chunks[Math.floor(first / CHUNK_UNITS)]!
    const from = (first % CHUNK_UNITS) - start
    for (let i = start; i < end; i++) if (chunk[from + i] !== text.charCodeAt(i)) return false
    return true
  }

  #insert(text: string, start: number, end: number, hash: number): number {
    const length = end - start
    if (this.#chunkUnits + length > CHUNK_UNITS) {
      this.#chunks.push(new Uint16Array(CHUNK_UNITS))
      this.#chunkUnits = 0
    }
    const entry = this.#entries++
    if (entry === this.#hashes.length) this.#grow()
    const chunk = this.#chunks[this.#chunks.length - 1]!
    for (let i = 0; i < length; i++) chunk[this.#chunkUnits + i] = text.charCodeAt(start + i)
    this.#starts[entry] = (this.#chunks.length - 1) * CHUNK_UNITS + this.#chunkUnits
    this.#lengths[entry] = length
    this.#hashes[entry] = hash
    this.#counts[entry] = 1
    this.#chunkUnits += length
    this.#distinctBytes += utf8.encodeInto(text.slice(start, end), scratch).written
    return entry
  }

  #grow(): void {
    const capacity = Math.ceil(this.#hashes.length * 1.5)
    this.#hashes = copied(new Int32Array(capacity), this.#hashes)
    this.#counts = copied(new Float64Array(capacity), this.#counts)
    this.#starts = copied(new Float64Array(capacity), this.#starts)
    this.#lengths = copied(new Uint16Array(capacity), this.#lengths)
  }

  #rehash(): void {
    const slots = new Int32Array(2 * this.#slots.length)
    const mask = slots.length - 1
    for (let entry = 0; entry < this.#entries; entry++) {
      let slot = this.#hashes[entry]! & mask
      while (slots[slot] !== 0) slot = (slot + 1) & mask
      slots[slot] = entry + 1
    }
    this.#slots = slots
  }
}

const scratch = new Uint8Array(4 * LONGEST_FLAT)

function copied<T extends Int32Array | Float64Array | Uint16Array>(to: T, from: T): T {
  to.set(from)
  return to
}
