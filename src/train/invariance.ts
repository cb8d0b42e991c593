// The decomposition gate: one global batch, cut into micro-batches and packed into rows in different ways, must give the
// same loss and the same gradients. Trainers keep getting this wrong (a mean of means); here it is checked on the
// user's own data before a long run, and a deliberately wrong variant must fail the same check.
import type { HfConfig } from '../checkpoint/hf-config.ts'
import { createModel } from '../checkpoint/hf-config.ts'
import type { Device } from '../core/device.ts'
import type { TokenDataset } from '../data/dataset.ts'
import { emptyBatch, type HostBatch } from '../data/host-batch.ts'
import { DataLoader } from '../data/loader.ts'
import { DropoutStreams } from '../models/decoder.ts'
import { materialize } from '../nn/module.ts'
import { openMeta } from '../open.ts'
import { adamw } from '../optim/adam.ts'
import { Optimizer } from '../optim/optimizer.ts'
import { planStep } from './plan.ts'
import { TrainStep } from './step.ts'

/** Largest relative difference of loss and of the whole gradient that f32 sums in another order may make. */
export const INVARIANCE_TOLERANCE = 1e-5

export interface InvarianceRow {
  /** How the batch was divided: `4 x 4 rows`. */
  readonly name: string
  /** True for the variant that is wrong on purpose. */
  readonly isPlantedFault: boolean
  /** Nats per trained token. */
  readonly loss: number
  /** |loss - loss of the first row| / loss of the first row. */
  readonly lossDifference: number
  /** Norm of the difference of all gradients over the norm of the first row's. */
  readonly gradientDifference: number
  readonly isEqual: boolean
}

/** The parts of a packed row: [from, to) of each document piece. */
function pieces(batch: HostBatch, row: number): [number, number][] {
  const { seqLen, docStart } = batch
  const found: [number, number][] = []
  let from = 0
  for (let t = 1; t <= seqLen; t++) {
    if (t < seqLen && docStart[row * seqLen + t] === docStart[row * seqLen + from]) continue
    found.push([from, t])
    from = t
  }
  return found
}

/** The same document pieces with every piece alone at the start of a row of its own; the rest of the row is padding. */
export function onePieceARow(batch: HostBatch): HostBatch[] {
  const { seqLen, batchSize } = batch
  const rows: HostBatch[] = []
  for (let row = 0; row < batchSize; row++) {
    for (const [from, to] of pieces(batch, row)) {
      const alone = emptyBatch(1, seqLen)
      for (let t = 0; t < seqLen; t++) {
        const isPiece = t < to - from
        const source = row * seqLen + from + t
        alone.tokens[t] = isPiece ? batch.tokens[source]! : 0
        alone.targets[t] = isPiece ? batch.targets[source]! : -1
        alone.positions[t] = isPiece ? batch.positions[source]! : 0
        alone.docStart[t] = isPiece ? 0 : t
        if (isPiece && batch.targets[source]! >= 0) alone.trainedTokens++
      }
      rows.push(alone)
    }
  }
  return rows
}

/**
 * Compares divisions of the global batch of one step.
 * @param config  model to check with, initialised from `seed`
 * @param options.rows  sequences of the global batch: divided as 1 x rows, and by its square root, and rows x 1
 */
