// Loss scaling on the CPU: scaled gradients give the unscaled update, an overflow changes nothing and shrinks the scale,
// and a run that goes on from a checkpoint has the scale it had.
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import type { LossScaling } from '../../src/optim/optimizer.ts'
import { Pretraining } from '../../src/train/pretrain.ts'
import { RunDir } from '../../src/train/run-dir.ts'
import { modelConfig, modelFromDepth, type RunSettings } from '../../src/train/settings.ts'
import { describeLastStep } from '../../src/train/spike.ts'
import { temporaryFolder, unevenLengths, writeDataset } from '../data/fixtures.ts'
import { openCpu } from '../devices.ts'

const VOCAB = 61
const dataset = writeDataset(
  unevenLengths(60).map((length, d) => Array.from({ length }, (_, i) => (d * 5 + i * i) % VOCAB)),
  { vocabSize: VOCAB },
)

function settings(lossScaling?: LossScaling): RunSettings {
  return {
    model: modelFromDepth(1, 32, { hiddenSize: 32, numAttentionHeads: 2 }),
    seqLen: 32,
    batchTokens: 128,
    microBatchSize: 4,
    packing: 'packed',
    seed: 3,
    dropout: 0,
    recompute: 'none',
    optimizer: { kind: 'adamw', weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0 },
    schedule: { kind: 'constant', lr: 3e-3, minLr: 3e-3, warmupSteps: 0, maxSteps: 12, decayFraction: 0 },
    gradClip: 1,
    ...(lossScaling && { lossScaling }),
  }
}

const dynamic = (initialScale: number): LossScaling => ({
  initialScale,
  dynamic: { growthFactor: 2, growthInterval: 3, backoffFactor: 2 ** -40, hysteresis: 2, minScale: 1 },
})

async function open(lossScaling?: LossScaling): Promise<Pretraining> {
  const device = await openCpu()
  const set = settings(lossScaling)
  const config = modelConfig(set.model, { vocabSize: VOCAB })
  return await Pretraining.open({ device, settings: set, config, dataset, tokenizerFiles: {}, numerics: {} })
}

test('a power of two changes no bit of loss, norm and weights', async () => {
  const plain = await open()
  const scaled = await open({ initialScale: 2 ** 16 })
  for (let step = 0; step < 6; step++) {
    const [a, b] = [await plain.trainStep(), await scaled.trainStep()]
    assert.equal(b.loss, a.loss)
    assert.equal(b.gradNorm, a.gradNorm)
  }
})

test('overflows are skipped and counted, the scale shrinks after two of them and grows after three good steps', async () => {
  const run = await open(dynamic(2 ** 140))
  const reports = []
  for (let step = 0; step < 9; step++) reports.push(await run.trainStep())
  assert.deepEqual(
    reports.map((report) => report.isFinite),
    [false, false, true, true, true, true, true, true, true],
  )
  assert.deepEqual(
    reports.map(({ gradScale }) => Math.log2(gradScale)),
    [140, 100, 100, 100, 101, 101, 101, 102, 102],
  )
  assert.equal(reports.at(-1)!.skippedSteps, 2)
  assert.equal(reports[1]!.loss === reports[0]!.loss, false, 'the second batch is another one')
})

test('a resumed run has the scale of the run it goes on with', async () => {
  const folder = join(temporaryFolder(), 'run')
  const first = await open(dynamic(2 ** 140))
  for (let step = 0; step < 4; step++) await first.trainStep()
  await first.save(await RunDir.open(folder, {}))
  const expected = []
  for (let step = 0; step < 4; step++) expected.push(await first.trainStep())
  const second = await open(dynamic(2 ** 140))
  await second.resume(await RunDir.open(folder, {}, { resume: true }))
  for (const { loss, usedGradScale, gradScale, skippedSteps } of expected) {
    const report = await second.trainStep()
    assert.deepEqual(
      [report.loss, report.usedGradScale, report.gradScale, report.skippedSteps],
      [loss, usedGradScale, gradScale, skippedSteps],
    )
  }
})

/** Weights of all arenas, one after the other. */
async function weightsOf(run: Pretraining): Promise<number[]> {
  const arrays = await Promise.all(run.optimizer.arenas.map(({ weights }) => run.device.read(weights)))
  return arrays.flatMap((values) => Array.from(values))
}

test('a skipped step does not count for bias corrections: the first update after it is a first update', async () => {
  // Of a first step AdamW's update is lr * sign(gradient) nearly everywhere; corrected as a third step it is smaller.
  const run = await open({ initialScale: 2 ** 140, dynamic: { ...dynamic(1).dynamic!, hysteresis: 1 } })
  const before = await weightsOf(run)
  const skipped = await run.trainStep()
  assert.equal(skipped.isFinite, false)
  assert.deepEqual(await weightsOf(run), before)
  const moved = await run.trainStep()
  assert.equal(moved.isFinite, true)
  const after = await weightsOf(run)
  const steps = after.map((weight, i) => Math.abs(weight - before[i]! * (1 - 3e-3 * 0.1))).filter((size) => size > 0)
  steps.sort((a, b) => a - b)
  const median = steps[steps.length >> 1]!
  assert.ok(Math.abs(median / 3e-3 - 1) < 0.02, `half of the weights moved by ${median} or less instead of by lr`)
})

test('norms of layers are told without the loss scale', async () => {
  const plain = await open()
  const scaled = await open({ initialScale: 2 ** 16 })
  const describe = async (run: Pretraining) => await describeLastStep(run, await run.trainStep(), 'asked for')
  const [expected, got] = [await describe(plain), await describe(scaled)]
  assert.deepEqual(got.layers, expected.layers)
  // The scale that grows after this step is not the one that its gradients have.
  const growing = await open({ initialScale: 2 ** 16, dynamic: { ...dynamic(1).dynamic!, growthInterval: 1 } })
  assert.deepEqual((await describe(growing)).layers, expected.layers)
})
