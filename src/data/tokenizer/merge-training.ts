// The merges of byte-level BPE from piece counts: join the most frequent pair again and again, looking only at the words
// that it occurs in. Everything lies in flat arrays: some 80 bytes a distinct piece and 50 a pair (docs/LOG.md).
import { latin1 } from './definition.ts'
import { PairHeap } from './pair-heap.ts'
import { PairJoiner } from './pair-joiner.ts'
import { PairTable } from './pair-table.ts'
import type { PieceTable } from './piece-counter.ts'
import { TrainingWords } from './training-words.ts'
import { WordLists } from './word-lists.ts'

export interface TrainedMerges {
  /** [left id, right id, new id], in the order of their making. */
  merges: [number, number, number][]
  /** Of all pieces, as often as they occur: bytes before, tokens after. */
  bytes: number
  tokens: number
}

/** Merges between two reports of progress. */
const MERGES_PER_STEP = 64
const BYTES = 256

/**
 * Appends the new tokens to `vocabulary`, whose first 256 are the bytes. Yields the number of merges made, now and then.
 * Ties go to the pair whose left token's bytes, then right token's bytes, come first.
 * @param pieces  its arrays are taken over and let go
 * @param most  merges to make; fewer where no pair occurs `minFrequency` times any more
 */
export function* trainMerges(
  pieces: PieceTable,
  vocabulary: Uint8Array[],
  most: number,
  minFrequency: number,
): Generator<number, TrainedMerges> {
  const vocabSize = vocabulary.length + most
  const words = new TrainingWords(pieces, vocabSize)
  const keys = vocabulary.map(latin1)
  const pairs = new PairTable()
  const lists = new WordLists(words, pairs)
  const heap = new PairHeap(pairs, keys)
  addBytePairs(words, pairs, lists, heap, minFrequency)
  const joiner = new PairJoiner(words, pairs, lists, heap, { vocabSize, minFrequency })
  const merges: TrainedMerges['merges'] = []
  while (merges.length < most) {
    const pair = heap.pop()
    if (pair < 0) break
    const [left, right] = [pairs.left[pair]!, pairs.right[pair]!]
    const id = vocabulary.length
    const token = new Uint8Array([...vocabulary[left]!, ...vocabulary[right]!])
    vocabulary.push(token)
    keys.push(latin1(token))
    merges.push([left, right, id])
    joiner.join(pair, id)
    if (merges.length % MERGES_PER_STEP === 0) yield merges.length
  }
  yield merges.length
  return { merges, bytes: words.bytes, tokens: words.countTokens() }
}

/** The pairs of bytes that occur often enough, with their words. */
function addBytePairs(
  { count: wordCount, symbols, starts, lengths, frequencies }: TrainingWords,
  pairs: PairTable,
  lists: WordLists,
  heap: PairHeap,
  minFrequency: number,
): void {
  // By left byte x 256 + right byte.
  const counts = new Float64Array(BYTES * BYTES)
  const sizes = new Int32Array(BYTES * BYTES)
  const lastWords = new Int32Array(BYTES * BYTES).fill(-1)
  for (let word = 0; word < wordCount; word++) {
    const last = starts[word]! + lengths[word]! - 1
    for (let i = starts[word]!; i < last; i++) {
      const code = symbols[i]! * BYTES + symbols[i + 1]!
      counts[code]! += frequencies[word]!
      if (lastWords[code] !== word) sizes[code]!++
      lastWords[code] = word
    }
  }
  let needed = 0
  for (let code = 0; code < counts.length; code++) if (counts[code]! >= minFrequency) needed += 1 + sizes[code]!
  lists.reserve(needed, -1)
  const cursors = new Float64Array(BYTES * BYTES).fill(-1)
  for (let code = 0; code < counts.length; code++) {
    if (counts[code]! < minFrequency) continue
    const pair = pairs.add(Math.floor(code / BYTES), code % BYTES, counts[code]!)
    cursors[code] = lists.open(pair, sizes[code]!)
    heap.push(pair)
  }
  const { cells } = lists
  for (let word = 0; word < wordCount; word++) {
    const last = starts[word]! + lengths[word]! - 1
    for (let i = starts[word]!; i < last; i++) {
      const code = symbols[i]! * BYTES + symbols[i + 1]!
      const cursor = cursors[code]!
      if (cursor < 0 || cells[cursor - 1] === word) continue
      cells[cursor] = word
      cursors[code] = cursor + 1
    }
  }
}
