// The training loader: step number in, rows out. What a row holds is a pure function of (dataset, seed, mode, seqLen,
// rowsPerStep, step), so any rank can make any part of any step, and resuming is asking for the next step. It keeps
// no position and touches no device.
import { DataError } from '../core/errors.ts'
import { shown } from '../core/json.ts'
import type { TokenDataset } from './dataset.ts'
import { emptyBatch, type HostBatch, setSampleIndex } from './host-batch.ts'
import { PACKING, type PackingMode } from './packing.ts'
import { ShuffledStream } from './shuffled-stream.ts'

export interface LoaderOptions {
  readonly mode: PackingMode
  /** T, positions a row. */
  readonly seqLen: number
  /** Rows of the global batch of an optimizer step, over all ranks and micro-batches: batchTokens / T. */
  readonly rowsPerStep: number
  readonly seed: number
}

/** All that fixes the data order, for checkpoints. */
export interface LoaderState extends LoaderOptions {
  /** The next step to run. */
  readonly step: number
  /** Epoch in which that step begins, from 0. */
  readonly epoch: number
  /** `contentHash` of the dataset's manifest. */
  readonly manifestHash: string
}

/** The global batch of one optimizer step; rows are read when a micro-batch is asked for. */
export interface StepBatch {
  readonly step: number
  /** Rows of the global batch. */
  readonly rows: number
  /** Targets of the whole global batch that are not -1: the denominator of the step's mean loss. */
  readonly trainedTokens: number
  /** Epoch in which the step begins, from 0, with the part of it done before this step. */
  readonly epoch: number
  /** Micro-batches of each rank. @throws DataError if the rows do not divide evenly */
  microBatchCount(microBatchSize: number, numRanks?: number): number
  /**
   * Micro-batch `i` of rank `rank`: rows [(i numRanks + rank) microBatchSize, + microBatchSize) of the global batch.
   * @throws DataError if the rows do not divide evenly, or there is no such micro-batch or rank
   */
  microBatch(i: number, microBatchSize: number, rank?: number, numRanks?: number): HostBatch
}

export class DataLoader {
  readonly dataset: TokenDataset
  readonly options: LoaderOptions
  /** Trained tokens of an epoch: with windows all tokens, with packed all but the first of each document. */
  readonly trainedTokensPerEpoch: number
  readonly #stream: ShuffledStream

  /** @throws DataError for options out of range or a dataset that holds nothing to train on */
  constructor(dataset: TokenDataset, options: LoaderOptions) {
    for (const name of ['seqLen', 'rowsPerStep'] as const) {
      if (!(Number.isInteger(options[name]) && options[name] >= 1)) {
        throw new DataError(`data loader: ${name} expected a whole number from 1 on, got ${options[name]}`)
      }
    }
    this.dataset = dataset
    this.options = options
    this.#stream = new ShuffledStream(dataset, options.seed)
    this.trainedTokensPerEpoch = dataset.totalTokens - (options.mode === 'packed' ? dataset.documentCount : 0)
    if (this.trainedTokensPerEpoch === 0) {
      throw new DataError(
        `data loader: ${dataset.folder} has only documents of one token, and with mode 'packed' none of them is a ` +
          "target; use mode 'windows' or prepare longer documents",
      )
    }
  }

  /** Steps in an epoch; seldom a whole number, as an epoch may end inside a step. */
  get stepsPerEpoch(): number {
    return this.dataset.totalTokens / (this.options.rowsPerStep * this.options.seqLen)
  }

  /** The batch of optimizer step `step`, from 0. Costs O(log documents), plus a new order where an epoch begins. */
  step(step: number): StepBatch {
    if (!(Number.isInteger(step) && step >= 0)) {
      throw new DataError(`data loader: step expected a whole number from 0 on, got ${step}`)
    }
    const { rowsPerStep, seqLen, mode } = this.options
    const first = step * rowsPerStep
    const countOf = (microBatchSize: number, numRanks = 1): number => {
      const count = rowsPerStep / (microBatchSize * numRanks)
      if (Number.isInteger(microBatchSize) && Number.isInteger(numRanks) && Number.isInteger(count) && count > 0)
        return count
      throw new DataError(
        `data loader: ${rowsPerStep} rows a step expected to be a multiple of microBatchSize x ranks, got ` +
          `${microBatchSize} x ${numRanks}; change microBatchSize or batchTokens`,
      )
    }
    return {
      step,
      rows: rowsPerStep,
      trainedTokens: PACKING[mode].countTrained(first, rowsPerStep, seqLen, this.#stream),
      epoch: (first * seqLen) / this.dataset.totalTokens,
      microBatchCount: countOf,
      microBatch: (i, microBatchSize, rank = 0, numRanks = 1) => {
        const count = countOf(microBatchSize, numRanks)
        if (!(Number.isInteger(i) && i >= 0 && i < count && Number.isInteger(rank) && rank >= 0 && rank < numRanks)) {
          throw new DataError(
            `data loader: micro-batch ${i} of rank ${rank} expected below ${count} and ${numRanks}; ask microBatchCount`,
          )
        }
        return this.#rows(first + (i * numRanks + rank) * microBatchSize, microBatchSize)
      },
    }
  }

  /** Stretches of documents that step `step`, from 0, trains on, row after row: document of the dataset and its tokens. */
  documentsOf(step: number): { document: number; from: number; to: number }[] {
    const { rowsPerStep, seqLen } = this.options
    const pieces: { document: number; from: number; to: number }[] = []
    this.#stream.forEachPiece(step * rowsPerStep * seqLen, rowsPerStep * seqLen, ({ index, from, to }) =>
      pieces.push({ document: index, from, to }),
    )
    return pieces
  }

  /** State for a checkpoint whose next step is `step`. */
  describeState(step: number): LoaderState {
    const { mode, seqLen, rowsPerStep, seed } = this.options
    const epoch = this.#stream.epochAt(step * rowsPerStep * seqLen)
    return { seed, step, epoch, mode, seqLen, rowsPerStep, manifestHash: this.dataset.manifest.contentHash }
  }

  /**
   * Checks that this loader continues the token stream that `state` was taken from.
   * @returns the step to go on with
   * @throws DataError if the data or an option that fixes their order has changed
   */
  checkState(state: LoaderState): number {
    if (!(Number.isSafeInteger(state?.step) && state.step >= 0)) {
      throw new DataError(
        `data loader: the checkpoint expected the step to go on with, got ${shown(state?.step)}; its state is damaged`,
      )
    }
    const now = this.describeState(state.step)
    if (state.manifestHash !== now.manifestHash) {
      throw new DataError(
        `data loader: the checkpoint was trained on data with hash ${shown(state.manifestHash)}, but ` +
          `${this.dataset.folder} has ${shown(now.manifestHash)}; give the data of the run, or start a new run`,
      )
    }
    for (const name of ['seed', 'mode', 'seqLen', 'rowsPerStep'] as const) {
      if (state[name] === now[name]) continue
      throw new DataError(
        `data loader: expected ${name} ${shown(state[name])} as in the checkpoint, got ${now[name]}, which would change ` +
          'the order of the data; set it back, or start a new run',
      )
    }
    return state.step
  }

  #rows(first: number, count: number): HostBatch {
    const { seqLen, mode } = this.options
    const batch = emptyBatch(count, seqLen)
    for (let row = 0; row < count; row++) {
      batch.trainedTokens += PACKING[mode].fillRow(batch, row, first + row, this.#stream)
      setSampleIndex(batch, row, first + row)
    }
    this.dataset.checkIds(batch)
    return batch
  }
}
