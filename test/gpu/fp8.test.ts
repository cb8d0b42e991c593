// fp8 on a card: casts byte for byte against the reference, products against float64, layers against the reference's
// layers in fp8, and training: the same bits in every run and over a checkpoint, near bf16, and really in fp8.
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { expectFp8 } from '../../src/backends/cuda/fp8.ts'
import { openReferenceDevice } from '../../src/backends/reference/open-reference.ts'
import type { Device } from '../../src/core/device.ts'
import type { Fp8Format, Fp8Matrix } from '../../src/core/fp8.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import { Pretraining } from '../../src/train/pretrain.ts'
import { RunDir } from '../../src/train/run-dir.ts'
import { modelConfig, modelFromDepth, type RunSettings } from '../../src/train/settings.ts'
import { temporaryFolder, unevenLengths, writeDataset } from '../data/fixtures.ts'
import {
  distance,
  LAYER_KINDS,
  type LayerShape,
  layerValues,
  numberOf,
  referenceNumbers,
  runLayer,
} from '../ops/fp8-support.ts'
import { valuesOf } from '../ops/harness.ts'
import { castCases, normCases, productCases, runCast, runNorm, runProduct } from './fp8-cases.ts'
import { type Gpu, openGpu } from './gpu.ts'

const SCALINGS = ['tensor', 'row'] as const
/** Between neighbouring numbers that are not subnormal, over the larger, at most. */
const SPACING = { e4m3: 1 / 8, e5m2: 1 / 4 } as const
/**
 * Largest errors of products of fp8 factors, over the norm: f32 out; bf16 out, one rounding. Tensor cores align the
 * summands of a group before they add them, and `isFast` keeps the sums in their 14 bits.
 */
const LIMITS = { f32: 5e-4, bf16: 3e-3, fast: 6e-3 }
/**
 * Largest distances of layers from the reference's fp8. In an MLP a result is cast again: the card's, which is rounded to
 * bf16 before, may fall on the other side of a rounding to fp8, which is 6 to 25 % of the number.
 */
const LAYER_LIMITS = { 'linear out-in': 1e-2, 'linear in-out': 1e-2, geluMlp: 4e-2, swiglu: 4e-2 } as const

test('a card without fp8, or without scales by rows, is refused with what to use instead', () => {
  const card = (computeCapability: number) => ({ computeCapability })
  assert.throws(() => expectFp8(card(80), 'tensor'), /needs compute capability 8.9, this is 8.0: use --precision bf16/)
  assert.throws(() => expectFp8(card(89), 'row'), /needs compute capability 9.0, this is 8.9: use --fp8-scaling tensor/)
  expectFp8(card(89), 'tensor')
  expectFp8(card(90), 'row')
})

const cards = {
  tensor: await openGpu({ precision: 'fp8', fp8Scaling: 'tensor' }),
  row: await openGpu({ precision: 'fp8', fp8Scaling: 'row' }),
}
const plainCard = await openGpu({ precision: 'bf16' })
const opened = [...Object.values(cards), plainCard]
const gpu = cards.tensor
for (const card of opened) if ('device' in card) prepare(card.device)
after(() => {
  for (const card of opened) if ('device' in card) card.device.close()
})

/**
 * Small layers are in fp8 too, and no product is timed for its fastest algorithm: every kind keeps the first one. A search
 * over all the kinds of this file takes minutes beside other programs on the card; training.test.ts has it.
 */
function prepare(device: Gpu): void {
  if (device.fp8 !== undefined) Object.assign(device.fp8, { gains: () => true })
  Object.defineProperty(device, 'settle', { value: undefined })
}

/** Where two lists differ first, for lists that are too long to be printed. */
function firstDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): string | undefined {
  if (actual.length !== expected.length) return `${actual.length} numbers instead of ${expected.length}`
  const different = Array.from(expected).flatMap((x, i) => (actual[i] === x ? [] : [i]))
  if (different.length === 0) return undefined
  const [at] = different as [number]
  return `${different.length} of ${expected.length} differ, first ${at}: ${actual[at]} instead of ${expected[at]}`
}

async function numbersOf(tensor: Tensor, format: Fp8Format): Promise<number[]> {
  return Array.from(await tensor.device.read(tensor), (byte) => numberOf(byte, format))
}

/** Rows of a factor as the numbers that they stand for, times their scales. */
async function factorRows({ rows, rowScale, format }: Fp8Matrix): Promise<number[][]> {
  const [bytes, scales] = [await numbersOf(rows, format), await rows.device.read(rowScale)]
  const width = rows.columnCount
  return Array.from({ length: rows.rowCount }, (_, i) =>
    bytes.slice(i * width, (i + 1) * width).map((x) => x * scales[scales.length === 1 ? 0 : i]!),
  )
}

