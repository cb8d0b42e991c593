// A pretraining run from open files to a trained model: builds the model, plans its memory, trains with a live report,
// evaluates, checkpoints, resumes. Used by the recipes; draws nothing and prints nothing itself.
import { createHash } from 'node:crypto'
import { loadHfWeights, type TokenizerFiles } from '../checkpoint/hf.ts'
import { createModel, type HfConfig } from '../checkpoint/hf-config.ts'
import { loadRunCheckpoint, type RunCheckpoint, saveRunCheckpoint, takeSnapshot } from '../checkpoint/run-checkpoint.ts'
import type { Snapshot, WriteOptions } from '../checkpoint/snapshot.ts'
import { newestComplete } from '../checkpoint/store.ts'
import type { Device } from '../core/device.ts'
import { ConfigError } from '../core/errors.ts'
import type { TokenDataset } from '../data/dataset.ts'
import { EvalLoader } from '../data/eval-loader.ts'
import type { HostBatch } from '../data/host-batch.ts'
import { DataLoader, type LoaderState } from '../data/loader.ts'
import { formatBytes } from '../display/format.ts'
import { anonymousBytes, describeMemory, untouchedHeapBytes } from '../machine/memory.ts'
import { DropoutStreams } from '../models/decoder.ts'
import { materialize } from '../nn/module.ts'
import { openMeta } from '../open.ts'
import { Optimizer } from '../optim/optimizer.ts'
import { learningRate } from '../optim/schedule.ts'
import { type FitShape, type Need, refuse } from './fit.ts'
import { expectFp8Used } from './fp8.ts'
import { forecastMemory, type MemoryForecast, takenOf } from './memory.ts'
import { arenaBytes, planStep, type StepPlan } from './plan.ts'
import type { RunDir } from './run-dir.ts'
import { type RunSettings, updateRule } from './settings.ts'
import { TrainStep } from './step.ts'

/** More than a context and the libraries of one program take from a card. */
const OF_ONE_PROGRAM = 2 ** 30

/** Facts that decide the bits of a run; a resumed run compares them. */
export type Numerics = Readonly<Record<string, string | number | boolean>>

export interface StepReport {
  /** Optimizer steps done. */
  readonly step: number
  /** Nats per trained token. */
  readonly loss: number
  readonly lr: number
  readonly gradNorm: number
  readonly isFinite: boolean
  /** Loss scaling of this step and for the next, and steps that it has skipped so far. */
  readonly usedGradScale: number
  readonly gradScale: number
  readonly skippedSteps: number
  readonly trainedTokens: number
  readonly epoch: number
  readonly seconds: number
}

export interface Evaluation {
  /** Nats per token. */
  readonly loss: number
  readonly bitsPerByte: number
  readonly tokens: number
  readonly bytes: number
}

/** Everything a run holds in memory. */
export class Pretraining {
  readonly device: Device
  readonly settings: RunSettings
  readonly config: HfConfig
  readonly plan: StepPlan
  /** What the process is expected to take at most. */
  readonly memory: MemoryForecast
  readonly loader: DataLoader
  readonly optimizer: Optimizer
  readonly step: TrainStep
  readonly #tokenizerFiles: TokenizerFiles
  readonly #numerics: Numerics
  #stepsDone = 0
  #prepared: { step: number; batches: HostBatch[] } | undefined

  private constructor(
    fields: Pick<Pretraining, 'device' | 'settings' | 'config' | 'plan' | 'memory' | 'loader' | 'optimizer' | 'step'>,
    tokenizerFiles: TokenizerFiles,
    numerics: Numerics,
  ) {
    this.device = fields.device
    this.settings = fields.settings
    this.config = fields.config
    this.plan = fields.plan
    this.memory = fields.memory
    this.loader = fields.loader
    this.optimizer = fields.optimizer
    this.step = fields.step
    this.#tokenizerFiles = tokenizerFiles
    this.#numerics = numerics
  }

