// More memory than the card has, at once and in a plan: one sentence each, and the device works on.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ConfigError, DeviceError } from '../../src/core/errors.ts'
import { Pretraining } from '../../src/train/pretrain.ts'
import { modelConfig, modelFromDepth, type RunSettings } from '../../src/train/settings.ts'
import { unevenLengths, writeDataset } from '../data/fixtures.ts'
import { openGpu } from './gpu.ts'

const VOCAB = 331
const gpu = await openGpu({ precision: 'bf16' })

const settings = (batchTokens: number, microBatchSize: number): RunSettings => ({
  model: modelFromDepth(12, 1024),
  seqLen: 1024,
  batchTokens,
  microBatchSize,
  packing: 'packed',
  seed: 1,
  dropout: 0,
  recompute: 'none',
  optimizer: { kind: 'adamw', weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0.9 },
  schedule: { kind: 'constant', lr: 1e-3, minLr: 1e-3, warmupSteps: 0, maxSteps: 2, decayFraction: 0 },
  gradClip: 1,
})

test('cuda: memory', { skip: 'skip' in gpu && gpu.skip }, async (t) => {
  assert.ok('device' in gpu)
  const { device } = gpu
  t.after(() => device.close())
  const dataset = writeDataset(
    unevenLengths(4000).map((length, d) => Array.from({ length }, (_, i) => (d * 7 + i) % VOCAB)),
    { vocabSize: VOCAB },
  )
  const open = async (set: RunSettings) => {
    const config = modelConfig(set.model, { vocabSize: VOCAB })
    return await Pretraining.open({ device, settings: set, config, dataset, tokenizerFiles: {}, numerics: {} })
  }

  await t.test('cuda: a block that is larger than the card is refused in a sentence, and the next one is given', () => {
    const { totalBytes } = device.ownMemory()
    assert.throws(
      () => device.allocate(2 * totalBytes),
      (error) =>
        error instanceof DeviceError && /has \d+ MiB of \d+ MiB free, \d+ MiB more are needed/.test(error.message),
    )
    device.release(device.allocate(1 << 20))
  })

  await t.test('cuda: a batch that does not fit is refused with a change that fits', async () => {
    const tokens = 4096 * 1024
    const words = await open(settings(tokens, 4096)).then(
      () => assert.fail('four million tokens at once must not fit'),
      (error: unknown) => {
        assert.ok(error instanceof ConfigError, String(error))
        return error.message
      },
    )
    assert.match(words, /memory of the card \(activations .*, taken already .*\), cuda:0 can have /)
    assert.match(words, /the cheapest change that fits is --micro-batch-size \d+ \(/)
  })
})
