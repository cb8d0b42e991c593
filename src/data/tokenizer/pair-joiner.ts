// One merge: replaces a pair by its new token in every word that has it, moves the counts of the pairs around it, and
// makes the pairs that the new token forms. Does not choose which pair is next.
import { grown } from './flat-arrays.ts'
import type { PairHeap } from './pair-heap.ts'
import type { PairTable } from './pair-table.ts'
import type { TrainingWords } from './training-words.ts'
import type { WordLists } from './word-lists.ts'

export class PairJoiner {
  readonly #words: TrainingWords
  readonly #pairs: PairTable
  readonly #lists: WordLists
  readonly #heap: PairHeap
  readonly #minFrequency: number
  /** The tokens before, and those behind, the new token. */
  readonly #before: Neighbours
  readonly #behind: Neighbours
  #fallen = new Int32Array(1 << 10)
  #fallenCount = 0

  constructor(
    words: TrainingWords,
    pairs: PairTable,
    lists: WordLists,
    heap: PairHeap,
    { vocabSize, minFrequency }: { vocabSize: number; minFrequency: number },
  ) {
    this.#words = words
    this.#pairs = pairs
    this.#lists = lists
    this.#heap = heap
    this.#minFrequency = minFrequency
    this.#before = new Neighbours(vocabSize)
    this.#behind = new Neighbours(vocabSize)
  }

  /** Makes `id` of every occurrence of `pair`, which is in the heap no more and is forgotten. */
  join(pair: number, id: number): void {
    const [left, right] = [this.#pairs.left[pair]!, this.#pairs.right[pair]!]
    const { end, cells } = this.#lists
    for (let at = this.#pairs.lists[pair]! + 1; at < end && cells[at]! >= 0; at++) {
      this.#joinWord(cells[at]!, left, right, id)
    }
    this.#addPairs(pair, id)
    this.#pairs.forget(pair)
    this.#pairs.recycle(pair)
    this.#forgetRare(pair)
  }

  #joinWord(word: number, left: number, right: number, id: number): void {
    const { symbols } = this.#words
    const frequency = this.#words.frequencies[word]!
    const start = this.#words.starts[word]!
    const end = start + this.#words.lengths[word]!
    let to = start
    let previous = -1
    for (let i = start; i < end; i++) {
      const symbol = symbols[i]!
      if (symbol === left && i + 1 < end && symbols[i + 1] === right) {
        if (previous >= 0) {
          this.#before.add(previous, word, frequency)
          // Where an occurrence ends right before this one, it has taken the pair between them away already.
          if (previous !== id) this.#fall(previous, left, frequency)
        }
        if (i + 2 < end) this.#fall(right, symbols[i + 2]!, frequency)
        symbols[to++] = id
        previous = id
        i++
      } else {
        if (previous === id) this.#behind.add(symbol, word, frequency)
        symbols[to++] = symbol
        previous = symbol
      }
    }
    this.#words.lengths[word] = to - start
  }

  #fall(left: number, right: number, frequency: number): void {
    const pair = this.#pairs.find(left, right)
    if (pair < 0) return
    const count = this.#pairs.counts[pair]! - frequency
    this.#pairs.counts[pair] = count
    if (count >= this.#minFrequency || count + frequency < this.#minFrequency) return
    if (this.#fallenCount === this.#fallen.length) this.#fallen = grown(this.#fallen, 2 * this.#fallenCount)
    this.#fallen[this.#fallenCount++] = pair
  }

  /** A pair's count rises only in the merge that makes its newer token: what is too rare now will never be joined. */
  #forgetRare(joined: number): void {
    for (let i = 0; i < this.#fallenCount; i++) {
      const pair = this.#fallen[i]!
      if (pair !== joined) this.#pairs.forget(pair)
    }
    this.#fallenCount = 0
  }

  #addPairs(joined: number, id: number): void {
    const sides = [this.#before, this.#behind]
    let cells = 0
    for (const { tokens, count, counts, words } of sides) {
      for (let i = 0; i < count; i++) {
        const token = tokens[i]!
        if (counts[token]! >= this.#minFrequency) cells += 1 + words[token]!
      }
    }
    if (cells > 0) {
      this.#lists.reserve(cells, joined)
      for (const side of sides) this.#openLists(side, id)
      this.#fillLists(joined, id)
    }
    for (const side of sides) side.clear()
  }

  #openLists(side: Neighbours, id: number): void {
    for (let i = 0; i < side.count; i++) {
      const token = side.tokens[i]!
      const count = side.counts[token]!
      if (count < this.#minFrequency) continue
      const pair = side === this.#before ? this.#pairs.add(token, id, count) : this.#pairs.add(id, token, count)
      side.cursors[token] = this.#lists.open(pair, side.words[token]!)
      this.#heap.push(pair)
    }
  }

  /** Goes over the words once more: their new pairs are met in the order in which they were counted. */
  #fillLists(joined: number, id: number): void {
    const { symbols, starts, lengths } = this.#words
    const { cells } = this.#lists
    const before = this.#before.cursors
    const behind = this.#behind.cursors
    for (let at = this.#pairs.lists[joined]! + 1; cells[at]! >= 0; at++) {
      const word = cells[at]!
      const end = starts[word]! + lengths[word]!
      let previous = -1
      for (let i = starts[word]!; i < end; i++) {
        const symbol = symbols[i]!
        if (symbol === id) {
          if (previous >= 0) append(cells, before, previous, word)
        } else if (previous === id) append(cells, behind, symbol, word)
        previous = symbol
      }
    }
  }
}

/** Puts a word where the cursor of `token` stands, if it has one, unless the word is there already. */
function append(cells: Int32Array, cursors: Float64Array, token: number, word: number): void {
  const cursor = cursors[token]!
  if (cursor < 0 || cells[cursor - 1] === word) return
  cells[cursor] = word
  cursors[token] = cursor + 1
}

/** The tokens on one side of the new one. */
class Neighbours {
  /** The first `count`, each once. */
  readonly tokens: Int32Array
  count = 0
  /** By token: how often it stands there; in how many words; the last of them; the cell of its list to fill next. */
  readonly counts: Float64Array
  readonly words: Int32Array
  readonly #lastWords: Int32Array
  readonly cursors: Float64Array

  constructor(vocabSize: number) {
    this.tokens = new Int32Array(vocabSize)
    this.counts = new Float64Array(vocabSize)
    this.words = new Int32Array(vocabSize)
    this.#lastWords = new Int32Array(vocabSize).fill(-1)
    this.cursors = new Float64Array(vocabSize).fill(-1)
  }

  add(token: number, word: number, frequency: number): void {
    if (this.#lastWords[token] !== word) {
      if (this.words[token] === 0) this.tokens[this.count++] = token
      this.#lastWords[token] = word
      this.words[token]!++
    }
    this.counts[token]! += frequency
  }

  clear(): void {
    for (let i = 0; i < this.count; i++) {
      const token = this.tokens[i]!
      this.counts[token] = 0
      this.words[token] = 0
      this.#lastWords[token] = -1
      this.cursors[token] = -1
    }
    this.count = 0
  }
}
