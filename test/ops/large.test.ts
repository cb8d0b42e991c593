// Shapes too large for the reference (above 1e8 FLOP): products by Freivalds' check, the vocabulary-wide loss by
// sampled rows in float64. Both checks are tried on a result with one wrong element first.
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { emptyTensor, tensorFrom } from '../../src/core/allocator.ts'
import type { Device } from '../../src/core/device.ts'
import { SCALAR } from '../../src/core/kernels.ts'
import { Tape } from '../../src/core/tape.ts'
import { crossEntropy } from '../../src/ops/cross-entropy.ts'
import { linear } from '../../src/ops/linear.ts'
import { devicesUnderTest } from '../devices.ts'
import { difference, TOLERANCES } from '../tolerances.ts'
import { freivalds, type HostMatrix } from './freivalds.ts'
import { PoisonedArena, valuesOf } from './harness.ts'
import { normals, placeParameters } from './inputs.ts'

const devices = await devicesUnderTest()
after(() => {
  for (const entry of devices) if ('device' in entry) entry.close()
})

const matrix = (values: ArrayLike<number>, rows: number, columns: number, isTransposed = false): HostMatrix => ({
  values,
  rows,
  columns,
  isTransposed,
})

test("Freivalds' check notices one element that is one per cent of a typical one off", () => {
  const [m, k, n] = [7, 50, 4000]
  const a = normals('freivalds a', m * k)
  const b = normals('freivalds b', k * n)
  const c = new Float32Array(m * n)
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0
      for (let x = 0; x < k; x++) sum += a[i * k + x] * b[x * n + j]
      c[i * n + j] = sum
    }
  }
  const check = () => freivalds(matrix(c, m, n), matrix(a, m, k), matrix(b, k, n))
  assert.equal(check(), undefined)
  c[3 * n + 1234] += 0.01 * Math.sqrt(k)
  assert.match(check() ?? '', /^row 3 is off/)
})

async function checkProduct(device: Device, transposeA: boolean, transposeB: boolean): Promise<void> {
  const [m, k, n] = [517, 901, 613] // 5.7e8 FLOP
  const a = normals('large a', m * k)
  const b = normals('large b', k * n)
  const out = emptyTensor(device, [m, n])
  device.kernels.fill(out, Number.NaN)
  const left = tensorFrom(device, transposeA ? [k, m] : [m, k], a)
  const right = tensorFrom(device, transposeB ? [n, k] : [k, n], b)
  device.kernels.matmul(out, left, right, { transposeA, transposeB })
  const c = await valuesOf(out)
  assert.equal(freivalds(matrix(c, m, n), matrix(a, m, k, transposeA), matrix(b, k, n, transposeB)), undefined)
}

/** A head of a real vocabulary: y = x W^T with its two gradients, each 1.2e9 FLOP. */
async function checkVocabularyWideLinear(device: Device): Promise<void> {
  const [rows, width, vocabSize] = [77, 241, 32003]
  const values = { weight: normals('head weight', vocabSize * width) }
  const x = normals('head x', rows * width)
  const dy = normals('head dy', rows * vocabSize)
  const { weight } = placeParameters(device, { weight: { kind: 'parameter', shape: [vocabSize, width] } }, values)
  const input = tensorFrom(device, [rows, width], x)
  using tape = new Tape(device, { allocator: new PoisonedArena(device) })
  tape.watch(input)
  const out = linear(input, weight)
  const y = await valuesOf(out)
  const gradients = tape.backward(out, tensorFrom(device, [rows, vocabSize], dy))
  const dx = await valuesOf(gradients.of(input))
  const dWeight = await valuesOf(weight.gradient!)
  const w = matrix(values.weight, vocabSize, width)
  const dOut = matrix(dy, rows, vocabSize)
  assert.equal(freivalds(matrix(y, rows, vocabSize), matrix(x, rows, width), transposedView(w)), undefined, 'y')
  assert.equal(freivalds(matrix(dx, rows, width), dOut, w), undefined, 'dx')
  assert.equal(
    freivalds(matrix(dWeight, vocabSize, width), transposedView(dOut), matrix(x, rows, width)),
    undefined,
    'dW',
  )
}

