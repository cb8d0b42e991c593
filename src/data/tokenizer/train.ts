// Training byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909): count pieces once, then join the most frequent pair
// again and again, updating only the words it occurs in. Deterministic: ties go to the pair whose left token's bytes,
// then right token's bytes, come first. Counts are doubles: exact up to 2^53, where 32-bit counts overflow.
import { TokenizerError } from '../../core/errors.ts'
import type { AddedToken } from './added-tokens.ts'
import { latin1 } from './definition.ts'
import { LLAMA3_PATTERN, scannerOf } from './pretokenize.ts'
import type { PieceScanner } from './scanners.ts'
import { Tokenizer } from './tokenizer.ts'

export interface TokenizerTraining {
  /** Ids in all: 256 bytes, merges and special tokens. */
  vocabSize: number
  /** In the order of their ids, after all others. The first named `<|endoftext|>` becomes the end of a document. */
  specialTokens?: readonly string[]
  pattern?: string
  /** Pairs that occur less often are not joined. */
  minFrequency?: number
  onProgress?: (merges: number, total: number) => void
}

export const END_OF_TEXT = '<|endoftext|>'

/** Counts of pieces over documents, kept between calls: a corpus larger than memory is counted as it streams by. */
export class PieceCounter {
  readonly counts = new Map<string, number>()
  readonly #scan: PieceScanner

  /** @throws TokenizerError if the pattern is no regular expression that is known here */
  constructor(pattern: string = LLAMA3_PATTERN) {
    this.#scan = scannerOf(pattern)
  }

  add(document: string): void {
    const text = document.toWellFormed()
    for (let start = 0; start < text.length; ) {
      const end = this.#scan(text, start)
      const piece = text.slice(start, end)
      const count = this.counts.get(piece)
      // A slice keeps the whole document in memory, so what stays is a copy.
      if (count === undefined) this.counts.set(Buffer.from(piece, 'utf16le').toString('utf16le'), 1)
      else this.counts.set(piece, count + 1)
      start = end
    }
  }
}

/**
 * Trains a tokenizer on documents.
 * @throws TokenizerError if the vocabulary has no room for the bytes and special tokens
 */
export function trainTokenizer(documents: Iterable<string>, options: TokenizerTraining): Tokenizer {
  const counter = new PieceCounter(options.pattern)
  for (const document of documents) counter.add(document)
  return trainFromCounts(counter.counts, options)
}

/** Trains from piece counts. */
export function trainFromCounts(counts: ReadonlyMap<string, number>, options: TokenizerTraining): Tokenizer {
  const { vocabSize, specialTokens = [END_OF_TEXT], pattern = LLAMA3_PATTERN, minFrequency = 2 } = options
  const total = vocabSize - 256 - specialTokens.length
  if (total < 0) {
    throw new TokenizerError(
      `tokenizer: vocabSize must be at least ${256 + specialTokens.length} (256 bytes and ${specialTokens.length} special tokens), got ${vocabSize}`,
    )
  }
  const specials = new Set(specialTokens)
  if (specials.size < specialTokens.length || specials.has('')) {
    throw new TokenizerError('tokenizer: special tokens must differ from each other and from the empty text')
  }
  const vocabulary: Uint8Array[] = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte))
  const merges = mergePairs(counts, vocabulary, total, minFrequency, options.onProgress)
  const addedTokens: AddedToken[] = specialTokens.map((content, i) => ({
    id: vocabulary.length + i,
    content,
    special: true,
  }))
  const end = addedTokens.find((token) => token.content === END_OF_TEXT)?.id
  return new Tokenizer({
    kind: 'bytes',
    vocabulary,
    merges,
    pattern,
    ignoreMerges: false,
    normalization: '',
    addedTokens,
    ...(end !== undefined && { eosTokenId: end, bosTokenId: end }),
    addsBos: false,
  })
}

interface PairState {
  left: number
  right: number
  count: number
  /** Words it has occurred in; some may have lost it since. */
  words: Set<number>
}

function mergePairs(
  counts: ReadonlyMap<string, number>,
  vocabulary: Uint8Array[],
  total: number,
  minFrequency: number,
  onProgress?: (merges: number, total: number) => void,
): [number, number, number][] {
  const utf8 = new TextEncoder()
  const words: number[][] = []
  const frequencies: number[] = []
  for (const [piece, count] of counts) {
    words.push(Array.from(utf8.encode(piece)))
    frequencies.push(count)
  }
  const keys = vocabulary.map(latin1)
  const pairs = new Map<number, PairState>()
  const touch = (left: number, right: number, word: number, delta: number): PairState => {
    const key = pairKey(left, right)
    let pair = pairs.get(key)
    if (pair === undefined) {
      pair = { left, right, count: 0, words: new Set() }
      pairs.set(key, pair)
    }
    pair.count += delta
    if (delta > 0) pair.words.add(word)
    return pair
  }
  words.forEach((word, w) => {
    for (let i = 0; i + 1 < word.length; i++) touch(word[i]!, word[i + 1]!, w, frequencies[w]!)
  })
  const heap = new CountHeap(keys)
  for (const pair of pairs.values()) heap.push({ pair, count: pair.count })

  const merges: [number, number, number][] = []
  while (merges.length < total) {
    const top = heap.pop()
    if (top === undefined) break
    const { pair } = top
    if (top.count !== pair.count) {
      // Its count has changed since: back with the present one.
      if (pair.count > 0) heap.push({ pair, count: pair.count })
      continue
    }
    if (pair.count < minFrequency) break
    const id = vocabulary.length
    const { left, right } = pair
    const joined = new Uint8Array([...vocabulary[left]!, ...vocabulary[right]!])
    vocabulary.push(joined)
    keys.push(latin1(joined))
    merges.push([left, right, id])
    const risen = new Set<PairState>()
    for (const w of pair.words) joinInWord(words[w]!, w, frequencies[w]!, left, right, id, touch, risen)
    pairs.delete(pairKey(left, right))
    pair.count = 0
    for (const state of risen) heap.push({ pair: state, count: state.count })
    if (merges.length % 64 === 0) onProgress?.(merges.length, total)
  }
  onProgress?.(merges.length, total)
  return merges
}

/** Replaces each left-right in a word by `id` and moves the counts of the pairs around it. */
function joinInWord(
  word: number[],
  w: number,
  frequency: number,
  left: number,
  right: number,
  id: number,
  touch: (left: number, right: number, word: number, delta: number) => PairState,
  risen: Set<PairState>,
): void {
  let to = 0
  for (let i = 0; i < word.length; i++) {
    if (word[i] !== left || word[i + 1] !== right) {
      word[to++] = word[i]!
      continue
    }
    if (to > 0) {
      touch(word[to - 1]!, left, w, -frequency)
      risen.add(touch(word[to - 1]!, id, w, frequency))
    }
    if (i + 2 < word.length) {
      touch(right, word[i + 2]!, w, -frequency)
      risen.add(touch(id, word[i + 2]!, w, frequency))
    }
    word[to++] = id
    i++
  }
  word.length = to
}

interface Ranked {
  pair: PairState
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
