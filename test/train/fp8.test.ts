// A whole training with products in fp8, on the reference: it learns as in full precision, a resumed run has the same
// losses to the last bit, recomputation changes nothing, and the plan counts the weights' fp8 forms.
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { openReferenceDevice } from '../../src/backends/reference/open-reference.ts'
import type { Fp8Scaling } from '../../src/core/fp8.ts'
import type { Recompute } from '../../src/core/tape.ts'
import { Pretraining } from '../../src/train/pretrain.ts'
import { RunDir } from '../../src/train/run-dir.ts'
import { modelConfig, modelFromDepth, type RunSettings } from '../../src/train/settings.ts'
import { temporaryFolder, unevenLengths, writeDataset } from '../data/fixtures.ts'

const VOCAB = 29
const STEPS = 6

function settingsOf(family: 'llama' | 'gpt2', recompute: Recompute = 'none'): RunSettings {
  return {
    model: modelFromDepth(1, 16, { family, hiddenSize: 32, numAttentionHeads: 2 }),
    seqLen: 16,
    batchTokens: 64,
    microBatchSize: 2,
    packing: 'packed',
    seed: 5,
    dropout: 0,
    recompute,
    optimizer: { kind: 'adamw', weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0.9 },
    schedule: { kind: 'constant', lr: 1e-2, minLr: 1e-2, warmupSteps: 0, maxSteps: STEPS, decayFraction: 0 },
    gradClip: 1,
  }
}

const data = writeDataset(
  unevenLengths(40).map((length, d) => Array.from({ length }, (_, i) => (d + i) % VOCAB)),
  { vocabSize: VOCAB },
)

async function open(settings: RunSettings, scaling?: Fp8Scaling): Promise<Pretraining> {
  const config = modelConfig(settings.model, { vocabSize: VOCAB })
  const device = openReferenceDevice(scaling)
  return await Pretraining.open({ device, settings, config, dataset: data, tokenizerFiles: {}, numerics: {} })
}

async function trainTo(run: Pretraining, step: number): Promise<number[]> {
  const losses: number[] = []
  while (run.stepsDone < step) losses.push((await run.trainStep()).loss)
  return losses
}

for (const scaling of ['tensor', 'row'] as const) {
  for (const family of ['llama', 'gpt2'] as const) {
    test(`${family}, scales by ${scaling}: near full precision, and the same over a checkpoint`, async () => {
      const settings = settingsOf(family)
      const whole = await open(settings, scaling)
      const losses = await trainTo(whole, STEPS)
      const plain = await open(settings)
      const exact = await trainTo(plain, STEPS)
      assert.ok(losses.at(-1)! < losses[0]! - 0.1, 'it learns')
      for (const [i, loss] of losses.entries()) assert.ok(Math.abs(loss / exact[i]! - 1) < 0.02, `${losses} ${exact}`)
      assert.notDeepEqual(losses, exact)

      const folder = join(temporaryFolder(), 'run')
      const first = await open(settings, scaling)
      const before = await trainTo(first, 3)
      await first.save(await RunDir.open(folder, { ...settings }))
      const second = await open(settings, scaling)
      await second.resume(await RunDir.open(folder, { ...settings }, { resume: true }))
      assert.deepEqual([...before, ...(await trainTo(second, STEPS))], losses)
      const elements = 2 * 32 * (4 * 32 + (family === 'llama' ? 3 : 2) * settings.model.intermediateSize)
      assert.equal(
        whole.plan.parameterBytes - plain.plan.parameterBytes,
        8 * elements,
        'two copies, 8 bytes a number here',
      )
    })
  }
}

test('a checkpoint before the first step has no scales, and a run from it starts as any other', async () => {
  const settings = settingsOf('llama')
  const folder = join(temporaryFolder(), 'run')
  const run = await open(settings, 'tensor')
  assert.equal(await run.step.fp8!.saved(), undefined)
  await run.save(await RunDir.open(folder, { ...settings }))
  const resumed = await open(settings, 'tensor')
  await resumed.resume(await RunDir.open(folder, { ...settings }, { resume: true }))
  assert.deepEqual(await trainTo(resumed, 3), await trainTo(run, 3))
})

test('a training in which no product would be in fp8 is refused', async () => {
  const settings = settingsOf('llama')
  const model = modelFromDepth(1, 15, { hiddenSize: 32, numAttentionHeads: 2 })
  await assert.rejects(
    open({ ...settings, model, seqLen: 15, batchTokens: 60 }, 'tensor'),
    /microBatchSize x seqLen must be a multiple of 16, got 30: try 32/,
  )
  const device = openReferenceDevice('tensor')
  Object.assign(device.fp8!, { gains: () => false })
  const config = modelConfig(settings.model, { vocabSize: VOCAB })
  await assert.rejects(
    Pretraining.open({ device, settings, config, dataset: data, tokenizerFiles: {}, numerics: {} }),
    /this model has none: use --precision bf16, or a wider model/,
  )
})

test('recomputation changes nothing', async () => {
  const losses = async (recompute: Recompute) => await trainTo(await open(settingsOf('gpt2', recompute), 'tensor'), 3)
  const plain = await losses('none')
  assert.deepEqual(await losses('selective'), plain)
  assert.deepEqual(await losses('full'), plain)
})

test('an evaluation is in full precision and leaves the scales alone', async () => {
  const settings = settingsOf('llama')
  const [run, other] = [await open(settings, 'tensor'), await open(settings, 'tensor')]
  await trainTo(run, 1)
  await trainTo(other, 1)
  const before = await run.step.fp8!.saved()
  await run.evaluate(data, { documents: [0, 1] })
  assert.deepEqual(await run.step.fp8!.saved(), before)
  assert.deepEqual(await trainTo(run, 3), await trainTo(other, 3))
})
