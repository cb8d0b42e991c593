// What a loader hands to a training or evaluation step: integer arrays on the host, in the layout that the models take.

/** A target that is not trained or scored. */
export const NO_TARGET = -1

/** A micro-batch: B rows of T positions, row-major. */
export interface HostBatch {
  /** B. */
  readonly batchSize: number
  /** T. */
  readonly seqLen: number
  /** [B, T] input ids. */
  readonly tokens: Int32Array<ArrayBuffer>
  /** [B, T] id that each position is to predict, or -1. */
  readonly targets: Int32Array<ArrayBuffer>
  /** [B, T] position within the document piece, from 0. */
  readonly positions: Int32Array<ArrayBuffer>
  /** [B, T] row index of the first position of each position's piece: i may look at j with docStart[i] <= j <= i. */
  readonly docStart: Int32Array<ArrayBuffer>
  /** [B, 2] low and high 32 bits of each row's number in the run: the same however the batch is divided. */
  readonly sampleIndex: Int32Array<ArrayBuffer>
  /** Number of targets that are not -1. */
  readonly trainedTokens: number
}

/** A batch of zeros, all targets -1, that a loader then fills row by row. */
export function emptyBatch(batchSize: number, seqLen: number): HostBatch & { trainedTokens: number } {
  const elements = batchSize * seqLen
  return {
    batchSize,
    seqLen,
    tokens: new Int32Array(elements),
    targets: new Int32Array(elements).fill(NO_TARGET),
    positions: new Int32Array(elements),
    docStart: new Int32Array(elements),
    sampleIndex: new Int32Array(batchSize * 2),
    trainedTokens: 0,
  }
}

/** Writes row number `index` (below 2^53) of the run for row `row` of the batch. */
export function setSampleIndex(batch: HostBatch, row: number, index: number): void {
  batch.sampleIndex[row * 2] = (index % 2 ** 32) | 0
  batch.sampleIndex[row * 2 + 1] = Math.floor(index / 2 ** 32)
}
