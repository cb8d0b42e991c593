// One optimizer step: micro-batches forward and backward in planned memory, then the update. The memory of a micro-batch
// is decided before the first one runs, by a dry run of the same code on the meta device (plan.ts).
import { type MemoryPlan, PlannedArena, standaloneTensor } from '../core/allocator.ts'
import { gradientStorages } from '../core/arena.ts'
import type { Device, DeviceBuffer } from '../core/device.ts'
import { invariant } from '../core/errors.ts'
import { type Recompute, Tape } from '../core/tape.ts'
import type { Tensor } from '../core/tensor.ts'
import type { HostBatch } from '../data/host-batch.ts'
import { type DecoderInputs, type DecoderModel, Dropout, type DropoutStreams } from '../models/decoder.ts'
import { crossEntropy } from '../ops/cross-entropy.ts'
import type { Optimizer, StepSettings } from '../optim/optimizer.ts'
import { Fp8Training } from './fp8.ts'
import { RecordedParts } from './recorded-parts.ts'

/** Tensors of one micro-batch shape that live outside the arena: inputs, written again each time, and the loss. */
export class BatchTensors {
  readonly tokens: Tensor
  readonly targets: Tensor
  readonly positions: Tensor
  readonly docStart: Tensor
  readonly sampleIndex: Tensor
  /** f64 [1]: the loss of the step so far, which outlives the micro-batch. */
  readonly totalLoss: Tensor

  constructor(device: Device, batchSize: number, seqLen: number) {
    const make = (...shape: number[]) => standaloneTensor(device, shape, 'i32')
    this.tokens = make(batchSize, seqLen)
    this.targets = make(batchSize, seqLen)
    this.positions = make(batchSize, seqLen)
    this.docStart = make(batchSize, seqLen)
    this.sampleIndex = make(batchSize, 2)
    this.totalLoss = standaloneTensor(device, [1], 'f64')
  }

  fill(batch: HostBatch): void {
    for (const name of ['tokens', 'targets', 'positions', 'docStart', 'sampleIndex'] as const) {
      this[name].device.write(this[name], batch[name])
    }
  }

  get inputs(): DecoderInputs {
    return { tokens: this.tokens, positions: this.positions, docStart: this.docStart }
  }
}

export interface MicroStepOptions {
  recompute: Recompute
  /** How many layers forget, from the first; default all. */
  recomputeLayers?: number | undefined
  /** Probability of dropout on embeddings and branches; 0 for none. */
  dropout: number
  streams: DropoutStreams
  /** False promises that every row is one document, which spares the masks between them; default true. */
  hasDocuments?: boolean
  /**
   * Promises that a step is one micro-batch: the gradients of weights then lie where activations lay that are no longer
   * needed, and are good until the next micro-batch, of training or evaluation. The optimizer must have been told. Default
   * false.
   */
  isWholeStep?: boolean
}

/**
 * Forward, loss and backward of one micro-batch on the current tape. The same code runs for real and on `meta`.
 * The loss is added to `batch.totalLoss`, or starts it anew.
 */
export function microStep(
  model: DecoderModel,
  batch: BatchTensors,
  scalars: Tensor,
  tape: Tape,
  { dropout, streams, hasDocuments = true }: Omit<MicroStepOptions, 'recompute' | 'recomputeLayers'>,
  isFirst: boolean,
): void {
  const { inputs } = batch
  if (!hasDocuments) delete inputs.docStart
  if (dropout > 0) inputs.dropout = new Dropout(dropout, batch.sampleIndex, streams)
  const { loss, tokenLosses } = crossEntropy(model.forward(inputs), model.headWeight, batch.targets, scalars)
  scalars.device.kernels.scaledSum(batch.totalLoss, tokenLosses, scalars, !isFirst)
  tape.backward(loss)
}

/** Forward and loss only, without dropout. */
export function evalStep(model: DecoderModel, batch: BatchTensors, scalars: Tensor, isFirst: boolean): void {
  const { tokenLosses } = crossEntropy(model.forward(batch.inputs), model.headWeight, batch.targets, scalars)
  scalars.device.kernels.scaledSum(batch.totalLoss, tokenLosses, scalars, !isFirst)
}

/**
 * Runs optimizer steps and evaluations of one micro-batch shape, both in one block of planned memory. On a device that
 * records, each part of a step runs call by call the first time and as a recording from then on.
 */
export class TrainStep {
  readonly model: DecoderModel
  readonly optimizer: Optimizer
  /** Absent where the device was not asked for products in fp8. */
  readonly fp8: Fp8Training | undefined
  readonly #device: Device
  readonly #options: MicroStepOptions
  readonly #batch: BatchTensors
  readonly #train: PlannedArena
  readonly #evaluate: PlannedArena
  readonly #parts: RecordedParts
  readonly #memory: DeviceBuffer

