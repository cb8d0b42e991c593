// The endless token stream of a run: every epoch is all documents of the dataset in a fresh seeded order, one after
// the other, and epochs follow each other without a gap. Any position can be read at once. It cuts no rows.
import { DataError } from '../core/errors.ts'
import { philox, randomKey } from '../core/random.ts'
import type { TokenArray, TokenDataset } from './dataset.ts'

/** A stretch of the stream inside one document. */
export interface Piece {
  /** Number of the document in its dataset. */
  readonly index: number
  /** All tokens of the document. */
  readonly document: TokenArray
  /** Tokens [from, to) of it. */
  readonly from: number
  readonly to: number
}

interface Epoch {
  readonly number: number
  /** Document at each place of the epoch's order. */
  readonly order: Uint32Array
  /** Stream position, within the epoch, of the first token at each place; one more entry for the end. */
  readonly starts: Float64Array
}

/** Epochs whose order is held: a row or a step may need two at an epoch's end. */
const MAX_EPOCHS_HELD = 2

/**
 * Order of `count` things in epoch `epoch`: a Fisher-Yates shuffle whose draw i is Philox block (i, epoch) of the
 * stream 'data-order' of the seed, so it depends on (seed, epoch, count) alone.
 */
export function epochOrder(count: number, seed: number, epoch: number): Uint32Array {
  const key = randomKey(seed, 'data-order')
  const order = new Uint32Array(count)
  const words = new Uint32Array(4)
  for (let i = 0; i < count; i++) order[i] = i
  for (let i = count - 1; i > 0; i--) {
    philox(words, i, 0, epoch >>> 0, Math.floor(epoch / 2 ** 32), key.keyLow, key.keyHigh)
    // 53 random bits: the bias of a draw among i + 1 is below (i + 1) / 2^53.
    const uniform = ((words[0]! >>> 5) * 2 ** 26 + (words[1]! >>> 6)) * 2 ** -53
    const j = Math.floor(uniform * (i + 1))
    const held = order[i]!
    order[i] = order[j]!
    order[j] = held
  }
  return order
}

export class ShuffledStream {
  readonly dataset: TokenDataset
  readonly seed: number
  /** Tokens of an epoch: all of the dataset's. */
  readonly epochTokens: number
  readonly #held: Epoch[] = []

  /** Memory: 12 bytes a document and epoch held. @throws DataError for a dataset with fewer than two tokens */
  constructor(dataset: TokenDataset, seed: number) {
    if (!(Number.isInteger(seed) && seed >= 0)) {
      throw new DataError(`data: the seed expected an integer from 0 to 2^53 - 1, got ${seed}`)
    }
    if (dataset.totalTokens < 2) {
      throw new DataError(
        `data: ${dataset.folder} expected at least 2 tokens to train on, got ${dataset.totalTokens}; prepare more text`,
      )
    }
    this.dataset = dataset
    this.seed = seed
    this.epochTokens = dataset.totalTokens
  }

  /** Epoch that stream position `position` belongs to. */
  epochAt(position: number): number {
    return Math.floor(position / this.epochTokens)
  }

  /** Calls `visit` for each stretch of stream positions [start, start + count), in order. */
  forEachPiece(start: number, count: number, visit: (piece: Piece) => void): void {
    let position = start
    const end = start + count
    while (position < end) {
      const number = this.epochAt(position)
      const epoch = this.#epoch(number)
      const base = number * this.epochTokens
      let place = placeOf(epoch.starts, position - base)
      while (position < end && place < epoch.order.length) {
        const from = position - base - epoch.starts[place]!
        const to = Math.min(epoch.starts[place + 1]!, end - base) - epoch.starts[place]!
        const index = epoch.order[place]!
        visit({ index, document: this.dataset.documentTokens(index), from, to })
        position += to - from
        place++
      }
    }
  }

  /** Number of documents whose last token is at a stream position in [start, start + count). O(log documents). */
  documentEnds(start: number, count: number): number {
    return this.#endsBefore(start + count) - this.#endsBefore(start)
  }

  #endsBefore(position: number): number {
    const number = this.epochAt(position)
    const within = position - number * this.epochTokens
    // At place p with starts[p] <= within, the p documents before it have ended. At 0 that is none, whatever the order,
    // which an epoch that only begins there need not be shuffled for.
    const ended = within === 0 ? 0 : placeOf(this.#epoch(number).starts, within)
    return number * this.dataset.documentCount + ended
  }

  #epoch(number: number): Epoch {
    const held = this.#held.find((epoch) => epoch.number === number)
    if (held !== undefined) return held
    const { dataset } = this
    const order = epochOrder(dataset.documentCount, this.seed, number)
    const starts = new Float64Array(order.length + 1)
    for (let place = 0; place < order.length; place++) {
      starts[place + 1] = starts[place]! + dataset.documentLength(order[place]!)
    }
    const epoch = { number, order, starts }
    this.#held.push(epoch)
    if (this.#held.length > MAX_EPOCHS_HELD) this.#held.shift()
    return epoch
  }
}

/** The greatest place p, short of the end entry, with starts[p] <= position. */
function placeOf(starts: Float64Array, position: number): number {
  let low = 0
  let high = starts.length - 2
  while (low < high) {
    const middle = (low + high + 1) >>> 1
    if (starts[middle]! <= position) low = middle
    else high = middle - 1
  }
  return low
}
