// The distinct pieces of a text as lists of token ids, which shrink in place as pairs are joined. Knows nothing of what
// pairs there are or how frequent they are.
import { release } from './flat-arrays.ts'
import type { PieceTable } from './piece-counter.ts'

export class TrainingWords {
  readonly count: number
  /** Ids of word w are symbols[starts[w] .. starts[w] + lengths[w]). */
  readonly symbols: Uint16Array | Uint32Array
  readonly starts: Float64Array
  readonly lengths: Int32Array
  /** How often each word occurs. */
  readonly frequencies: Float64Array
  /** Of all words as often as they occur. */
  readonly bytes: number

  /** Takes the arrays of `pieces` over; its bytes are let go. `vocabSize` is one above the largest id. */
  constructor({ size, bytes, starts, counts }: PieceTable, vocabSize: number) {
    this.count = size
    this.starts = starts
    this.frequencies = counts
    const distinctBytes = starts[size]!
    this.symbols = vocabSize <= 0x10000 ? new Uint16Array(distinctBytes) : new Uint32Array(distinctBytes)
    this.symbols.set(bytes.subarray(0, distinctBytes))
    release(bytes)
    this.lengths = new Int32Array(size)
    let total = 0
    for (let w = 0; w < size; w++) {
      const length = starts[w + 1]! - starts[w]!
      this.lengths[w] = length
      total += length * counts[w]!
    }
    this.bytes = total
  }

  /** Of all words as often as they occur. */
  countTokens(): number {
    let tokens = 0
    for (let w = 0; w < this.count; w++) tokens += this.lengths[w]! * this.frequencies[w]!
    return tokens
  }

  hasPair(word: number, left: number, right: number): boolean {
    const { symbols } = this
    const start = this.starts[word]!
    const last = start + this.lengths[word]! - 1
    for (let i = start; i < last; i++) if (symbols[i] === left && symbols[i + 1] === right) return true
    return false
  }
}