  constructor(
    model: DecoderModel,
    optimizer: Optimizer,
    shape: { microBatchSize: number; seqLen: number },
    plans: { train: { memory: MemoryPlan }; evaluate: { memory: MemoryPlan } },
    options: MicroStepOptions,
  ) {
    this.model = model
    this.optimizer = optimizer
    this.#options = options
    this.#device = optimizer.scalars.device
    this.#batch = new BatchTensors(this.#device, shape.microBatchSize, shape.seqLen)
    this.fp8 = Fp8Training.of(model, this.#device)
    this.#parts = new RecordedParts(optimizer)
    const bytes = Math.max(plans.train.memory.totalBytes, plans.evaluate.memory.totalBytes)
    this.#memory = this.#device.allocate(bytes)
    this.#train = new PlannedArena(plans.train.memory, this.#memory)
    const areAgreed = plans.train.memory.keptOffsets.length === optimizer.sharedArenas.length
    invariant(areAgreed, 'the plan and the optimizer differ on which gradients lie in the memory of a micro-batch')
    for (const [n, arena] of optimizer.sharedArenas.entries()) {
      for (const { storage, distance } of gradientStorages(arena)) this.#train.bindKept(storage, n, distance)
    }
    this.#evaluate = new PlannedArena(plans.evaluate.memory, this.#memory)
  }

  /**
   * One step over the global batch.
   * @param trainedTokens  targets of all micro-batches together: what the loss is a mean over
   * @param turn           called between micro-batches, so that signals are seen
   * @returns the loss of the batch in nats per trained token, before the update
   */
  async run(
    batches: Iterable<HostBatch>,
    trainedTokens: number,
    settings: StepSettings,
    turn?: () => Promise<void>,
  ): Promise<number> {
    await this.launch(batches, trainedTokens, settings, turn)
    return await this.lastLoss()
  }

  /**
   * As `run`, without waiting for the loss: a device of its own works on while the host goes ahead. `lastLoss`, asked before
   * the next launch, still tells the loss of this step.
   */
  async launch(
    batches: Iterable<HostBatch>,
    trainedTokens: number,
    settings: StepSettings,
    turn?: () => Promise<void>,
  ): Promise<void> {
    this.optimizer.begin(trainedTokens)
    await this.accumulate(batches, turn)
    this.optimizer.prepare(settings)
    this.#parts.run(`update ${settings.gradClip}`, () => {
      this.optimizer.update(settings.gradClip)
      this.fp8?.update()
    })
  }

  /** Forward and backward of all micro-batches into the gradients, without an update (`optimizer.begin` comes first). */
  async accumulate(batches: Iterable<HostBatch>, turn?: () => Promise<void>): Promise<void> {
    let isFirst = true
    this.fp8?.refresh()
    for (const batch of batches) {
      invariant(isFirst || this.optimizer.sharedArenas.length === 0, 'a step of one micro-batch got another one')
      this.#batch.fill(batch)
      this.#inArena(this.#train, `train ${isFirst}`, (tape) =>
        microStep(this.model, this.#batch, this.optimizer.scalars, tape, this.#options, isFirst),
      )
      isFirst = false
      await turn?.()
    }
  }

  /** Bytes of the block that the tensors of a micro-batch lie in. */
  get arenaBytes(): number {
    return this.#memory.bytes
  }

  /** Loss of the micro-batches of the last `accumulate`. */
  async lastLoss(): Promise<number> {
    return (await this.#device.read(this.#batch.totalLoss))[0]!
  }

  /** Sum of the token losses over batches, in nats; nothing is trained. */
  async evaluate(batches: Iterable<HostBatch>, turn?: () => Promise<void>): Promise<number> {
    this.optimizer.begin(1)
    let isFirst = true
    for (const batch of batches) {
      this.#batch.fill(batch)
      const program = (): void => evalStep(this.model, this.#batch, this.optimizer.scalars, isFirst)
      this.#inArena(this.#evaluate, `evaluate ${isFirst}`, program, false)
      isFirst = false
      await turn?.()
    }
    return isFirst ? 0 : await this.lastLoss()
  }

  #inArena(arena: PlannedArena, part: string, program: (tape: Tape) => void, record = true): void {
    this.#parts.run(part, () => {
      arena.reset()
      const { recompute, recomputeLayers: recomputeBlocks } = this.#options
      using tape = new Tape(this.#device, { allocator: arena, recompute, recomputeBlocks, record })
      program(tape)
      invariant(arena.isComplete, 'a micro-batch did not follow its memory plan')
    })
  }

  /** Forgets the recordings and gives the memory of a micro-batch back; nothing may be run afterwards. */
  close(): void {
    this.#parts.release()
    this.#device.release(this.#memory)
  }
}
