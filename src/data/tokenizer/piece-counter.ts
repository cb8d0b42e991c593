// Counts the pieces of a stream of documents in flat arrays: a distinct piece costs its UTF-8 bytes and 24 to 32 more,
// where a Map of strings would take several times that and ends at 2^24 entries.
import { grown, release } from './flat-arrays.ts'
import { LLAMA3_PATTERN, scannerOf } from './pretokenize.ts'
import type { PieceScanner } from './scanners.ts'

/** Distinct pieces in the order of their first occurrence, and how often each occurred. The arrays may be longer. */
export interface PieceTable {
  readonly size: number
  /** UTF-8 of all pieces, one after the other: piece p is bytes[starts[p] .. starts[p + 1]). */
  readonly bytes: Uint8Array
  readonly starts: Float64Array
  readonly counts: Float64Array
}

const FIRST_CAPACITY = 1 << 15
/** UTF-8 bytes that a UTF-16 unit needs at most. */
const BYTES_PER_UNIT = 3

export class PieceCounter implements Iterable<readonly [piece: string, count: number]> {
  readonly #scan: PieceScanner
  /**
   * piece + 1, or 0; open addressing, at most half full. Hashes are not kept: bytes are compared at once, because with
   * millions of pieces every array that a search looks into is a cache miss.
   */
  #slots = new Int32Array(2 * FIRST_CAPACITY)
  #counts = new Float64Array(FIRST_CAPACITY)
  /** Where pieces start in #bytes; behind the last one, where the next will. */
  #starts = new Float64Array(FIRST_CAPACITY + 1)
  #bytes = new Uint8Array(8 * FIRST_CAPACITY)
  #size = 0

  /** @throws TokenizerError if the pattern is no regular expression that is known here */
  constructor(pattern: string = LLAMA3_PATTERN) {
    this.#scan = scannerOf(pattern)
  }

  /** Distinct pieces. */
  get size(): number {
    return this.#size
  }

  /** UTF-8 bytes of the distinct pieces, each counted once. */
  get distinctBytes(): number {
    return this.#starts[this.#size]!
  }

  add(document: string): void {
    const text = document.toWellFormed()
    for (let start = 0; start < text.length; ) {
      const end = this.#scan(text, start)
      this.#count(text, start, end)
      start = end
    }
  }

  *[Symbol.iterator](): Generator<readonly [string, number]> {
    const utf8 = new TextDecoder('utf-8', { ignoreBOM: true })
    for (let piece = 0; piece < this.#size; piece++) {
      const bytes = this.#bytes.subarray(this.#starts[piece]!, this.#starts[piece + 1]!)
      yield [utf8.decode(bytes), this.#counts[piece]!]
    }
  }

  /** Hands over what was counted, without a copy. The counter is empty afterwards and may be used again. */
  take(): PieceTable {
    const table = { size: this.#size, bytes: this.#bytes, starts: this.#starts, counts: this.#counts }
    const empty = new PieceCounter()
    this.#slots = empty.#slots
    this.#counts = empty.#counts
    this.#starts = empty.#starts
    this.#bytes = empty.#bytes
    this.#size = 0
    return table
  }

  /** Writes the piece behind the others, and leaves it there if it is new. */
  #count(text: string, start: number, end: number): void {
    const piece = this.#size
    const from = this.#starts[piece]!
    const most = from + BYTES_PER_UNIT * (end - start)
    if (most > this.#bytes.length) this.#bytes = grown(this.#bytes, Math.max(most, Math.ceil(1.5 * this.#bytes.length)))
    const to = writeUtf8(text, start, end, this.#bytes, from)
    const mask = this.#slots.length - 1
    let slot = hashOf(this.#bytes, from, to) & mask
    for (let known = this.#slots[slot]! - 1; known >= 0; known = this.#slots[slot]! - 1) {
      if (this.#holds(known, from, to)) {
        this.#counts[known]!++
        return
      }
      slot = (slot + 1) & mask
    }
    this.#slots[slot] = piece + 1
    if (piece === this.#counts.length) this.#grow()
    this.#counts[piece] = 1
    this.#starts[piece + 1] = to
    this.#size++
    if (2 * this.#size > this.#slots.length) this.#rehash()
  }

  /** Whether piece `known` has the same bytes as bytes[from, to). */
  #holds(known: number, from: number, to: number): boolean {
    const bytes = this.#bytes
    let at = this.#starts[known]!
    if (this.#starts[known + 1]! - at !== to - from) return false
    for (let i = from; i < to; i++) if (bytes[at++] !== bytes[i]) return false
    return true
  }

  #grow(): void {
    const capacity = Math.ceil(this.#counts.length * 1.5)
    this.#counts = grown(this.#counts, capacity)
    this.#starts = grown(this.#starts, capacity + 1)
  }

  #rehash(): void {
    const length = 2 * this.#slots.length
    release(this.#slots)
    const slots = new Int32Array(length)
    const mask = length - 1
    for (let piece = 0; piece < this.#size; piece++) {
      let slot = hashOf(this.#bytes, this.#starts[piece]!, this.#starts[piece + 1]!) & mask
      while (slots[slot] !== 0) slot = (slot + 1) & mask
      slots[slot] = piece + 1
    }
    this.#slots = slots
  }
}

/** Writes well-formed text[start, end) at `at`. @returns where it ends */
function writeUtf8(text: string, start: number, end: number, bytes: Uint8Array, at: number): number {
  for (let i = start; i < end; i++) {
    let code = text.charCodeAt(i)
    if (code < 0x80) {
      bytes[at++] = code
      continue
    }
    if (code < 0x800) {
      bytes[at++] = 0xc0 | (code >> 6)
    } else {
      if (code >= 0xd800 && code < 0xdc00) {
        code = 0x10000 + ((code - 0xd800) << 10) + (text.charCodeAt(++i) - 0xdc00)
        bytes[at++] = 0xf0 | (code >> 18)
        bytes[at++] = 0x80 | ((code >> 12) & 0x3f)
      } else {
        bytes[at++] = 0xe0 | (code >> 12)
      }
      bytes[at++] = 0x80 | ((code >> 6) & 0x3f)
    }
    bytes[at++] = 0x80 | (code & 0x3f)
  }
  return at
}

function hashOf(bytes: Uint8Array, from: number, to: number): number {
  let hash = to - from
  for (let i = from; i < to; i++) hash = Math.imul(hash ^ bytes[i]!, 0x9e3779b1) ^ (hash >>> 15)
  return hash ^ (hash >>> 16)
}
