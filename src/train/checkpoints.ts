// When a run's checkpoints are written, and how: beside training or while it waits, the newest and the best kept. The
// files are src/checkpoint's.
import type { WriteOptions } from '../checkpoint/snapshot.ts'
import { byHeldOutLoss, type HeldOutLoss, type Keep, listCheckpoints } from '../checkpoint/store.ts'
import type { CheckpointWriter } from '../checkpoint/writer.ts'
import { CheckpointError } from '../core/errors.ts'
import type { PeakMemory } from './memory.ts'
import type { Pretraining } from './pretrain.ts'
import type { RunDir } from './run-dir.ts'

export interface CheckpointsOptions {
  readonly keep: Required<Keep>
  /** Writes beside training; undefined: training waits for the disk. */
  readonly writer: CheckpointWriter | undefined
  readonly peak: PeakMemory
  warn(sentence: string): void
}

export class Checkpoints {
  readonly #training: Pretraining
  readonly #run: RunDir
  readonly #options: CheckpointsOptions
  /** Held-out losses of the best that there are or will be, lowest first. */
  #best: HeldOutLoss[]
  #savedStep: number
  /** Of the last one, where training waited for it. */
  #problem: CheckpointError | undefined

  constructor(training: Pretraining, run: RunDir, options: CheckpointsOptions) {
    this.#training = training
    this.#run = run
    this.#options = options
    this.#best = this.#bestOnDisk()
    const { stepsDone } = training
    const isThere = listCheckpoints(run.path).some(({ step, problem }) => step === stepsDone && problem === undefined)
    this.#savedStep = isThere && stepsDone > 0 ? stepsDone : -1
  }

  /** Step of the last `save`, or of the checkpoint that the run went on from; -1 if there is neither. */
  get savedStep(): number {
    return this.#savedStep
  }

  /** Whether a model with this loss is one to keep: among the `keepBest` lowest so far. */
  isBest({ loss, tokens }: HeldOutLoss): boolean {
    const { keepBest } = this.#options.keep
    if (keepBest === 0 || !Number.isFinite(loss)) return false
    // Losses over another text say nothing.
    const best = this.#best.filter((other) => other.tokens === tokens)
    return best.length < keepBest || loss < best.at(-1)!.loss
  }

  /**
   * Writes the present state. One that could not be written is no reason to stop, the next may be: the user is told.
   * @param evaluation  of this very state, if there was one
   */
  async save(evaluation?: HeldOutLoss): Promise<void> {
    const { keep, writer, peak, warn } = this.#options
    const heldOut = evaluation && Number.isFinite(evaluation.loss) ? pick(evaluation) : undefined
    const options: WriteOptions = { keep, heldOut }
    this.#savedStep = this.#training.stepsDone
    if (heldOut !== undefined && this.isBest(heldOut)) this.#note(heldOut)
    this.#problem = undefined
    try {
      if (writer === undefined) await this.#training.save(this.#run, options)
      else {
        await writer.write(async () => {
          const snapshot = await this.#training.snapshot(this.#run, options)
          peak.sample()
          return snapshot
        })
      }
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error
      // Beside training it was the one before: this one is on its way.
      if (writer === undefined) this.#problem = error
      this.#best = this.#bestOnDisk()
      if (writer !== undefined && heldOut !== undefined && this.isBest(heldOut)) this.#note(heldOut)
      warn(`${error.message}; earlier checkpoints are untouched and training goes on`)
    }
  }

  /** Waits for what is being written. @throws CheckpointError if the last one could not be written */
  async finish(): Promise<void> {
    if (this.#problem !== undefined) throw this.#problem
    await this.#options.writer?.finish()
  }

  #note(heldOut: HeldOutLoss): void {
    const others = this.#best.filter(({ tokens }) => tokens === heldOut.tokens)
    this.#best = [...others, heldOut].sort((a, b) => a.loss - b.loss).slice(0, this.#options.keep.keepBest)
  }

  #bestOnDisk(): HeldOutLoss[] {
    const ranked = byHeldOutLoss(listCheckpoints(this.#run.path)).map(({ heldOut }) => heldOut!)
    return ranked.slice(0, this.#options.keep.keepBest)
  }
}

function pick({ loss, tokens }: HeldOutLoss): HeldOutLoss {
  return { loss, tokens }
}
