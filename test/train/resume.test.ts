// A run that stops at step 5 and is resumed ends, at step 10, in the very bits of the run that did not stop: weights,
// optimizer moments, data and dropout, with accumulation and packing, and with a shard boundary and an epoch's end
// between steps 5 and 10. The same bits come out on one thread and on two.
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import type { Device } from '../../src/core/device.ts'
import type { TokenDataset } from '../../src/data/dataset.ts'
import { openDevice } from '../../src/open.ts'
import { Pretraining } from '../../src/train/pretrain.ts'
import { RunDir } from '../../src/train/run-dir.ts'
import { modelConfig, modelFromDepth, type OptimizerSettings, type RunSettings } from '../../src/train/settings.ts'
import { temporaryFolder, unevenLengths, writeDataset } from '../data/fixtures.ts'

const VOCAB = 61
const STEPS = 10

function settingsFor(kind: OptimizerSettings['kind']): RunSettings {
  return {
    model: modelFromDepth(1, 32, { hiddenSize: 48, numAttentionHeads: 4, numHiddenLayers: 2, numKeyValueHeads: 2 }),
    seqLen: 32,
    batchTokens: 128,
    microBatchSize: 2,
    packing: 'packed',
    seed: 11,
    dropout: 0.1,
    recompute: 'selective',
    optimizer: { kind, weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0.9 },
    schedule: { kind: 'cosine', lr: 3e-3, minLr: 3e-4, warmupSteps: 3, maxSteps: STEPS, decayFraction: 0.2 },
    gradClip: 1,
  }
}

/** 1,000 tokens or so in shards of 400: an epoch is seven steps and a part. */
function dataset(): TokenDataset {
  const documents = unevenLengths(70).map((length, d) => Array.from({ length }, (_, i) => (d * 7 + i * i) % VOCAB))
  return writeDataset(documents, { maxTokensPerShard: 400, vocabSize: VOCAB })
}

async function open(device: Device, data: TokenDataset, settings: RunSettings): Promise<Pretraining> {
  const config = modelConfig(settings.model, { vocabSize: VOCAB })
  return await Pretraining.open({ device, settings, config, dataset: data, tokenizerFiles: {}, numerics: { isa: 'x' } })
}

async function trainTo(training: Pretraining, step: number): Promise<number[]> {
  const losses: number[] = []
  while (training.stepsDone < step) losses.push((await training.trainStep()).loss)
  return losses
}

/** Every number that a run carries: flat weights and optimizer states of all arenas. */
async function allState({ optimizer, device }: Pretraining): Promise<Map<string, Float32Array>> {
  const state = new Map<string, Float32Array>()
  for (const [i, { arena, states }] of optimizer.states.entries()) {
    state.set(`${i}.weights`, (await device.read(arena.weights)) as Float32Array)
    for (const [name, tensor] of Object.entries(states)) {
      state.set(`${i}.${name}`, (await device.read(tensor)) as Float32Array)
    }
  }
  return state
}

function assertSameBits(actual: Map<string, Float32Array>, expected: Map<string, Float32Array>): void {
  assert.deepEqual([...actual.keys()], [...expected.keys()])
  for (const [name, values] of expected) {
    const [a, b] = [actual.get(name)!, values].map((array) => Buffer.from(array.buffer))
    assert.ok(a!.equals(b!), `${name} differs`)
  }
}

for (const kind of ['adamw', 'muon'] as const) {
  test(`${kind}: stopped at step 5 and resumed, step 10 has the same bits`, async () => {
    const device = await openDevice('cpu', { threads: 2 })
    const data = dataset()
    const settings = settingsFor(kind)
    const whole = await open(device, data, settings)
    const { stepsPerEpoch } = whole.loader
    assert.ok(stepsPerEpoch > 5 && stepsPerEpoch < 10, `an epoch ends between steps 5 and 10, not at ${stepsPerEpoch}`)
    assert.ok(data.manifest.shards.length > 2, 'there are shard boundaries')
    const losses = await trainTo(whole, STEPS)

    const path = join(temporaryFolder(), 'run')
    const first = await open(device, data, settings)
    const firstLosses = await trainTo(first, 5)
    const run = await RunDir.open(path, { ...settings })
    await first.save(run)

    const second = await open(device, data, settings)
    const again = await RunDir.open(path, { ...settings }, { resume: true })
    assert.deepEqual(await second.resume(again), [])
    assert.equal(second.stepsDone, 5)
    const secondLosses = await trainTo(second, STEPS)
    assert.deepEqual([...firstLosses, ...secondLosses], losses)
    assertSameBits(await allState(second), await allState(whole))
    device.close()
  })
}

test('one thread and two give the same bits', async () => {
  const data = dataset()
  const results: Map<string, Float32Array>[] = []
  for (const threads of [1, 2]) {
    const device = await openDevice('cpu', { threads })
    const training = await open(device, data, settingsFor('adamw'))
    await trainTo(training, 4)
    results.push(await allState(training))
    device.close()
  }
  assertSameBits(results[0]!, results[1]!)
})

test('a resume that loses the moments is noticed', async () => {
  // The gate above must be able to fail: the same run with its optimizer states zeroed at step 5 ends elsewhere.
  const device = await openDevice('cpu', { threads: 2 })
  const data = dataset()
  const settings = settingsFor('adamw')
  const whole = await open(device, data, settings)
  await trainTo(whole, STEPS)
  const faulty = await open(device, data, settings)
  await trainTo(faulty, 5)
  for (const { states } of faulty.optimizer.states) {
    for (const tensor of Object.values(states)) device.kernels.fill(tensor, 0)
  }
  await trainTo(faulty, STEPS)
  const expected = await allState(whole)
  const actual = await allState(faulty)
  assert.throws(() => assertSameBits(actual, expected))
  device.close()
})

test('a device that computes products in other ways than the run so far is told about', async () => {
  const data = dataset()
  const settings = settingsFor('adamw')
  const path = join(temporaryFolder(), 'run')
  /** A CPU with several ways to compute things, as a card has: only what it says of them differs. */
  const openWith = async (ways: Record<string, string>): Promise<Pretraining> => {
    const device: Device = await openDevice('cpu', { threads: 1 })
    device.choices = () => ways
    device.choiceOf = (call) => ways[call]
    return await open(device, data, settings)
  }
  const first = await openWith({ square: 'plain', long: 'split 4' })
  await trainTo(first, 2)
  await first.save(await RunDir.open(path, { ...settings }))
  const resume = async (ways: Record<string, string>): Promise<string[]> =>
    (await openWith(ways)).resume(await RunDir.open(path, { ...settings }, { resume: true }))
  assert.deepEqual(await resume({ square: 'plain', long: 'split 4', other: 'plain' }), [])
  const [note] = await resume({ square: 'plain', long: 'split 2' })
  assert.match(note!, /bit-equality with the run so far is off: 1 of 2 products .* \(first: long\)/)
  assert.equal((await resume({})).length, 1)
})
