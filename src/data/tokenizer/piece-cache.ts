// Remembers the ids of pieces of text in flat arrays of a fixed size, found by the characters of a longer text without
// cutting the piece out of it. When it is full it starts afresh: common pieces are soon back.

const SLOTS = 1 << 18
const MAX_ENTRIES = SLOTS / 2
const MAX_UNITS = 1 << 20
const MAX_IDS = 1 << 19
/** Longer pieces are not remembered. */
export const LONGEST_PIECE = 64
/** A search gives up after this many neighbours, so that no choice of text makes it slow. */
const MAX_PROBES = 16

export class PieceCache {
  /** entry + 1, or 0; open addressing. */
  readonly #slots = new Int32Array(SLOTS)
  readonly #hashes = new Int32Array(MAX_ENTRIES)
  /** The units of entry e are units[unitStarts[e] .. unitStarts[e + 1]), and its ids likewise. */
  readonly #unitStarts = new Int32Array(MAX_ENTRIES + 1)
  readonly #idStarts = new Int32Array(MAX_ENTRIES + 1)
  readonly #units = new Uint16Array(MAX_UNITS)
  readonly #ids = new Int32Array(MAX_IDS)
  #count = 0

  /** Appends the ids of text[start, end) to `out` and says true, or says false if the piece is not known. */
  appendIds(text: string, start: number, end: number, out: number[]): boolean {
    const hash = hashOf(text, start, end)
    for (let probe = 0; probe < MAX_PROBES; probe++) {
      const entry = this.#slots[(hash + probe) & (SLOTS - 1)]! - 1
      if (entry < 0) return false
      if (this.#hashes[entry] !== hash || !this.#holds(entry, text, start, end)) continue
      const idEnd = this.#idStarts[entry + 1]!
      for (let i = this.#idStarts[entry]!; i < idEnd; i++) out.push(this.#ids[i]!)
      return true
    }
    return false
  }

  /** Remembers the first `count` of `ids` for a piece that is not known. */
  add(text: string, start: number, end: number, ids: Int32Array, count: number): void {
    const unitStart = this.#unitStarts[this.#count]!
    const idStart = this.#idStarts[this.#count]!
    if (this.#count === MAX_ENTRIES || unitStart + end - start > MAX_UNITS || idStart + count > MAX_IDS) {
      this.#slots.fill(0)
      this.#count = 0
      this.add(text, start, end, ids, count)
      return
    }
    const hash = hashOf(text, start, end)
    let slot = hash & (SLOTS - 1)
    for (let probe = 0; this.#slots[slot] !== 0; slot = (slot + 1) & (SLOTS - 1)) if (++probe === MAX_PROBES) return
    const entry = this.#count++
    this.#slots[slot] = entry + 1
    this.#hashes[entry] = hash
    for (let i = start; i < end; i++) this.#units[unitStart + i - start] = text.charCodeAt(i)
    this.#unitStarts[entry + 1] = unitStart + end - start
    for (let i = 0; i < count; i++) this.#ids[idStart + i] = ids[i]!
    this.#idStarts[entry + 1] = idStart + count
  }

  #holds(entry: number, text: string, start: number, end: number): boolean {
    const unitStart = this.#unitStarts[entry]!
    if (this.#unitStarts[entry + 1]! - unitStart !== end - start) return false
    for (let i = start; i < end; i++) if (this.#units[unitStart + i - start] !== text.charCodeAt(i)) return false
    return true
  }
}

/** 32-bit hash of the units of text[start, end). */
export function hashOf(text: string, start: number, end: number): number {
  let hash = end - start
  for (let i = start; i < end; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x9e3779b1) ^ (hash >>> 15)
  return hash ^ (hash >>> 16)
}