  /**
   * Plans the run and, if it fits, gives it its memory.
   * @param options.initFrom        Hugging Face folder whose weights to start from; else random initialisation by `seed`
   * @param options.asyncSave       checkpoints will be written while training goes on (`snapshot`), which takes a copy of
   *   the state; start the CheckpointWriter before, so that its thread counts. Default false: only `save` is used
   * @param options.availableBytes  what the process may still take; default what this machine says
   * @param options.memoryLimitBytes  of the process, or of the card where the device has memory of its own, that may be
   *   taken at most
   * @throws ConfigError if the run cannot fit in memory, with the cheapest change that would
   */
  static async open(options: {
    device: Device
    settings: RunSettings
    config: HfConfig
    dataset: TokenDataset
    tokenizerFiles: TokenizerFiles
    numerics: Numerics
    initFrom?: string | undefined
    asyncSave?: boolean
    availableBytes?: number
    memoryLimitBytes?: number | undefined
  }): Promise<Pretraining> {
    const { device, settings, config, dataset, asyncSave = false } = options
    const { seqLen, batchTokens, microBatchSize, packing, seed, dropout, recompute, recomputeLayers } = settings
    checkShape(settings, config)
    expectFp8Used(createModel(config), device, microBatchSize * seqLen)
    const rowsPerStep = batchTokens / seqLen
    const loader = new DataLoader(dataset, { mode: packing, seqLen, rowsPerStep, seed })
    loader.step(0).microBatchCount(microBatchSize)
    const rule = updateRule(settings.optimizer)
    const hasDocuments = packing === 'packed'
    const stepOptions = { recompute, recomputeLayers, dropout, streams: new DropoutStreams(seed), hasDocuments }
    const shape = { microBatchSize, seqLen }
    const meta = await openMeta(device)
    // Where memory is the card's own and scarce, gradients lie where activations lay, if a step has one micro-batch.
    const isWhole = ({ microBatchSize, seqLen }: { microBatchSize: number; seqLen: number }): boolean =>
      device.ownMemory !== undefined && microBatchSize * seqLen === batchTokens
    const planFor = (change: FitShape): StepPlan =>
      planStep(createModel(config), meta, change, rule, {
        ...stepOptions,
        recompute: change.recompute,
        recomputeLayers: change.recomputeLayers,
        isWholeStep: isWhole(change),
      })
    const wanted = { seqLen, microBatchSize, recompute, recomputeLayers, asyncSave }
    const run = { batchTokens, layers: config.numHiddenLayers }
    const plan = planFor(wanted)
    // After the dry run, whose litter counts too, and before the run takes anything.
    const takenBytes = anonymousBytes()
    const baseBytes = takenBytes + untouchedHeapBytes()
    const forecast = (change: FitShape, changed: StepPlan): MemoryForecast =>
      forecastMemory(changed, device, { ...createModel(config).shape, ...change }, baseBytes)
    const memory = forecast(wanted, plan)
    const own = device.ownMemory?.()
    // The limit is of the memory that the model lies in.
    const limited = (bytes: number, isOfModel: boolean): Pick<Need, 'limitBytes' | 'limitedBy'> => {
      const { memoryLimitBytes: limit } = options
      if (!isOfModel || limit === undefined || limit >= bytes) return { limitBytes: bytes }
      return { limitBytes: limit, limitedBy: '--memory-limit' }
    }
    const available = takenBytes + (options.availableBytes ?? describeMemory().availableBytes)
    const ofProcess = limited(available, own === undefined)
    const activations = `activations ${formatBytes(arenaBytes(plan))}`
    if (memory.totalBytes > ofProcess.limitBytes) {
      const parts = `${activations}, copy for checkpoints ${formatBytes(memory.stagingBytes)}`
      const need = { what: 'memory', whose: 'this process', neededBytes: memory.totalBytes, parts, ...ofProcess }
      refuse(wanted, run, need, (change) => forecast(change, planFor(change)).totalBytes)
    }
    const ofCard = limited(own?.totalBytes ?? Number.POSITIVE_INFINITY, true)
    if (own !== undefined && memory.ownTotalBytes! > ofCard.limitBytes) {
      const states = `parameters, gradients and optimizer ${formatBytes(plan.parameterBytes + plan.gradientBytes - plan.sharedGradientBytes + plan.optimizerBytes)}`
      const takenOnCard = takenOf(own)
      const need = {
        what: 'memory of the card',
        whose: device.name,
        neededBytes: memory.ownTotalBytes!,
        parts: `${activations}, ${states}, taken already ${formatBytes(takenOnCard)}`,
        ...ofCard,
        ...(takenOnCard > OF_ONE_PROGRAM && {
          advice: `or end other programs that hold memory of the card (nvidia-smi shows them)`,
        }),
      }
      refuse(wanted, run, need, (change) => forecast(change, planFor(change)).ownTotalBytes!)
    }
    device.reserveScratch?.(memory.scratchBytes)
    const model = createModel(config)
    const arenas = materialize(model, device, options.initFrom === undefined ? { seed } : {})
    if (options.initFrom !== undefined) loadHfWeights(model, options.initFrom)
    const isWholeStep = isWhole(shape)
    const optimizer = new Optimizer(arenas, rule, settings.lossScaling, isWholeStep)
    const step = new TrainStep(model, optimizer, shape, plan, { ...stepOptions, isWholeStep })
    const fields = { device, settings, config, plan, memory, loader, optimizer, step }
    return new Pretraining(fields, options.tokenizerFiles, options.numerics)
  }

