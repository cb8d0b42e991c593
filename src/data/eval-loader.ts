// The evaluation loader: one sequential pass over a dataset in which every token is scored exactly once, document by
// document, so that bits per byte are exact. No shuffling and no state.

import { DataError } from '../core/errors.ts'
import type { TokenDataset } from './dataset.ts'
import { emptyBatch, type HostBatch, setSampleIndex } from './host-batch.ts'

export interface EvalLoaderOptions {
  /** T, positions a row: the longest context. */
  readonly seqLen: number
  /**
   * New targets of each window after a document's first: windows of a document begin `stride` tokens apart and overlap
   * by T - stride, so a scored token sees at least T - stride tokens before it. Default T: no overlap, cheapest.
   */
  readonly stride?: number | undefined
  /**
   * Id put before each document as context for its first token, for datasets without BOS. Default: nothing where
   * documents begin with BOS; else their EOS id, which is what a model trained on windows has seen there.
   */
  readonly startTokenId?: number | undefined
  /** Score the EOS ids too: the code length of the documents with their ends. Default true. */
  readonly scoreEos?: boolean | undefined
  /** Only these documents, in this order. Default: all. */
  readonly documents?: readonly number[] | undefined
}

/** A stretch of a document in a row: inputs x[from .. to), targets x[from + 1 .. to], the first `unscored` of them -1. */
interface Window {
  readonly document: number
  readonly from: number
  readonly to: number
  readonly unscored: number
}

/**
 * With x = the document, preceded by the start token if one is put there, each document is cut into windows of at most
 * T inputs. Windows fill rows in order; a row holds several short documents, each with its own positions and docStart,
 * and what is left of a row that the next window does not fit into is padding (token 0, target -1, seeing itself only).
 *
 *     bits per byte = (sum of -ln p of all targets that are not -1) / (ln 2 * textBytes)
 */
export class EvalLoader {
  readonly dataset: TokenDataset
  readonly seqLen: number
  /** Targets of the whole pass. */
  readonly scoredTokens: number
  /** UTF-8 bytes of the text of the documents in the pass. */
  readonly textBytes: number
  /** False where the first token of each document cannot be scored: no BOS, no EOS and no `startTokenId`. */
  readonly isExact: boolean
  readonly #rows: readonly (readonly Window[])[]
  readonly #startTokenId: number | undefined
  readonly #scoreEos: boolean

  /** @throws DataError for options out of range */
  constructor(dataset: TokenDataset, options: EvalLoaderOptions) {
    const { seqLen } = options
    const stride = options.stride ?? seqLen
    if (!(Number.isInteger(seqLen) && seqLen >= 1)) {
      throw new DataError(`eval loader: seqLen expected a whole number from 1 on, got ${seqLen}`)
    }
    if (!(Number.isInteger(stride) && stride >= 1 && stride <= seqLen)) {
      throw new DataError(`eval loader: stride expected a whole number from 1 to seqLen=${seqLen}, got ${stride}`)
    }
    const { bosTokenId, eosTokenId, tokenizer } = dataset.manifest
    if (
      options.startTokenId !== undefined &&
      !(options.startTokenId >= 0 && options.startTokenId < tokenizer.vocabSize)
    ) {
      throw new DataError(
        `eval loader: startTokenId expected an id in [0, ${tokenizer.vocabSize}), got ${options.startTokenId}`,
      )
    }
    this.dataset = dataset
    this.seqLen = seqLen
    this.#startTokenId = options.startTokenId ?? (bosTokenId === null ? (eosTokenId ?? undefined) : undefined)
    this.#scoreEos = options.scoreEos ?? true
    this.isExact = bosTokenId !== null || this.#startTokenId !== undefined

    const documents = options.documents ?? Array.from({ length: dataset.documentCount }, (_, i) => i)
    const rows: Window[][] = []
    let free = 0
    let scoredTokens = 0
    let textBytes = 0
    for (const document of documents) {
      for (const window of this.#windows(document, stride)) {
        const length = window.to - window.from
        if (rows.length === 0 || length > free) {
          rows.push([])
          free = seqLen
        }
        rows.at(-1)!.push(window)
        free -= length
        scoredTokens += length - window.unscored
      }
      textBytes += dataset.documentTextBytes(document)
    }
    this.#rows = rows
    this.scoredTokens = scoredTokens
    this.textBytes = textBytes
  }

  get rowCount(): number {
    return this.#rows.length
  }

  /** Batches that cover the pass, for each rank. */
  batchCount(batchSize: number, numRanks = 1): number {
    return Math.ceil(this.rowCount / (batchSize * numRanks))
  }

  /**
   * Batch `i` of rank `rank`: rows [(i numRanks + rank) batchSize, + batchSize). Rows beyond the last are all padding,
   * so that every batch has the same shape; `trainedTokens` counts its scored targets and may be 0.
   */
  batch(i: number, batchSize: number, rank = 0, numRanks = 1): HostBatch {
    const batch = emptyBatch(batchSize, this.seqLen)
    const first = (i * numRanks + rank) * batchSize
    for (let row = 0; row < batchSize; row++) {
      setSampleIndex(batch, row, first + row)
      const used = this.#fillRow(batch, row, this.#rows[first + row] ?? [])
      for (let t = used; t < this.seqLen; t++) batch.docStart[row * this.seqLen + t] = t
    }
    this.dataset.checkIds(batch)
    return batch
  }

  *#windows(document: number, stride: number): Generator<Window> {
    const { eosTokenId } = this.dataset.manifest
    const hiddenEnd = !this.#scoreEos && eosTokenId !== null ? 1 : 0
    // Inputs x[0 .. inputs): the last token of x is a target only.
    const inputs = this.dataset.documentLength(document) + (this.#startTokenId === undefined ? 0 : 1) - 1 - hiddenEnd
    let scored = 0
    for (let from = 0; scored < inputs; from += stride) {
      const to = Math.min(from + this.seqLen, inputs)
      yield { document, from, to, unscored: scored - from }
      scored = to
    }
  }

  /** @returns positions filled */
  #fillRow(batch: HostBatch & { trainedTokens: number }, row: number, windows: readonly Window[]): number {
    const base = row * this.seqLen
    let at = 0
    for (const { document, from, to, unscored } of windows) {
      const tokens = this.dataset.documentTokens(document)
      const shift = this.#startTokenId === undefined ? 0 : 1
      const start = at
      for (let k = from; k < to; k++, at++) {
        batch.tokens[base + at] = k < shift ? this.#startTokenId! : tokens[k - shift]!
        if (k - from >= unscored) batch.targets[base + at] = tokens[k + 1 - shift]!
        batch.positions[base + at] = at - start
        batch.docStart[base + at] = start
      }
      batch.trainedTokens += to - from - unscored
    }
    return at
  }
}
