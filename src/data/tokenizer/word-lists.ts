// The words of every pair, ascending, all lists in one array: ~pair, then its words, up to the next negative number. A
// list is made whole and never grows. Words that have lost the pair stay until the array is full and swept.
import { grown } from './flat-arrays.ts'
import type { PairTable } from './pair-table.ts'
import type { TrainingWords } from './training-words.ts'

export class WordLists {
  readonly #words: TrainingWords
  readonly #pairs: PairTable
  /** May be replaced by reserve(). */
  cells: Int32Array = new Int32Array(0)
  #end = 0

  constructor(words: TrainingWords, pairs: PairTable) {
    this.#words = words
    this.#pairs = pairs
  }

  /**
   * Makes room for lists of `cells` words and heads in all, by sweeping if need be.
   * @param kept  a pair whose list stays whole, words without the pair included; -1 for none
   */
  reserve(cells: number, kept: number): void {
    if (this.#end + cells <= this.cells.length) return
    this.#sweep(kept)
    const needed = this.#end + cells
    // Nearly full after sweeping: it would soon be swept again, for little.
    if (needed > 0.875 * this.cells.length) this.cells = grown(this.cells, Math.ceil(1.25 * needed))
  }

  /** Starts the list of a pair, in reserved room. @returns the cell of its first word; the caller fills `size` of them */
  open(pair: number, size: number): number {
    const head = this.#end
    this.cells[head] = ~pair
    this.#pairs.lists[pair] = head
    this.#end = head + 1 + size
    return head + 1
  }

  /** Behind the last cell of any list. */
  get end(): number {
    return this.#end
  }

  /** Moves the lists that are still some pair's to the front, without the words that have lost it. */
  #sweep(kept: number): void {
    const { cells } = this
    const { lists, left, right } = this.#pairs
    const end = this.#end
    let to = 0
    for (let at = 0; at < end; ) {
      const pair = ~cells[at]!
      // The number may belong to a newer pair, whose list lies elsewhere.
      const isAlive = lists[pair] === at
      at++
      if (!isAlive) {
        while (at < end && cells[at]! >= 0) at++
        continue
      }
      lists[pair] = to
      cells[to++] = ~pair
      const [a, b] = [left[pair]!, right[pair]!]
      for (; at < end && cells[at]! >= 0; at++) {
        const word = cells[at]!
        if (pair === kept || this.#words.hasPair(word, a, b)) cells[to++] = word
      }
    }
    this.#end = to
  }
}
