// Which numbers narrower floats lose: counts by hand, shares against a conversion to f16, and a whole model's table.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openReferenceDevice } from '../../src/backends/reference/open-reference.ts'
import { floatToHalf, halfToFloat } from '../../src/checkpoint/half.ts'
import { exponentBars, exponentRuler } from '../../src/display/exponents.ts'
import { numberRanges, RangeCounter } from '../../src/train/number-ranges.ts'
import { Pretraining } from '../../src/train/pretrain.ts'
import { modelConfig, modelFromDepth } from '../../src/train/settings.ts'
import { unevenLengths, writeDataset } from '../data/fixtures.ts'
import { spread } from '../ops/fp8-support.ts'

test('exponents are counted, and what e4m3 loses as it is and scaled', () => {
  const counter = new RangeCounter()
  // 2^-10 is half of e4m3's smallest number and becomes 0, a little more does not; 464 would be rounded to 480.
  counter.add([0, 1, -1.5, 2, 448, 463, -464, 2 ** -10, 1.01 * 2 ** -10])
  const { zeros, numbers, first, counts, lost, lostScaled } = counter.range('x')
  assert.deepEqual([numbers, zeros], [9, 1])
  assert.deepEqual(
    [0, 1, 8, -10].map((exponent) => counts[exponent - first]),
    [2, 1, 3, 2],
  )
  assert.deepEqual(lost.e4m3, { under: 1 / 8, over: 1 / 8 })
  // The largest, 464, needs a scale of 1/2.
  assert.deepEqual(lostScaled.e4m3, { under: 2 / 8, over: 0 })
})

test('what f16 loses is what a conversion to f16 loses', () => {
  const values = Array.from(spread('number ranges', 20_000), (x) => x * 2 ** (x > 0 ? -22 : 14))
  const halves = new Float32Array(values.length)
  halfToFloat(halves, floatToHalf(values))
  const under = halves.filter((x) => x === 0).length / values.length
  const over = halves.filter((x) => !Number.isFinite(x)).length / values.length
  assert.ok(under > 0.01 && over > 0.001)
  const counter = new RangeCounter()
  counter.add(values)
  const { f16 } = counter.range('x').lost
  assert.ok(
    Math.abs(f16.under - under) < 1e-9 && Math.abs(f16.over - over) < 1e-9,
    `${f16.under} ${under} ${f16.over} ${over}`,
  )
})

test('a line of bars: heights by share, a dot for few, the ends take what lies outside', () => {
  assert.equal(exponentBars({ first: 0, counts: [100, 0, 50, 0, 1, 0, 0, 0] }, 0, 8), '█▅· ')
  assert.equal(exponentBars({ first: -20, counts: [10] }, 0, 4), '█ ')
  assert.equal(exponentRuler(-16, 16), '-16 -8  0   8')
})

test('every kind of tensor of a model is in the table, and nothing is trained by looking', async () => {
  const data = writeDataset(
    unevenLengths(20).map((length, d) => Array.from({ length }, (_, i) => (d + i) % 29)),
    { vocabSize: 29 },
  )
  const model = modelFromDepth(2, 16, { family: 'gpt2', hiddenSize: 16, numAttentionHeads: 2 })
  const training = await Pretraining.open({
    device: openReferenceDevice(),
    settings: {
      model,
      seqLen: 16,
      batchTokens: 32,
      microBatchSize: 2,
      packing: 'packed',
      seed: 5,
      dropout: 0,
      recompute: 'none',
      optimizer: { kind: 'adamw', weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0.9 },
      schedule: { kind: 'constant', lr: 1e-2, minLr: 1e-2, warmupSteps: 0, maxSteps: 2, decayFraction: 0 },
      gradClip: 1,
    },
    config: modelConfig(model, { vocabSize: 29 }),
    dataset: data,
    tokenizerFiles: {},
    numerics: {},
  })
  await training.trainStep()
  const weights = () => training.device.read(training.optimizer.arenas[0]!.weights)
  const before = await weights()
  const ranges = new Map((await numberRanges(training)).map((range) => [range.name, range]))
  assert.deepEqual(await weights(), before)
  for (const name of [
    'attn.cAttn',
    'mlp.cProj',
    'gradient of mlp.cProj',
    'gradient of weights attn.cAttn',
    'weights ln1',
    'attention',
  ]) {
    assert.ok(ranges.has(name), `${name} in ${[...ranges.keys()]}`)
  }
  assert.equal(ranges.get('attn.cAttn')!.tensors, 2)
  assert.equal(ranges.get('attn.cAttn')!.numbers, 2 * 32 * 48)
  assert.equal(ranges.get('weights ln1')!.numbers, 2 * 16)
  for (const { counts, numbers, zeros } of ranges.values()) {
    assert.equal(
      counts.reduce((sum, count) => sum + count, 0),
      numbers - zeros,
    )
  }
})
