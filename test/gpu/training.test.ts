// Whole training on the card: recorded parts against calls one by one, the same bits from run to run and over a
// checkpoint, one batch divided in different ways, and loss scaling that recovers from overflows.
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import type { TokenDataset } from '../../src/data/dataset.ts'
import type { CudaOptions } from '../../src/open.ts'
import { learningRate } from '../../src/optim/schedule.ts'
import { checkInvariance } from '../../src/train/invariance.ts'
import { totalBytes } from '../../src/train/plan.ts'
import { Pretraining } from '../../src/train/pretrain.ts'
import { RunDir } from '../../src/train/run-dir.ts'
import { modelConfig, modelFromDepth, type RunSettings } from '../../src/train/settings.ts'
import { temporaryFolder, unevenLengths, writeDataset } from '../data/fixtures.ts'
import { type Gpu, openGpu } from './gpu.ts'

const VOCAB = 331
const STEPS = 8

const SETTINGS: RunSettings = {
  model: modelFromDepth(2, 64, { hiddenSize: 128, numAttentionHeads: 2, numKeyValueHeads: 1 }),
  seqLen: 64,
  batchTokens: 512,
  microBatchSize: 4,
  packing: 'packed',
  seed: 11,
  dropout: 0.1,
  recompute: 'selective',
  optimizer: { kind: 'adamw', weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0.9 },
  schedule: { kind: 'cosine', lr: 3e-3, minLr: 3e-4, warmupSteps: 3, maxSteps: STEPS, decayFraction: 0.2 },
  gradClip: 1,
}

const ROWS = SETTINGS.batchTokens / SETTINGS.seqLen
/** Gradients summed over two micro-batches in f32, and those of one whole step: of matrices in bf16, where activations lay. */
const FORMS = (['adamw', 'muon'] as const).flatMap((kind) => [
  { kind, microBatchSize: ROWS / 2 },
  { kind, microBatchSize: ROWS },
])

const data: TokenDataset = writeDataset(
  unevenLengths(200).map((length, d) => Array.from({ length }, (_, i) => (d * 7 + i * i) % VOCAB)),
  { vocabSize: VOCAB },
)

async function open(device: Gpu, settings: RunSettings): Promise<Pretraining> {
  const config = modelConfig(settings.model, { vocabSize: VOCAB })
  return await Pretraining.open({ device, settings, config, dataset: data, tokenizerFiles: {}, numerics: {} })
}

async function trainTo(run: Pretraining, step: number): Promise<number[]> {
  const losses: number[] = []
  while (run.stepsDone < step) losses.push((await run.trainStep()).loss)
  return losses
}

/** A whole run on a device of its own. */
async function losses(options: CudaOptions, settings: RunSettings = SETTINGS, isRecorded = true): Promise<number[]> {
  const gpu = await openGpu(options)
  assert.ok('device' in gpu)
  if (!isRecorded) Object.defineProperty(gpu.device, 'record', { value: undefined })
  try {
    return await trainTo(await open(gpu.device, settings), STEPS)
  } finally {
    gpu.device.close()
  }
}

const gpu = await openGpu({ precision: 'f32' })
if ('device' in gpu) gpu.device.close()

