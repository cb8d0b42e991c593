// Runs the trainings of a sweep as `pretrain` processes of their own, as many at a time as was said, each in its folder:
// a sweep that was interrupted goes on where every run stood, and any run can be repeated by its command line.
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { writeJson } from '../../checkpoint/files.ts'
import type { RunContext } from '../../config/context.ts'
import { TrainyardError } from '../../core/errors.ts'
import type { LossCurve } from '../scaling/envelope.ts'
import { flopsPerToken, type RunSpec, type SweepSetting, tokensOf } from './run-spec.ts'

export interface RunResult {
  readonly spec: RunSpec
  /** Validation loss at the end, nats per token; Infinity where training diverged. */
  readonly loss: number
  /** User and system time of the run's process, start and validation included. */
  readonly cpuSeconds: number
}

export interface PoolOptions {
  /** Folder of `data prepare`. */
  data: string
  /** Folder in which each run has one. */
  folder: string
  /** Runs at a time. */
  jobs: number
  /** Options of pretrain for the device: `--device cuda`, or `--threads 1`. */
  deviceWords: readonly string[]
  setting: SweepSetting
  /** After each start and end of a run. */
  onChange?: () => void
}

/** Tokens of a forward at once: small models need little memory. */
const MICRO_BATCH_TOKENS = 4096
const SAVE_EVERY_STEPS = 1000
/** As the command line ends after a signal, in good order and with a checkpoint. */
const EXIT_INTERRUPTED = 130
const DIVERGED = 'diverged.json'

export class RunPool {
  readonly #context: RunContext
  readonly #options: PoolOptions
  readonly #running = new Map<string, ChildProcess>()
  readonly #waiting: (() => void)[] = []
  /** Every run that was asked for, in that order. */
  readonly specs = new Map<string, RunSpec>()
  readonly #results = new Map<string, Promise<RunResult | undefined>>()
  #free: number
  #finished = 0