/** The same values read as the transposed matrix. */
function transposedView({ values, rows, columns }: HostMatrix): HostMatrix {
  return { values, rows: columns, columns: rows, isTransposed: true }
}

/** Loss and dHidden of sampled rows, computed in float64 from the definition; 1.3e9 FLOP in three chunks. */
async function checkVocabularyWideLoss(device: Device): Promise<void> {
  const [rows, width, vocabSize] = [523, 13, 32003]
  const lossScale = 1 / 500
  const weightValues = normals('loss weight', vocabSize * width)
  const hiddenValues = normals('loss hidden', rows * width)
  const targetValues = Array.from({ length: rows }, (_, i) => (i % 23 === 0 ? -1 : (i * 6007) % vocabSize))
  const scalarValues = new Float64Array(SCALAR.count)
  scalarValues[SCALAR.lossScale] = lossScale
  scalarValues[SCALAR.gradScale] = 1
  const { weight } = placeParameters(
    device,
    { weight: { kind: 'parameter', shape: [vocabSize, width] } },
    { weight: weightValues },
  )
  const hidden = tensorFrom(device, [rows, width], hiddenValues)
  using tape = new Tape(device, { allocator: new PoisonedArena(device) })
  tape.watch(hidden)
  const targets = tensorFrom(device, [rows], targetValues, 'i32')
  const scalars = tensorFrom(device, [SCALAR.count], scalarValues, 'f64')
  const { loss, tokenLosses } = crossEntropy(hidden, weight, targets, scalars)
  const losses = await valuesOf(tokenLosses)
  const total = await valuesOf(loss)
  const dHidden = await valuesOf(tape.backward(loss).of(hidden))
  for (const row of [0, 1, 175, 176, 177, 351, 352, 353, 400, 522]) {
    const expected = lossOfRow(row)
    assert.equal(difference([losses[row]], [expected.loss], TOLERANCES.f32.forward, 1), undefined, `loss of row ${row}`)
    assert.equal(
      difference(dHidden.subarray(row * width, (row + 1) * width), expected.dHidden, TOLERANCES.f32.backward, 4),
      undefined,
      `dHidden of row ${row}`,
    )
  }
  const sum = losses.reduce((a, value) => a + value, 0)
  assert.equal(difference(total, [sum * lossScale], 1e-12, 1), undefined, 'the total in f64')

  function lossOfRow(row: number): { loss: number; dHidden: Float64Array } {
    const h = hiddenValues.subarray(row * width, (row + 1) * width)
    const dh = new Float64Array(width)
    const target = targetValues[row]
    if (target < 0) return { loss: 0, dHidden: dh }
    const logits = Float64Array.from({ length: vocabSize }, (_, v) => {
      let sum = 0
      for (let j = 0; j < width; j++) sum += h[j] * weightValues[v * width + j]
      return sum
    })
    const logSum = Math.log(logits.reduce((a, z) => a + Math.exp(z), 0))
    for (let v = 0; v < vocabSize; v++) {
      const dLogit = (Math.exp(logits[v] - logSum) - (v === target ? 1 : 0)) * lossScale
      for (let j = 0; j < width; j++) dh[j] += dLogit * weightValues[v * width + j]
    }
    return { loss: logSum - logits[target], dHidden: dh }
  }
}

for (const entry of devices) {
  describe(entry.name, { skip: 'skip' in entry && entry.skip }, () => {
    if ('skip' in entry) return
    const { device } = entry
    test('matmul A B', () => checkProduct(device, false, false))
    test('matmul A B^T', () => checkProduct(device, false, true))
    test('matmul A^T B', () => checkProduct(device, true, false))
    test('matmul A^T B^T', () => checkProduct(device, true, true))
    test('vocabulary-wide linear', () => checkVocabularyWideLinear(device))
    test('vocabulary-wide loss in chunks', () => checkVocabularyWideLoss(device))
  })
}