  get stepsDone(): number {
    return this.#stepsDone
  }

  get microBatchesPerStep(): number {
    return this.settings.batchTokens / (this.settings.seqLen * this.settings.microBatchSize)
  }

  /** FLOPs of one optimizer step, recomputation included. */
  get flopsPerStep(): number {
    return this.plan.train.flops * this.microBatchesPerStep
  }

  /** One optimizer step. */
  async trainStep(turn?: () => Promise<void>): Promise<StepReport> {
    const start = performance.now()
    const batch = this.loader.step(this.#stepsDone)
    const { schedule, gradClip } = this.settings
    const step = this.#stepsDone + 1
    const lr = learningRate(schedule, step)
    const batches = this.#takeBatches(this.#stepsDone)
    await this.step.launch(batches, batch.trainedTokens, { lr, step, gradClip }, turn)
    // While a device of its own is at work, the host has time for the next batch.
    if (this.device.record !== undefined && step < schedule.maxSteps)
      this.#prepared = { step, batches: this.#microBatches(step) }
    const [loss, norm] = await Promise.all([this.step.lastLoss(), this.optimizer.lastNorm()])
    this.#stepsDone = step
    const seconds = (performance.now() - start) / 1000
    return { step, loss, lr, ...norm, trainedTokens: batch.trainedTokens, epoch: batch.epoch, seconds }
  }

  #microBatches(step: number): HostBatch[] {
    const batch = this.loader.step(step)
    return Array.from({ length: this.microBatchesPerStep }, (_, i) => batch.microBatch(i, this.settings.microBatchSize))
  }

