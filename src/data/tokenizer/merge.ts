// The merge loop of BPE: given a piece as symbol ids, repeatedly joins the adjacent pair of the lowest rank (leftmost
// first) until no pair has one. Short pieces are scanned; long ones use a heap over a linked list, n log n, so that a
// megabyte of one letter is no trap.

/** A pair of ids and the id it makes; its rank is its place in the list. */
export type Merge = readonly [left: number, right: number, id: number]

/** Where a pair has no merge. */
const NONE = 0x7fffffff

/** Looks up merges by their pair, in flat arrays: a Map with pair keys costs several times as much. */
export class MergeTable {
  readonly #lefts: Int32Array
  readonly #rights: Int32Array
  readonly #ids: Int32Array
  /** rank + 1, or 0; open addressing. */
  readonly #slots: Int32Array
  readonly #mask: number

  /** Where a pair is listed twice, its last place counts, as in Hugging Face's implementation. */
  constructor(merges: readonly Merge[]) {
    this.#lefts = new Int32Array(merges.length)
    this.#rights = new Int32Array(merges.length)
    this.#ids = new Int32Array(merges.length)
    let size = 16
    while (size < 2 * merges.length) size *= 2
    this.#slots = new Int32Array(size)
    this.#mask = size - 1
    merges.forEach(([left, right, id], rank) => {
      this.#lefts[rank] = left
      this.#rights[rank] = right
      this.#ids[rank] = id
      this.#slots[this.#slotOf(left, right)] = rank + 1
    })
  }

  /** Rank of a pair, or a number above every rank. */
  rank(left: number, right: number): number {
    const entry = this.#slots[this.#slotOf(left, right)]!
    return entry === 0 ? NONE : entry - 1
  }

  /** The id that the merge of this rank makes. */
  idOf(rank: number): number {
    return this.#ids[rank]!
  }

  #slotOf(left: number, right: number): number {
    const mixed = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)
    let slot = (mixed ^ (mixed >>> 15)) & this.#mask
    for (;;) {
      const entry = this.#slots[slot]!
      if (entry === 0 || (this.#lefts[entry - 1] === left && this.#rights[entry - 1] === right)) return slot
      slot = (slot + 1) & this.#mask
    }
  }
}

/** Pieces up to this length are merged by scanning, which beats the heap's set-up. */
const SHORT = 64
const shortRanks = new Int32Array(SHORT)

/**
 * Merges in place.
 * @param symbols  the first `count` are the piece
 * @returns how many are left
 */
export function mergeAll(symbols: Int32Array, count: number, table: MergeTable): number {
  return count <= SHORT ? mergeShort(symbols, count, table) : mergeLong(symbols, count, table)
}

function mergeShort(symbols: Int32Array, count: number, table: MergeTable): number {
  // ranks[i] is the rank of the pair that starts at i.
  const ranks = shortRanks
  let n = count
  for (let i = 0; i + 1 < n; i++) ranks[i] = table.rank(symbols[i]!, symbols[i + 1]!)
  for (;;) {
    let best = NONE
    let at = -1
    for (let i = 0; i + 1 < n; i++) {
      if (ranks[i]! < best) {
        best = ranks[i]!
        at = i
      }
    }
    if (at < 0) return n
    symbols[at] = table.idOf(best)
    n--
    for (let i = at + 1; i < n; i++) {
      symbols[i] = symbols[i + 1]!
      ranks[i] = ranks[i + 1]!
    }
    if (at > 0) ranks[at - 1] = table.rank(symbols[at - 1]!, symbols[at]!)
    if (at + 1 < n) ranks[at] = table.rank(symbols[at]!, symbols[at + 1]!)
  }
}

function mergeLong(symbols: Int32Array, count: number, table: MergeTable): number {
  const next = Int32Array.from({ length: count }, (_, i) => (i + 1 < count ? i + 1 : -1))
  const previous = Int32Array.from({ length: count }, (_, i) => i - 1)
  // A pair waits as rank * count + position: one number orders both, exactly, below 2^53.
  const heap = new NumberHeap()
  const consider = (i: number): void => {
    if (i < 0 || next[i]! < 0) return
    const rank = table.rank(symbols[i]!, symbols[next[i]!]!)
    if (rank !== NONE) heap.push(rank * count + i)
  }
  for (let i = 0; i + 1 < count; i++) consider(i)
  for (let key = heap.pop(); key !== undefined; key = heap.pop()) {
    const at = key % count
    const rank = (key - at) / count
    const j = next[at]!
    // Stale: one of the two has been merged away since.
    if (symbols[at]! < 0 || j < 0 || table.rank(symbols[at]!, symbols[j]!) !== rank) continue
    symbols[at] = table.idOf(rank)
    symbols[j] = -1
    next[at] = next[j]!
    if (next[j]! >= 0) previous[next[j]!] = at
    consider(previous[at]!)
    consider(at)
  }
  let n = 0
  for (let i = 0; i < count; i++) if (symbols[i]! >= 0) symbols[n++] = symbols[i]!
  return n
}

/** Binary heap, least first. */
class NumberHeap {
  readonly #items: number[] = []

  push(item: number): void {
    const items = this.#items
    let i = items.length
    items.push(item)
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (item >= items[parent]!) break
      items[i] = items[parent]!
      i = parent
    }
    items[i] = item
  }

  pop(): number | undefined {
    const items = this.#items
    const top = items[0]
    const last = items.pop()
    if (last === undefined || items.length === 0) return top
    let i = 0
    for (;;) {
      let child = 2 * i + 1
      if (child >= items.length) break
      if (child + 1 < items.length && items[child + 1]! < items[child]!) child++
      if (items[child]! >= last) break
      items[i] = items[child]!
      i = child
    }
    items[i] = last
    return top
  }
}
