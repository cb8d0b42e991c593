// The merges of byte-level BPE from piece counts: join the most frequent pair again and again, looking only at the words
// that it occurs in. Words lie one after the other in one array and shrink in place; the words of a pair are a list, to
// which words that have lost the pair since may still belong. A pair's count rises only while the merge that makes its
// newer token runs: one that is too rare after that, or becomes so, will never be joined and is forgotten.
import { latin1 } from './definition.ts'
import type { PieceCounts } from './piece-counter.ts'

export interface TrainedMerges {
  /** [left id, right id, new id], in the order of their making. */
  merges: [number, number, number][]
  /** Of all pieces, as often as they occur: bytes before, tokens after. */
  bytes: number
  tokens: number
}

interface Pair {
  readonly left: number
  readonly right: number
  count: number
  /** First and last node of its words in WordLists, -1 for none. */
  first: number
  last: number
}

/**
 * Appends the new tokens to `vocabulary`, whose first 256 are the bytes.
 * Ties go to the pair whose left token's bytes, then right token's bytes, come first.
 * @param most  merges to make; fewer where no pair occurs `minFrequency` times any more
 */
export function trainMerges(
  counts: PieceCounts,
  vocabulary: Uint8Array[],
  most: number,
  minFrequency: number,
  onProgress?: (merges: number, total: number) => void,
): TrainedMerges {
  const words = new Words(counts, vocabulary.length + most)
  const keys = vocabulary.map(latin1)
  const lists = new WordLists()
  const pairs = initialPairs(words, lists)
  const heap = new CountHeap(keys)
  for (const pair of pairs.values()) heap.push({ pair, count: pair.count })
  const merges: TrainedMerges['merges'] = []
  while (merges.length < most) {
    const top = heap.pop()
    if (top === undefined) break
    const { pair } = top
    if (top.count !== pair.count) {
      // Its count has changed since: back with the present one.
      if (pair.count >= minFrequency) heap.push({ pair, count: pair.count })
      continue
    }
    if (pair.count < minFrequency) break
    const id = vocabulary.length
    const joined = new Uint8Array([...vocabulary[pair.left]!, ...vocabulary[pair.right]!])
    vocabulary.push(joined)
    keys.push(latin1(joined))
    merges.push([pair.left, pair.right, id])
    const risen = new Set<Pair>()
    const fallen = new Set<Pair>()
    lists.drain(pair, (w) => words.join(w, pair, id, pairs, lists, risen, fallen))
    pairs.delete(pairKey(pair.left, pair.right))
    pair.count = 0
    const forget = (rare: Pair): void => {
      pairs.delete(pairKey(rare.left, rare.right))
      lists.drain(rare, () => {})
    }
    for (const state of risen) {
      if (state.count >= minFrequency) heap.push({ pair: state, count: state.count })
      else forget(state)
    }
    for (const state of fallen) if (state.count < minFrequency) forget(state)
    if (merges.length % 64 === 0) onProgress?.(merges.length, most)
  }
  onProgress?.(merges.length, most)
  return { merges, bytes: words.bytes, tokens: words.countTokens() }
}

/** Distinct pieces as lists of token ids. */
class Words {
  readonly count: number
  /** Ids of word w are symbols[starts[w] .. starts[w] + lengths[w]). */
  readonly symbols: Uint16Array | Uint32Array
  readonly starts: Float64Array
  readonly lengths: Int32Array
  readonly frequencies: Float64Array
  /** Of all pieces as often as they occur. */
  readonly bytes: number

  constructor(counts: PieceCounts, vocabSize: number) {
    this.count = counts.size
    this.symbols = vocabSize <= 0x10000 ? new Uint16Array(counts.distinctBytes) : new Uint32Array(counts.distinctBytes)
    this.starts = new Float64Array(this.count)
    this.lengths = new Int32Array(this.count)
    this.frequencies = new Float64Array(this.count)
    const utf8 = new TextEncoder()
    let [word, at, bytes] = [0, 0, 0]
    let buffer = new Uint8Array(1 << 12)
    for (const [piece, frequency] of counts) {
      if (3 * piece.length > buffer.length) buffer = new Uint8Array(3 * piece.length)
      const { written } = utf8.encodeInto(piece, buffer)
      this.starts[word] = at
      this.lengths[word] = written
      this.frequencies[word] = frequency
      for (let i = 0; i < written; i++) this.symbols[at + i] = buffer[i]!
      at += written
      bytes += written * frequency
      word++
    }
    this.bytes = bytes
  }

  countTokens(): number {
    let tokens = 0
    for (let w = 0; w < this.count; w++) tokens += this.lengths[w]! * this.frequencies[w]!
    return tokens
  }