for (const scaling of SCALINGS) {
  describe(`cuda fp8, scales by ${scaling}`, () => {
    const card = cards[scaling]
    if ('skip' in card) {
      test('every test', { skip: card.skip })
      return
    }
    const { device } = card
    const reference = openReferenceDevice(scaling)

    for (const castCase of castCases) {
      test(`cast ${JSON.stringify(castCase)}`, async () => {
        const [actual, expected] = [runCast(device, scaling, castCase), runCast(reference, scaling, castCase)]
        for (const part of ['rows', 'columns'] as const) {
          const [bytes, numbers] = [await numbersOf(actual[part], castCase.format), referenceNumbers(expected[part])]
          if (castCase.activation === undefined) assert.equal(firstDifference(bytes, numbers), undefined, part)
          else {
            // An activation that is off by an ulp may fall on the other side of a rounding: to the number beside it.
            const others = bytes.flatMap((x, i) => (x === numbers[i] ? [] : [[x, numbers[i]!] as const]))
            assert.ok(others.length / bytes.length < 2e-3, `${part}: ${others.length} of ${bytes.length} differ`)
            const far = others.find(
              ([x, y]) => Math.abs(x - y) > SPACING[castCase.format] * Math.max(Math.abs(x), Math.abs(y)),
            )
            assert.equal(far, undefined, `${part}: more than one rounding apart`)
          }
        }
        for (const [name, of] of [
          ['rowScale', (r: typeof actual) => r.rowScale],
          ['columnScale', (r: typeof actual) => r.columnScale],
        ] as const) {
          const scales = [await valuesOf(of(actual)), await valuesOf(of(expected))] as const
          if (castCase.activation === undefined) assert.equal(firstDifference(...scales), undefined, name)
          else {
            // The largest of a row may be off by the activation's last bits, and its scale with it.
            const off = Math.max(...Array.from(scales[0], (x, i) => Math.abs(x / scales[1][i]! - 1)))
            assert.ok(off < 2e-6, `${name}: one is off by ${off}`)
          }
        }
        if (actual.slot !== undefined) {
          const [amax, expectedAmax] = [await valuesOf(actual.slot.amax), await valuesOf(expected.slot!.amax)]
          assert.ok(distance(amax, expectedAmax) < (castCase.activation === undefined ? 1e-7 : 1e-5), `amax ${amax}`)
        }
        if (actual.sums !== undefined) {
          assert.ok(distance(await valuesOf(actual.sums), await valuesOf(expected.sums!)) < 1e-5)
        }
      })
    }

    if (scaling === 'tensor') {
      for (const normCase of normCases) {
        test(`norm ${JSON.stringify(normCase)}`, async () => {
          const [actual, expected] = [runNorm(device, normCase), runNorm(reference, normCase)]
          for (const part of ['rows', 'columns'] as const) {
            const [bytes, numbers] = [await numbersOf(actual[part], 'e4m3'), referenceNumbers(expected[part])]
            const others = bytes.filter((x, i) => x !== numbers[i]).length / bytes.length
            assert.ok(others < 2e-3 && distance(bytes, numbers) < 5e-3, `${part}: ${others} of the bytes differ`)
          }
          for (const statistic of ['mean', 'rstd'] as const) {
            const [a, b] = [actual[statistic], expected[statistic]]
            if (a !== undefined) assert.ok(distance(await valuesOf(a), await valuesOf(b!)) < 1e-5, statistic)
          }
          assert.deepEqual(await valuesOf(actual.slot!.scale), await valuesOf(expected.slot!.scale))
          assert.ok(distance(await valuesOf(actual.slot!.amax), await valuesOf(expected.slot!.amax)) < 1e-5)
        })
      }
    }

    for (const productCase of productCases) {
      const { rows, columns, options, out: dtype } = productCase
      test(`product ${JSON.stringify(productCase)}`, async (t) => {
        const { out, a, b, before, bias, residual } = runProduct(device, scaling, productCase)
        const actual = await valuesOf(out)
        const [rowsOfA, rowsOfB] = [await factorRows(a), await factorRows(b)]
        const expected: number[] = []
        const sampled: number[] = []
        for (let i = 0; i < rows; i += 7) {
          for (let j = 0; j < columns; j += 5) {
            const at = i * columns + j
            const product = rowsOfA[i]!.reduce((sum, x, k) => sum + x * rowsOfB[j]![k]!, 0)
            const added = (options.includes('accumulate') ? before[at]! : 0) + (bias?.[j] ?? 0) + (residual?.[at] ?? 0)
            expected.push(product + added)
            sampled.push(actual[at]!)
          }
        }
        const error = distance(sampled, expected)
        t.diagnostic(`error ${error.toExponential(1)}`)
        assert.ok(error < LIMITS[options.includes('isFast') ? 'fast' : dtype], `error ${error}`)
      })
    }

    for (const kind of LAYER_KINDS) {
      test(`${kind} forward and backward`, async (t) => {
        const shape: LayerShape = { kind, rows: 144, inputs: 128, hidden: 208, outputs: 144 }
        const values = layerValues(shape)
        const [actual, expected] = [
          await runLayer(device, shape, values, 2),
          await runLayer(reference, shape, values, 2),
        ]
        const exact = await runLayer(openReferenceDevice(), shape, values, 2)
        for (const [name, value] of Object.entries(expected.results)) {
          const error = distance(actual.results[name]!, value)
          const rounding = distance(actual.results[name]!, exact.results[name]!)
          t.diagnostic(
            `${name}: ${error.toExponential(1)} from the reference's fp8, ${rounding.toExponential(1)} from float64`,
          )
          assert.ok(error < LAYER_LIMITS[kind], `${name}: ${error}`)
          assert.ok(rounding < 0.12, `${name}: ${rounding} from float64`)
        }
      })
    }
  })
}