  constructor(context: RunContext, options: PoolOptions) {
    this.#context = context
    this.#options = options
    this.#free = options.jobs
    // Ctrl-C in a terminal reaches the runs too; a signal to this process alone does not.
    context.signal.addEventListener('abort', () => {
      for (const child of this.#running.values()) child.kill('SIGTERM')
      for (const start of this.#waiting.splice(0)) start()
    })
  }

  /** Runs whose results are there. */
  get finished(): number {
    return this.#finished
  }

  get running(): readonly string[] {
    return [...this.#running.keys()]
  }

  /**
   * The result of a run, made now unless it is there.
   * @returns undefined when the sweep was told to stop
   * @throws TrainyardError when the run fails by itself
   */
  run(spec: RunSpec): Promise<RunResult | undefined> {
    // Searches may ask for the same run at the same time.
    let result = this.#results.get(spec.id)
    if (result === undefined) {
      this.specs.set(spec.id, spec)
      result = this.#obtain(spec)
      this.#results.set(spec.id, result)
    }
    return result
  }

  async #obtain(spec: RunSpec): Promise<RunResult | undefined> {
    const result = readResult(this.#options.folder, spec) ?? (await this.#make(spec))
    if (result !== undefined) this.#finished++
    this.#options.onChange?.()
    return result
  }

  async #make(spec: RunSpec): Promise<RunResult | undefined> {
    if (this.#free > 0) this.#free--
    else await new Promise<void>((resolve) => this.#waiting.push(resolve))
    try {
      if (this.#context.signal.aborted) return undefined
      await this.#train(spec)
    } finally {
      this.#running.delete(spec.id)
      const next = this.#waiting.shift()
      if (next === undefined) this.#free++
      else next()
    }
    return readResult(this.#options.folder, spec)
  }

  /** @returns undefined when the sweep was told to stop before all were done */
  async runAll(specs: readonly RunSpec[]): Promise<RunResult[] | undefined> {
    const results = await Promise.all(specs.map((spec) => this.run(spec)))
    return results.every((result) => result !== undefined) ? results : undefined
  }

  async #train(spec: RunSpec): Promise<void> {
    const { program, env, cwd } = this.#context
    const [command, ...before] = program
    const words = [...before, ...pretrainWords(spec, this.#options)]
    const child = spawn(command, words, { cwd, env, stdio: ['ignore', 'ignore', 'pipe'] })
    this.#running.set(spec.id, child)
    this.#options.onChange?.()
    let errors = ''
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      errors += text
    })
    const code = await new Promise<number | null>((resolve, reject) => {
      child.on('error', reject)
      child.on('close', resolve)
    })
    if (code === 0 || code === EXIT_INTERRUPTED || this.#context.signal.aborted) return
    const sentence = errors.trim().split('\n')[0] ?? ''
    if (/training stopped at step \d+/.test(sentence)) {
      await writeJson(join(this.#options.folder, spec.id, DIVERGED), { sentence })
      return
    }
    throw new TrainyardError(
      `sweep: run ${spec.id} ended with exit code ${code}: ${sentence}; when that is put right, start the sweep again: finished runs are kept`,
    )
  }
}

/** The command line of a run. The rate falls to zero, which leaves the least noise in the last loss. */
export function pretrainWords(
  spec: RunSpec,
  options: Pick<PoolOptions, 'data' | 'folder' | 'deviceWords' | 'setting'>,
): string[] {
  const { data, folder, deviceWords, setting } = options
  const { shape, steps, batchTokens, lr, seed } = spec
  const out = join(folder, spec.id)
  return [
    'pretrain',
    ...['--data', data, '--out', out],
    ...['--model.hidden-size', String(shape.hiddenSize), '--model.intermediate-size', String(shape.intermediateSize)],
    ...['--model.num-hidden-layers', String(shape.numHiddenLayers)],
    ...['--model.num-attention-heads', String(shape.numAttentionHeads)],
    ...['--seq-len', String(setting.seqLen), '--batch-tokens', String(batchTokens)],
    ...['--micro-batch-size', String(microBatchSize(batchTokens / setting.seqLen, setting.seqLen))],
    ...['--max-steps', String(steps), '--warmup-steps', String(warmupSteps(steps))],
    ...[
      '--optimizer',
      'muon',
      '--lr',
      String(lr),
      '--min-lr-ratio',
      '0',
      '--seed',
      String(seed),
      '--spike-sigmas',
      '0',
    ],
    ...[
      '--eval-every-steps',
      '0',
      '--save-every-steps',
      String(SAVE_EVERY_STEPS),
      '--keep-last',
      '1',
      '--no-async-save',
    ],
    ...deviceWords,
    ...(existsSync(join(out, 'config.json')) ? ['--resume'] : []),
  ]
}

/** The most rows at once that divide the batch. */
function microBatchSize(rows: number, seqLen: number): number {
  let size = Math.max(1, Math.min(rows, Math.floor(MICRO_BATCH_TOKENS / seqLen)))
  while (rows % size !== 0) size--
  return size
}

/** A twentieth of the run: a fixed warm-up would weigh on short runs (Porian et al. 2024). */
function warmupSteps(steps: number): number {
  return Math.max(5, Math.round(steps / 20))
}

/** undefined while the run is not finished. */
export function readResult(folder: string, spec: RunSpec): RunResult | undefined {
  const out = join(folder, spec.id)
  if (existsSync(join(out, DIVERGED))) return { spec, loss: Number.POSITIVE_INFINITY, cpuSeconds: 0 }
  try {
    const actual = JSON.parse(readFileSync(join(out, 'actual.json'), 'utf8')) as {
      steps: number
      cpuSecondsOfThisSession: number
      evaluation?: { loss: number }
    }
    if (actual.steps !== spec.steps || actual.evaluation === undefined) return undefined
    return { spec, loss: actual.evaluation.loss, cpuSeconds: actual.cpuSecondsOfThisSession }
  } catch {
    // No file yet, or one that is being written.
    return undefined
  }
}

/** The training loss of a finished run, step by step. */
export function readCurve(folder: string, spec: RunSpec, setting: SweepSetting): LossCurve {
  const lines = readFileSync(join(folder, spec.id, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')
  const records = lines.map((line) => JSON.parse(line) as Record<string, number | null>)
  const steps = records.filter((record) => typeof record['train/loss'] === 'number')
  return {
    parameters: spec.parameters,
    flopsPerToken: flopsPerToken(spec.shape, setting),
    tokens: steps.map((record) => record.step! * spec.batchTokens),
    loss: steps.map((record) => record['train/loss']!),
  }
}

/** FLOPs of training and validation of a run, attention included. */
export function runFlops(spec: RunSpec, setting: SweepSetting, evaluationTokens: number): number {
  return flopsPerToken(spec.shape, setting) * (tokensOf(spec) + evaluationTokens / 3)
}