describe('cuda, training', () => {
  if ('skip' in gpu) {
    test('every test', { skip: gpu.skip })
    return
  }
  test('recorded parts do what their calls do', async () => {
    const recorded = await losses({ precision: 'f32' })
    const called = await losses({ precision: 'f32' }, SETTINGS, false)
    for (const [i, loss] of called.entries()) {
      assert.ok(Math.abs(recorded[i]! / loss - 1) < 2e-6, `step ${i + 1}: ${recorded[i]} instead of ${loss}`)
    }
  })

  test('a loss that is read while the next step is at work is that of its own step', async () => {
    const expected = await losses({ precision: 'f32' })
    const gpu = await openGpu({ precision: 'f32' })
    assert.ok('device' in gpu)
    const { step: trainStep, loader } = await open(gpu.device, SETTINGS)
    const reads = []
    for (let step = 1; step <= STEPS; step++) {
      const batch = loader.step(step - 1)
      const rows = SETTINGS.microBatchSize
      const batches = Array.from({ length: batch.microBatchCount(rows) }, (_, i) => batch.microBatch(i, rows))
      const { schedule, gradClip } = SETTINGS
      await trainStep.launch(batches, batch.trainedTokens, { lr: learningRate(schedule, step), step, gradClip })
      reads.push(trainStep.lastLoss())
    }
    assert.deepEqual(await Promise.all(reads), expected)
    gpu.device.close()
  })

  for (const { kind, microBatchSize } of FORMS) {
    const settings = { ...SETTINGS, microBatchSize, optimizer: { ...SETTINGS.optimizer, kind } }

    test(`${kind} in bf16, ${ROWS / microBatchSize} micro-batches: the same bits in every run, and over a checkpoint`, async () => {
      // The first run may look for the fastest algorithms, which later ones find on disk.
      await losses({ precision: 'bf16' }, settings)
      const whole = await losses({ precision: 'bf16' }, settings)
      assert.deepEqual(await losses({ precision: 'bf16' }, settings), whole)

      const folder = join(temporaryFolder(), 'run')
      const before = await openGpu({ precision: 'bf16' })
      assert.ok('device' in before)
      const first = await open(before.device, settings)
      const firstLosses = await trainTo(first, 5)
      assert.ok(Object.keys(before.device.choices()).length > 10, 'the checkpoint names how products were computed')
      await first.save(await RunDir.open(folder, { ...settings }))
      before.device.close()

      const after = await openGpu({ precision: 'bf16' })
      assert.ok('device' in after)
      const second = await open(after.device, settings)
      assert.deepEqual(await second.resume(await RunDir.open(folder, { ...settings }, { resume: true })), [])
      const secondLosses = await trainTo(second, STEPS)
      after.device.close()
      assert.deepEqual([...firstLosses, ...secondLosses], whole)
    })
  }

  for (const { kind, microBatchSize } of FORMS) {
    test(`${kind}, ${ROWS / microBatchSize} micro-batches: tensors take exactly the planned bytes, and scratch does not grow beyond its reserve`, async () => {
      const gpu = await openGpu({ precision: 'bf16' })
      assert.ok('device' in gpu)
      const run = await open(gpu.device, {
        ...SETTINGS,
        microBatchSize,
        optimizer: { ...SETTINGS.optimizer, kind },
      })
      await trainTo(run, 3)
      await run.evaluate(data, { documents: [0, 1, 2] })
      const { tensorBytes, scratchBytes } = gpu.device.ownMemory()
      gpu.device.close()
      assert.equal(tensorBytes, totalBytes(run.plan))
      assert.equal(scratchBytes, run.memory.scratchBytes)
    })
  }

  test('gradients of a whole step, held in bf16, train as those of two micro-batches summed in f32', async () => {
    const summed = await losses({ precision: 'bf16' }, { ...SETTINGS, dropout: 0 })
    const whole = await losses({ precision: 'bf16' }, { ...SETTINGS, dropout: 0, microBatchSize: ROWS })
    for (const [i, loss] of whole.entries()) {
      assert.ok(Math.abs(loss / summed[i]! - 1) < 2e-3, `step ${i + 1}: ${loss} instead of ${summed[i]}`)
    }
  })

  test('f16: a loss scale that is far too large shrinks until training goes on', async () => {
    const dynamic = { growthFactor: 2, growthInterval: 1000, backoffFactor: 1 / 16, hysteresis: 1, minScale: 1 }
    const gpu = await openGpu({ precision: 'f16' })
    assert.ok('device' in gpu)
    const run = await open(gpu.device, { ...SETTINGS, lossScaling: { initialScale: 2 ** 40, dynamic } })
    const reports = []
    for (let step = 0; step < 16; step++) reports.push(await run.trainStep())
    gpu.device.close()
    const skipped = reports.at(-1)!.skippedSteps
    assert.ok(skipped > 0 && skipped < 10, `${skipped} steps were skipped`)
    assert.ok(reports.slice(skipped).every((report) => report.isFinite))
    assert.ok(reports.at(-1)!.loss < reports[0]!.loss, 'and it learns')
  })

  test('f32: one batch gives the same gradients however it is divided', async () => {
    const gpu = await openGpu({ precision: 'f32' })
    assert.ok('device' in gpu)
    const config = modelConfig(SETTINGS.model, { vocabSize: VOCAB })
    const rows = await checkInvariance({ device: gpu.device, config, dataset: data, seqLen: 64, rows: 8, seed: 3 })
    gpu.device.close()
    for (const row of rows) assert.equal(row.isEqual, !row.isPlantedFault, JSON.stringify(row))
  })
})