export async function checkInvariance(options: {
  device: Device
  config: HfConfig
  dataset: TokenDataset
  seqLen: number
  rows: number
  seed: number
  /** Which step of the data order; default the first whose rows train different numbers of tokens. */
  step?: number | undefined
}): Promise<InvarianceRow[]> {
  const { device, config, dataset, seqLen, rows, seed } = options
  const loader = new DataLoader(dataset, { mode: 'packed', seqLen, rowsPerStep: rows, seed })
  const batch = loader.step(options.step ?? firstUnevenStep(loader))
  const model = createModel(config)
  const arenas = materialize(model, device, { seed })
  const optimizer = new Optimizer(arenas, adamw())
  const steps = new Map<number, TrainStep>()
  const stepFor = async (microBatchSize: number): Promise<TrainStep> => {
    const known = steps.get(microBatchSize)
    if (known !== undefined) return known
    const stepOptions = { recompute: 'none' as const, dropout: 0, streams: new DropoutStreams(seed) }
    const shape = { microBatchSize, seqLen }
    const plan = planStep(createModel(config), await openMeta(device), shape, adamw(), stepOptions)
    const step = new TrainStep(model, optimizer, shape, plan, stepOptions)
    steps.set(microBatchSize, step)
    return step
  }
  const divide = (size: number): HostBatch[] =>
    Array.from({ length: batch.microBatchCount(size) }, (_, i) => batch.microBatch(i, size))

  const middle = divisorNearRoot(rows)
  const variants: { name: string; batches: HostBatch[]; isPlantedFault?: boolean }[] = [
    { name: `1 micro-batch of ${rows}`, batches: divide(rows) },
    { name: `${rows / middle} micro-batches of ${middle}`, batches: divide(middle) },
    { name: `${rows} micro-batches of 1`, batches: divide(1) },
    { name: 'packed differently: a document piece a row', batches: divide(1).flatMap(onePieceARow) },
    { name: `planted fault: mean of the means of ${rows} micro-batches`, batches: divide(1), isPlantedFault: true },
  ]
  const results: InvarianceRow[] = []
  let first: { loss: number; gradients: Float64Array; norm: number } | undefined
  for (const { name, batches, isPlantedFault = false } of variants) {
    const step = await stepFor(batches[0]!.batchSize)
    const loss = isPlantedFault
      ? await meanOfMeans(step, optimizer, batches)
      : await exactMean(step, optimizer, batches, batch.trainedTokens)
    const gradients = await readGradients(optimizer)
    first ??= { loss, gradients, norm: Math.hypot(1e-300, norm(gradients)) }
    const baseline = first.gradients
    const lossDifference = Math.abs(loss - first.loss) / first.loss
    const gradientDifference = norm(gradients.map((value, i) => value - baseline[i]!)) / first.norm
    const isEqual = lossDifference <= INVARIANCE_TOLERANCE && gradientDifference <= INVARIANCE_TOLERANCE
    results.push({ name, isPlantedFault, loss, lossDifference, gradientDifference, isEqual })
  }
  return results
}

/** An even batch would hide the planted fault: a mean of means of equal counts is the mean. */
function firstUnevenStep(loader: DataLoader): number {
  const steps = Math.ceil(loader.stepsPerEpoch)
  for (let s = 0; s < steps; s++) {
    const batch = loader.step(s)
    const counts = Array.from({ length: batch.rows }, (_, i) => batch.microBatch(i, 1).trainedTokens)
    if (new Set(counts).size > 1) return s
  }
  return 0
}

async function exactMean(
  step: TrainStep,
  optimizer: Optimizer,
  batches: readonly HostBatch[],
  trainedTokens: number,
): Promise<number> {
  optimizer.begin(trainedTokens)
  await step.accumulate(batches)
  return await step.lastLoss()
}

/** Wrong on purpose: every micro-batch's mean counts alike, however few tokens it trains. */
async function meanOfMeans(step: TrainStep, optimizer: Optimizer, batches: readonly HostBatch[]): Promise<number> {
  optimizer.begin(1)
  let loss = 0
  for (const batch of batches) {
    optimizer.scaleLoss(1 / (Math.max(1, batch.trainedTokens) * batches.length))
    await step.accumulate([batch])
    loss += await step.lastLoss()
  }
  return loss
}

async function readGradients(optimizer: Optimizer): Promise<Float64Array> {
  const parts: number[][] = []
  for (const arena of optimizer.arenas) {
    for (const { parameter } of arena.segments) {
      if (parameter.hasGradient) parts.push(Array.from(await parameter.device.read(parameter.gradient!)))
    }
  }
  return Float64Array.from(parts.flat())
}

function norm(values: Float64Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))
}

function divisorNearRoot(rows: number): number {
  for (let size = Math.floor(Math.sqrt(rows)); size > 1; size--) if (rows % size === 0) return size
  return 1
}
