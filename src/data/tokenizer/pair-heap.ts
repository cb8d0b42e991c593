// The pair to join next: a binary heap of pair numbers, ranked by the counts of when they were last looked at. Counts
// only fall once a pair is here, so one that comes to the top and has fallen is put back with its present count.
import { grown } from './flat-arrays.ts'
import type { PairTable } from './pair-table.ts'

/** Forgotten pairs that are let lie before the heap is made anew without them. */
const MANY_FORGOTTEN = 1 << 14

/** Highest count first, then the bytes of the left and of the right token. */
export class PairHeap {
  readonly #pairs: PairTable
  readonly #keys: readonly string[]
  #items = new Int32Array(1 << 12)
  #size = 0

  /** @param keys  bytes of each token, as strings that compare as the bytes do; may grow */
  constructor(pairs: PairTable, keys: readonly string[]) {
    this.#pairs = pairs
    this.#keys = keys
  }

  push(pair: number): void {
    if (this.#size === this.#items.length) this.#items = grown(this.#items, 2 * this.#size)
    const items = this.#items
    let i = this.#size++
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (!this.#isBefore(pair, items[parent]!)) break
      items[i] = items[parent]!
      i = parent
    }
    items[i] = pair
  }

  /** Takes out the most frequent pair; -1 when there is none. */
  pop(): number {
    const { counts, ranks, forgotten } = this.#pairs
    if (forgotten > MANY_FORGOTTEN && 2 * forgotten > this.#size) this.#dropForgotten()
    while (this.#size > 0) {
      const top = this.#items[0]!
      if (counts[top] === ranks[top]) {
        this.#dropTop()
        return top
      }
      if (counts[top] === 0) {
        this.#dropTop()
        this.#pairs.recycle(top)
      } else {
        ranks[top] = counts[top]!
        this.#sink(top, 0)
      }
    }
    return -1
  }

  #dropTop(): void {
    const last = this.#items[--this.#size]!
    if (this.#size > 0) this.#sink(last, 0)
  }

  #dropForgotten(): void {
    const { counts, ranks } = this.#pairs
    const items = this.#items
    let size = 0
    for (let i = 0; i < this.#size; i++) {
      const pair = items[i]!
      if (counts[pair] === 0) {
        this.#pairs.recycle(pair)
        continue
      }
      ranks[pair] = counts[pair]!
      items[size++] = pair
    }
    this.#size = size
    for (let i = (size >> 1) - 1; i >= 0; i--) this.#sink(items[i]!, i)
  }

  /** Puts `pair` where it belongs among the items from `i` down, whose first place is to be filled. */
  #sink(pair: number, i: number): void {
    const items = this.#items
    const size = this.#size
    for (;;) {
      let child = 2 * i + 1
      if (child >= size) break
      if (child + 1 < size && this.#isBefore(items[child + 1]!, items[child]!)) child++
      if (!this.#isBefore(items[child]!, pair)) break
      items[i] = items[child]!
      i = child
    }
    items[i] = pair
  }

  #isBefore(a: number, b: number): boolean {
    const { ranks, left, right } = this.#pairs
    if (ranks[a] !== ranks[b]) return ranks[a]! > ranks[b]!
    const keys = this.#keys
    if (left[a] !== left[b]) return keys[left[a]!]! < keys[left[b]!]!
    return keys[right[a]!]! < keys[right[b]!]!
  }
}