const VOCAB = 331
const STEPS = 8

function settingsOf(family: 'llama' | 'gpt2', microBatchSize = 4): RunSettings {
  const numKeyValueHeads = family === 'llama' ? 1 : 2
  return {
    model: modelFromDepth(2, 64, { family, hiddenSize: 128, numAttentionHeads: 2, numKeyValueHeads }),
    seqLen: 64,
    batchTokens: 512,
    microBatchSize,
    packing: 'packed',
    seed: 11,
    dropout: 0.1,
    recompute: 'none',
    optimizer: { kind: 'adamw', weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0.9 },
    schedule: { kind: 'cosine', lr: 1e-3, minLr: 3e-4, warmupSteps: 3, maxSteps: STEPS, decayFraction: 0.2 },
    gradClip: 1,
  }
}

describe('cuda fp8, training', () => {
  if ('skip' in gpu) {
    test('every test', { skip: gpu.skip })
    return
  }
  const data = writeDataset(
    unevenLengths(200).map((length, d) => Array.from({ length }, (_, i) => (d * 7 + i * i) % VOCAB)),
    { vocabSize: VOCAB },
  )
  const open = async (device: Device, settings: RunSettings): Promise<Pretraining> => {
    const config = modelConfig(settings.model, { vocabSize: VOCAB })
    return await Pretraining.open({ device, settings, config, dataset: data, tokenizerFiles: {}, numerics: {} })
  }
  const trainTo = async (run: Pretraining, step: number): Promise<number[]> => {
    const losses: number[] = []
    while (run.stepsDone < step) losses.push((await run.trainStep()).loss)
    return losses
  }
  const kinds = [
    ['llama', 'tensor'],
    ['gpt2', 'tensor'],
    ['llama', 'row'],
  ] as const
  for (const [family, scaling] of kinds) {
    test(`${family}, scales by ${scaling}: the same bits in every run and over a checkpoint, near bf16`, async (t) => {
      const settings = settingsOf(family)
      const card = cards[scaling]
      assert.ok('device' in card && 'device' in plainCard)
      const { device } = card
      const run = await open(device, settings)
      assert.ok(run.step.fp8!.weightCount >= 6)
      const losses = await trainTo(run, STEPS)
      const plain = await trainTo(await open(plainCard.device, settings), STEPS)
      const apart = losses.map((loss, i) => Math.abs(loss / plain[i]! - 1))
      t.diagnostic(`losses ${losses.map((x) => x.toFixed(4))}, bf16 ${plain.map((x) => x.toFixed(4))}`)
      assert.ok(Math.max(...apart) < 0.03, `${apart}`)
      assert.notDeepEqual(losses, plain)

      const folder = join(temporaryFolder(), 'run')
      const first = await open(device, settings)
      const before = await trainTo(first, 5)
      await first.save(await RunDir.open(folder, { ...settings }))
      const second = await open(device, settings)
      await second.resume(await RunDir.open(folder, { ...settings }, { resume: true }))
      assert.deepEqual([...before, ...(await trainTo(second, STEPS))], losses)
    })
  }

  test('recomputation gives the same bits', async () => {
    const losses = async (recompute: RunSettings['recompute']) =>
      await trainTo(await open(gpu.device, { ...settingsOf('gpt2'), recompute }), 4)
    const plain = await losses('none')
    assert.deepEqual(await losses('selective'), plain)
    assert.deepEqual(await losses('full'), plain)
  })
})
