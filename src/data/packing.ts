// The two ways to cut the shuffled stream into rows. Both give row g the stream positions [gT, gT + T), so no token is
// skipped or repeated and rows have no padding; they differ in what a row knows of document borders.
//
// windows  Plain text windows: a row ignores document borders. Every position is trained on the next token of the
//          stream, also across a border and across an epoch's end. Every token of the dataset is a target exactly
//          once an epoch, save the very first of the run. docStart is 0, positions run 0..T-1.
//
// packed   Document-aware. A row is filled with whole documents as they come; one that does not fit is cut at the
//          row's end, and the rest begins the next row as a piece of its own: positions restart at 0 and attention
//          does not reach back over the cut. The last position of a piece is trained on the document's next token,
//          wherever that is; the last token of a document (EOS, where documents end with it) is an input without a
//          target. Every token is a target exactly once an epoch, save the first of each document (BOS, where
//          documents begin with it; without BOS the model never learns how documents begin).
import { type HostBatch, NO_TARGET } from './host-batch.ts'
import type { ShuffledStream } from './shuffled-stream.ts'

export type PackingMode = 'windows' | 'packed'

/** Fills row `row` of `batch` with the run's row `index`. @returns how many of its positions are trained */
export type FillRow = (batch: HostBatch, row: number, index: number, stream: ShuffledStream) => number

/** Trained positions in `count` rows from row `first` on, without reading them. */
export type CountTrained = (first: number, count: number, seqLen: number, stream: ShuffledStream) => number

export const PACKING: Readonly<Record<PackingMode, { fillRow: FillRow; countTrained: CountTrained }>> = {
  windows: {
    fillRow(batch, row, index, stream) {
      const { tokens, targets, positions, docStart, seqLen } = batch
      const base = row * seqLen
      let at = -1 // row index of the input whose target comes next: the window has T + 1 tokens
      stream.forEachPiece(index * seqLen, seqLen + 1, ({ document, from, to }) => {
        for (let k = from; k < to; k++, at++) {
          const token = document[k]!
          if (at >= 0) targets[base + at] = token
          if (at + 1 < seqLen) tokens[base + at + 1] = token
        }
      })
      for (let t = 0; t < seqLen; t++) {
        positions[base + t] = t
        docStart[base + t] = 0
      }
      return seqLen
    },
    countTrained: (_first, count, seqLen) => count * seqLen,
  },

  packed: {
    fillRow(batch, row, index, stream) {
      const { tokens, targets, positions, docStart, seqLen } = batch
      const base = row * seqLen
      let at = 0
      let trained = 0
      stream.forEachPiece(index * seqLen, seqLen, ({ document, from, to }) => {
        const start = at
        for (let k = from; k < to; k++, at++) {
          const hasNext = k + 1 < document.length
          tokens[base + at] = document[k]!
          targets[base + at] = hasNext ? document[k + 1]! : NO_TARGET
          positions[base + at] = at - start
          docStart[base + at] = start
          if (hasNext) trained++
        }
      })
      return trained
    },
    countTrained: (first, count, seqLen, stream) =>
      count * seqLen - stream.documentEnds(first * seqLen, count * seqLen),
  },
}
