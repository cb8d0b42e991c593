// One optimizer step: micro-batches forward and backward in planned memory, then the update. The memory of a micro-batch
// is decided before the first one runs, by a dry run of the same code on the meta device.
import { type MemoryPlan, PlannedArena, standaloneTensor } from '../core/allocator.ts'
import type { Device } from '../core/device.ts'
import { invariant } from '../core/errors.ts'
import { type Recompute, Tape } from '../core/tape.ts'
import type { Tensor } from '../core/tensor.ts'
import type { HostBatch } from '../data/host-batch.ts'
import { type DecoderInputs, type DecoderModel, Dropout, type DropoutStreams } from '../models/decoder.ts'
import { crossEntropy } from '../ops/cross-entropy.ts'
import type { Optimizer, StepSettings } from '../optim/optimizer.ts'

/** Tensors of one micro-batch shape that live outside the arena: inputs, written again each time, and the loss. */
export class BatchTensors {
  readonly tokens: Tensor
  readonly targets: Tensor
  readonly positions: Tensor
  readonly docStart: Tensor
  readonly sampleIndex: Tensor
  /** f64 [1], outside the arena: the loss of the step so far, which outlives the micro-batch. */
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
}

export interface MicroStepOptions {
  recompute: Recompute
  /** Probability of dropout on embeddings and branches; 0 for none. */
  dropout: number
  streams: DropoutStreams
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
  { dropout, streams }: Pick<MicroStepOptions, 'dropout' | 'streams'>,
  isFirst: boolean,
): void {
  const inputs: DecoderInputs = { tokens: batch.tokens, positions: batch.positions, docStart: batch.docStart }
  if (dropout > 0) inputs.dropout = new Dropout(dropout, batch.sampleIndex, streams)
  const { loss, tokenLosses } = crossEntropy(model.forward(inputs), model.headWeight, batch.targets, scalars)
  scalars.device.kernels.scaledSum(batch.totalLoss, tokenLosses, scalars, !isFirst)
  tape.backward(loss)
}

/** Runs optimizer steps of a fixed micro-batch shape. */
export class TrainStep {
  readonly model: DecoderModel
  readonly optimizer: Optimizer
  readonly plan: MemoryPlan
  readonly #device: Device
  readonly #options: MicroStepOptions
  readonly #batch: BatchTensors
  readonly #arena: PlannedArena

  constructor(
    model: DecoderModel,
    optimizer: Optimizer,
    shape: { microBatchSize: number; seqLen: number },
    plan: MemoryPlan,
    options: MicroStepOptions,
  ) {
    this.model = model
    this.optimizer = optimizer
    this.plan = plan
    this.#options = options
    this.#device = optimizer.scalars.device
    this.#batch = new BatchTensors(this.#device, shape.microBatchSize, shape.seqLen)
    this.#arena = new PlannedArena(plan, this.#device.allocate(plan.totalBytes))
  }

  /**
   * One step over the global batch.
   * @param trainedTokens  tokens with a target in all micro-batches together: what the loss is a mean over
   * @returns the loss of the batch in nats per trained token, before the update
   */
  async run(batches: Iterable<HostBatch>, trainedTokens: number, settings: StepSettings): Promise<number> {
    this.optimizer.begin(trainedTokens)
    let isFirst = true
    for (const batch of batches) {
      this.#micro(batch, isFirst)
      isFirst = false
    }
    this.optimizer.step(settings)
    return (await this.#device.read(this.#batch.totalLoss))[0]!
  }

  #micro(batch: HostBatch, isFirst: boolean): void {
    this.#batch.fill(batch)
    this.#arena.reset()
    using tape = new Tape(this.#device, { allocator: this.#arena, recompute: this.#options.recompute })
    microStep(this.model, this.#batch, this.optimizer.scalars, tape, this.#options, isFirst)
    invariant(this.#arena.isComplete, 'a micro-batch did not follow its memory plan')
  }
}
