// Every kernel against the reference: the rows of kernel-cases.ts, and a count that no kernel is in neither table.
// The reference's own optimizers are checked against numbers worked out by hand.
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { openReferenceDevice } from '../../src/backends/reference/open-reference.ts'
import { tensorFrom } from '../../src/core/allocator.ts'
import { type AdamOptions, type Kernels, SCALAR } from '../../src/core/kernels.ts'
import { devicesUnderTest, GPU_PRECISIONS } from '../devices.ts'
import { cases } from './cases.ts'
import { FaultyDevice } from './faulty.ts'
import { runCase, valuesOf } from './harness.ts'
import { TEST_SEED } from './inputs.ts'
import { kernelCases } from './kernel-cases.ts'
import { checkKernel, runKernel } from './kernel-run.ts'

const reference = openReferenceDevice()
const devices = await devicesUnderTest(GPU_PRECISIONS)
console.log(`random inputs of seed ${TEST_SEED}`)
after(() => {
  for (const entry of devices) if ('device' in entry) entry.close()
})

test('every kernel is run by a row of one of the two tables', async () => {
  const called = new Set<string>()
  const names = Object.keys(reference.kernels) as (keyof Kernels)[]
  const watched = new FaultyDevice(reference, (kernels) =>
    Object.fromEntries(
      names.map((name) => [
        name,
        (...args: never[]) => {
          called.add(name)
          ;(kernels[name] as (...args: never[]) => void)(...args)
        },
      ]),
    ),
  )
  watched.isArmed = true
  for (const opCase of cases) await runCase(watched, opCase)
  for (const kernelCase of kernelCases) await runKernel(watched, kernelCase)
  assert.deepEqual([...called].sort(), [...names].sort())
})

for (const entry of devices) {
  describe(entry.name, { skip: 'skip' in entry && entry.skip }, () => {
    if ('skip' in entry) return
    const hasWorkingCopies = entry.device.floatDtype !== entry.device.masterDtype
    for (const kernelCase of kernelCases) {
      if (kernelCase.isAboutWorkingCopies && !hasWorkingCopies) continue
      test(`${kernelCase.kernel}: ${kernelCase.name}`, async () => {
        assert.deepEqual(await checkKernel(entry.device, entry.precision, reference, kernelCase), [])
      })
    }
  })
}

describe('reference optimizers, one weight by hand', () => {
  const options: AdamOptions = {
    beta1: 0.9,
    beta2: 0.99,
    eps: 0.01,
    coupledDecay: false,
    convention: 'paper',
  }

  /** w, m and v after one step on gradient 2 from w = 1, m = 0.5, v = 0.25 with lr 0.1 and no clipping. */
  async function afterStep(change: Partial<AdamOptions & { weightDecay: number }>): Promise<number[]> {
    const tensor = (value: number) => tensorFrom(reference, [1], [value])
    const [w, m, v, g] = [1, 0.5, 0.25, 2].map(tensor)
    const values = new Float64Array(SCALAR.count)
    values[SCALAR.lr] = 0.1
    values[SCALAR.biasCorrection1] = 0.19
    values[SCALAR.biasCorrection2] = 0.0199
    values[SCALAR.clipFactor] = 1
    values[SCALAR.isFinite] = 1
    const scalars = tensorFrom(reference, [SCALAR.count], values, 'f64')
    const { weightDecay, ...changed } = change
    const [weight, first, second, grad] = [w!, m!, v!, g!]
    const range = { weight, m: first, v: second, grad, weightDecay: weightDecay ?? 0 }
    reference.kernels.adam([range], scalars, { ...options, ...changed })
    return (await Promise.all([w, m, v].map(valuesOf))).map((array) => array[0])
  }

  const near = (actual: number[], expected: number[]) =>
    actual.forEach((value, i) => {
      assert.ok(Math.abs(value - expected[i]) < 1e-14, `${value} instead of ${expected[i]}`)
    })

  // m' = 0.45 + 0.2 = 0.65, v' = 0.2475 + 0.04 = 0.2875
  test('paper: new moments, corrected, eps outside the root', async () => {
    near(await afterStep({}), [1 - (0.1 * (0.65 / 0.19)) / (Math.sqrt(0.2875 / 0.0199) + 0.01), 0.65, 0.2875])
  })
  test('notes: old moments, uncorrected, eps inside the root', async () => {
    near(await afterStep({ convention: 'notes' }), [1 - (0.1 * 0.5) / Math.sqrt(0.25 + 0.01), 0.65, 0.2875])
  })
  test('decoupled decay shrinks the weight, coupled decay is part of the gradient', async () => {
    const plain = await afterStep({})
    near(await afterStep({ weightDecay: 0.5 }), [plain[0] - 0.1 * 0.5, 0.65, 0.2875])
    // g = 2 + 0.5: m' = 0.7, v' = 0.2475 + 0.0625 = 0.31
    near(await afterStep({ weightDecay: 0.5, coupledDecay: true }), [
      1 - (0.1 * (0.7 / 0.19)) / (Math.sqrt(0.31 / 0.0199) + 0.01),
      0.7,
      0.31,
    ])
  })
})
