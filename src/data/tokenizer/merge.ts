// The merge loop of BPE: given a piece as symbol ids, repeatedly joins the adjacent pair of the lowest rank (leftmost
// first) until no pair has one. A heap over a linked list: n log n, so a megabyte of one letter is no trap.

/** Rank and result of merging two adjacent symbols, or undefined. Pairs are keyed left * 2^26 + right. */
export class MergeTable {
  readonly #merges = new Map<number, { rank: number; id: number }>()

  static key(left: number, right: number): number {
    return left * 0x4000000 + right
  }

  add(left: number, right: number, rank: number, id: number): void {
    this.#merges.set(MergeTable.key(left, right), { rank, id })
  }

  get(left: number, right: number): { rank: number; id: number } | undefined {
    return this.#merges.get(MergeTable.key(left, right))
  }

  get size(): number {
    return this.#merges.size
  }
}

/** Pieces up to this length are merged by scanning, which beats the heap's set-up. */
const SHORT = 48

/** The symbols of a piece after all merges. */
export function mergeAll(symbols: number[], table: MergeTable): number[] {
  return symbols.length <= SHORT ? mergeShort(symbols, table) : mergeLong(symbols, table)
}

function mergeShort(symbols: number[], table: MergeTable): number[] {
  for (;;) {
    let best = Number.POSITIVE_INFINITY
    let at = -1
    let id = 0
    for (let i = 0; i + 1 < symbols.length; i++) {
      const merge = table.get(symbols[i]!, symbols[i + 1]!)
      if (merge !== undefined && merge.rank < best) {
        best = merge.rank
        at = i
        id = merge.id
      }
    }
    if (at < 0) return symbols
    symbols.splice(at, 2, id)
  }
}

function mergeLong(symbols: number[], table: MergeTable): number[] {
  const n = symbols.length
  const next = Int32Array.from({ length: n }, (_, i) => (i + 1 < n ? i + 1 : -1))
  const previous = Int32Array.from({ length: n }, (_, i) => i - 1)
  const heap = new PairHeap()
  const consider = (i: number): void => {
    const j = i < 0 ? -1 : next[i]!
    if (j < 0) return
    const merge = table.get(symbols[i]!, symbols[j]!)
    if (merge !== undefined) heap.push({ rank: merge.rank, at: i, left: symbols[i]!, right: symbols[j]!, id: merge.id })
  }
  for (let i = 0; i + 1 < n; i++) consider(i)
  for (let pair = heap.pop(); pair !== undefined; pair = heap.pop()) {
    const { at, left, right, id } = pair
    const j = next[at]!
    // Stale: one of the two has been merged away since.
    if (symbols[at] !== left || j < 0 || symbols[j] !== right) continue
    symbols[at] = id
    symbols[j] = -1
    next[at] = next[j]!
    if (next[j]! >= 0) previous[next[j]!] = at
    next[j] = -1
    consider(previous[at]!)
    consider(at)
  }
  return symbols.filter((symbol) => symbol >= 0)
}

interface Pair {
  rank: number
  at: number
  left: number
  right: number
  id: number
}

/** Binary heap by (rank, position). */
class PairHeap {
  readonly #items: Pair[] = []

  push(pair: Pair): void {
    const items = this.#items
    let i = items.length
    items.push(pair)
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (!isBefore(pair, items[parent]!)) break
      items[i] = items[parent]!
      i = parent
    }
    items[i] = pair
  }

  pop(): Pair | undefined {
    const items = this.#items
    const top = items[0]
    const last = items.pop()
    if (last === undefined || items.length === 0) return top
    let i = 0
    for (;;) {
      let child = 2 * i + 1
      if (child >= items.length) break
      if (child + 1 < items.length && isBefore(items[child + 1]!, items[child]!)) child++
      if (!isBefore(items[child]!, last)) break
      items[i] = items[child]!
      i = child
    }
    items[i] = last
    return top
  }
}

function isBefore(a: Pair, b: Pair): boolean {
  return a.rank < b.rank || (a.rank === b.rank && a.at < b.at)
}