  /** Of the step after so many, made before or now. */
  #takeBatches(step: number): HostBatch[] {
    const prepared = this.#prepared
    this.#prepared = undefined
    return prepared?.step === step ? prepared.batches : this.#microBatches(step)
  }

  /**
   * Loss and bits per byte over a dataset.
   * @param options.documents  only these (default all)
   * @param options.stride     new tokens of each window; less than seqLen gives every token more context
   */
  async evaluate(
    dataset: TokenDataset,
    options: { documents?: readonly number[]; stride?: number; turn?: () => Promise<void> } = {},
  ): Promise<Evaluation> {
    const { seqLen, microBatchSize } = this.settings
    const { documents, stride } = options
    const evalLoader = new EvalLoader(dataset, { seqLen, documents, stride })
    const batches = function* () {
      for (let i = 0; i < evalLoader.batchCount(microBatchSize); i++) yield evalLoader.batch(i, microBatchSize)
    }
    const nats = await this.step.evaluate(batches(), options.turn)
    return {
      loss: nats / evalLoader.scoredTokens,
      bitsPerByte: nats / Math.LN2 / evalLoader.textBytes,
      tokens: evalLoader.scoredTokens,
      bytes: evalLoader.textBytes,
    }
  }

  /** Writes a checkpoint of the present state into the run and waits for it; takes no memory. @returns its folder */
  async save(run: RunDir, options: WriteOptions = {}): Promise<string> {
    return await saveRunCheckpoint(run.path, await this.#checkpoint(), options)
  }

  /** The present state as values, to be written while training goes on. */
  async snapshot(run: RunDir, options: WriteOptions = {}): Promise<Snapshot> {
    return await takeSnapshot(run.path, await this.#checkpoint(), options)
  }

  async #checkpoint(): Promise<RunCheckpoint> {
    const lossScaling = await this.optimizer.scalingState()
    const fp8 = await this.step.fp8?.saved()
    return {
      model: this.step.model,
      config: this.config,
      tokenizerFiles: this.#tokenizerFiles,
      optimizer: this.optimizer,
      trainer: {
        step: this.#stepsDone,
        seed: this.settings.seed,
        data: this.loader.describeState(this.#stepsDone),
        schedule: this.settings.schedule,
        numerics: this.#numerics,
        ...(this.device.choices && { choices: this.device.choices() }),
        configHash: hashOf(this.settings),
        ...(lossScaling && { lossScaling }),
        ...(fp8 && { fp8 }),
      },
    }
  }

  /**
   * Goes on from the newest complete checkpoint of the run, if there is one.
   * @param options.below  only to look again: from a checkpoint of a lower step, and the run's metrics stay as they are
   * @returns sentences for the user: checkpoints passed over, numerics that differ
   */
  async resume(run: RunDir, options: { below?: number } = {}): Promise<string[]> {
    const { checkpoint, skipped } = newestComplete(run.path, options.below)
    const notes = skipped.map(({ step, problem }) => `checkpoint of step ${step} is passed over: ${problem}`)
    if (checkpoint === undefined) return notes
    const state = loadRunCheckpoint(checkpoint.path, { model: this.step.model, optimizer: this.optimizer })
    if (state.lossScaling !== undefined && this.settings.lossScaling !== undefined) {
      this.optimizer.restoreScaling(state.lossScaling)
    }
    if (state.fp8 !== undefined) this.step.fp8?.restore(state.fp8)
    this.#stepsDone = this.loader.checkState(state.data as LoaderState)
    if (options.below === undefined) await run.rewindMetrics(this.#stepsDone)
    const differing = Object.keys({ ...state.numerics, ...this.#numerics }).filter(
      (key) => key !== 'threads' && state.numerics[key] !== this.#numerics[key],
    )
    const shown = differing.map((key) => `${key} was ${state.numerics[key]}, is ${this.#numerics[key]}`)
    const others = Object.entries(state.choices ?? {}).filter(([call, way]) => this.device.choiceOf?.(call) !== way)
    if (others.length > 0) {
      const [call] = others[0]!
      shown.push(
        `${others.length} of ${Object.keys(state.choices!).length} products are computed in other ways or not chosen yet here (first: ${call})`,
      )
    }
    if (shown.length > 0) notes.push(`bit-equality with the run so far is off: ${shown.join(', ')}`)
    return notes
  }
}

function checkShape({ seqLen, batchTokens, microBatchSize }: RunSettings, config: HfConfig): void {
  if (batchTokens % (seqLen * microBatchSize) !== 0) {
    throw new ConfigError(
      `pretrain: batchTokens must be a multiple of microBatchSize x seqLen = ${seqLen * microBatchSize}, got ${batchTokens}; try ${Math.max(1, Math.round(batchTokens / (seqLen * microBatchSize))) * seqLen * microBatchSize}`,
    )
  }
  if (seqLen > config.maxPositionEmbeddings) {
    throw new ConfigError(
      `pretrain: seqLen must be at most the model's maxPositionEmbeddings, got ${seqLen} and ${config.maxPositionEmbeddings}`,
    )
  }
}

function hashOf(settings: RunSettings): string {
  return createHash('sha256').update(JSON.stringify(settings)).digest('hex')
}