  /** Replaces each occurrence of the pair in word w by `id` and moves the counts of the pairs around it. */
  join(
    w: number,
    { left, right }: Pair,
    id: number,
    pairs: Map<number, Pair>,
    lists: WordLists,
    risen: Set<Pair>,
    fallen: Set<Pair>,
  ): void {
    const { symbols } = this
    const start = this.starts[w]!
    const length = this.lengths[w]!
    const frequency = this.frequencies[w]!
    const fall = (a: number, b: number): void => {
      const pair = pairs.get(pairKey(a, b))
      if (pair === undefined) return
      pair.count -= frequency
      fallen.add(pair)
    }
    const rise = (a: number, b: number): void => {
      const key = pairKey(a, b)
      let pair = pairs.get(key)
      if (pair === undefined) {
        pair = { left: a, right: b, count: 0, first: -1, last: -1 }
        pairs.set(key, pair)
      }
      pair.count += frequency
      lists.add(pair, w)
      risen.add(pair)
    }
    let to = start
    const end = start + length
    for (let i = start; i < end; i++) {
      if (symbols[i] !== left || i + 1 >= end || symbols[i + 1] !== right) {
        symbols[to++] = symbols[i]!
        continue
      }
      if (to > start) {
        fall(symbols[to - 1]!, left)
        rise(symbols[to - 1]!, id)
      }
      if (i + 2 < end) {
        fall(right, symbols[i + 2]!)
        rise(id, symbols[i + 2]!)
      }
      symbols[to++] = id
      i++
    }
    this.lengths[w] = to - start
  }
}

/** Pairs of bytes with their counts and words. */
function initialPairs({ count, symbols, starts, lengths, frequencies }: Words, lists: WordLists): Map<number, Pair> {
  // Indexed by left byte x 256 + right byte: a Map would be asked for every character of every word.
  const found: (Pair | undefined)[] = new Array(1 << 16).fill(undefined)
  for (let w = 0; w < count; w++) {
    const last = starts[w]! + lengths[w]! - 1
    for (let i = starts[w]!; i < last; i++) {
      const [left, right] = [symbols[i]!, symbols[i + 1]!]
      const code = left * 256 + right
      let pair = found[code]
      if (pair === undefined) {
        pair = { left, right, count: 0, first: -1, last: -1 }
        found[code] = pair
      }
      pair.count += frequencies[w]!
      lists.add(pair, w)
    }
  }
  return new Map(found.flatMap((pair) => (pair === undefined ? [] : [[pairKey(pair.left, pair.right), pair]])))
}

const NODES_PER_CHUNK = 1 << 20

/** The words of every pair, as linked lists of (word, next node) in chunks; nodes of emptied lists are used again. */
class WordLists {
  readonly #chunks: Int32Array[] = []
  #nodes = 0
  #free = -1

  /** Appends a word; adding it twice in a row adds it once. */
  add(pair: Pair, word: number): void {
    if (pair.last >= 0 && this.#wordOf(pair.last) === word) return
    const node = this.#take()
    this.#set(node, word, -1)
    if (pair.last < 0) pair.first = node
    else this.#setNext(pair.last, node)
    pair.last = node
  }

  /** Empties a list, handing out its words in order. */
  drain(pair: Pair, visit: (word: number) => void): void {
    let node = pair.first
    pair.first = -1
    pair.last = -1
    while (node >= 0) {
      const next = this.#nextOf(node)
      visit(this.#wordOf(node))
      this.#setNext(node, this.#free)
      this.#free = node
      node = next
    }
  }

  #take(): number {
    if (this.#free >= 0) {
      const node = this.#free
      this.#free = this.#nextOf(node)
      return node
    }
    if (this.#nodes % NODES_PER_CHUNK === 0) this.#chunks.push(new Int32Array(2 * NODES_PER_CHUNK))
    return this.#nodes++
  }

  #wordOf(node: number): number {
    return this.#chunks[Math.floor(node / NODES_PER_CHUNK)]![2 * (node % NODES_PER_CHUNK)]!
  }

  #nextOf(node: number): number {
    return this.#chunks[Math.floor(node / NODES_PER_CHUNK)]![2 * (node % NODES_PER_CHUNK) + 1]!
  }

  #set(node: number, word: number, next: number): void {
    const chunk = this.#chunks[Math.floor(node / NODES_PER_CHUNK)]!
    chunk[2 * (node % NODES_PER_CHUNK)] = word
    chunk[2 * (node % NODES_PER_CHUNK) + 1] = next
  }

  #setNext(node: number, next: number): void {
    this.#chunks[Math.floor(node / NODES_PER_CHUNK)]![2 * (node % NODES_PER_CHUNK) + 1] = next
  }
}

interface Ranked {
  pair: Pair
  count: number
}

/** Binary heap: highest count first, then the bytes of the left and of the right token. */
class CountHeap {
  readonly #items: Ranked[] = []
  readonly #keys: readonly string[]

  constructor(keys: readonly string[]) {
    this.#keys = keys
  }

  push(item: Ranked): void {
    const items = this.#items
    let i = items.length
    items.push(item)
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (!this.#isBefore(item, items[parent]!)) break
      items[i] = items[parent]!
      i = parent
    }
    items[i] = item
  }

  pop(): Ranked | undefined {
    const items = this.#items
    const top = items[0]
    const last = items.pop()
    if (last === undefined || items.length === 0) return top
    let i = 0
    for (;;) {
      let child = 2 * i + 1
      if (child >= items.length) break
      if (child + 1 < items.length && this.#isBefore(items[child + 1]!, items[child]!)) child++
      if (!this.#isBefore(items[child]!, last)) break
      items[i] = items[child]!
      i = child
    }
    items[i] = last
    return top
  }

  #isBefore(a: Ranked, b: Ranked): boolean {
    if (a.count !== b.count) return a.count > b.count
    const keys = this.#keys
    if (a.pair.left !== b.pair.left) return keys[a.pair.left]! < keys[b.pair.left]!
    return keys[a.pair.right]! < keys[b.pair.right]!
  }
}

function pairKey(left: number, right: number): number {
  return left * 0x4000000 + right
}
