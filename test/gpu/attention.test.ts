// Attention on the GPU, by each of its families of kernels that can be asked for, against the float64 reference: the op
// table's rows and those of attention-cases.ts.
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { openReferenceDevice } from '../../src/backends/reference/open-reference.ts'
import { standaloneTensor } from '../../src/core/allocator.ts'
import { ConfigError } from '../../src/core/errors.ts'
import type { AttentionOptions } from '../../src/core/kernels.ts'
import { randomKey } from '../../src/core/random.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import { cases } from '../ops/cases.ts'
import { compareOutcomes, type OpCase, type Outcome, runCase } from '../ops/harness.ts'
import { numbersOf, TEST_SEED } from '../ops/inputs.ts'
import { attentionCases } from './attention-cases.ts'
import { openGpu } from './gpu.ts'

const reference = openReferenceDevice()
const rows: OpCase[] = [...cases.filter(({ op }) => op === 'attention'), ...attentionCases]
const PRECISIONS = ['bf16', 'f16'] as const
const CHOICES = ['mma', 'simple', 'cudnn', 'own'] as const

const expected = new Map<string, Promise<Outcome>>()
function expectedOf(opCase: OpCase, precision: (typeof PRECISIONS)[number]): Promise<Outcome> {
  const key = `${precision} ${opCase.name}`
  let outcome = expected.get(key)
  if (outcome === undefined) {
    outcome = runCase(reference, opCase, { precision })
    expected.set(key, outcome)
  }
  return outcome
}

for (const precision of PRECISIONS) {
  for (const choice of CHOICES) {
    const gpu = await openGpu({ precision, attention: choice })
    describe(`cuda ${precision}, attention ${choice}, seed ${TEST_SEED}`, () => {
      if ('skip' in gpu) {
        test('every row', { skip: gpu.skip })
        return
      }
      after(() => gpu.device.close())
      for (const opCase of rows) {
        test(opCase.name, async (context) => {
          try {
            const actual = await runCase(gpu.device, opCase, { precision })
            assert.deepEqual(compareOutcomes(choice, actual, await expectedOf(opCase, precision), precision), [])
          } catch (error) {
            // cuDNN alone cannot do every shape; it says so.
            if (!(error instanceof ConfigError && choice === 'cudnn')) throw error
            context.skip(error.message)
          }
        })
      }
    })
  }
}

// Where there are many tiles of queries other kernels run than for the small rows above: they are held against the
// simple kernels, which those rows hold against the reference.
const [own, simple] = [await openGpu({ attention: 'own' }), await openGpu({ attention: 'simple' })]
const MANY = [
  { batch: 4, heads: 34, groups: 34, length: 1000, window: 0, scale: 0.125 },
  { batch: 8, heads: 24, groups: 8, length: 700, window: 150, scale: 0.125 },
  // Scores of hundreds: exponentials relative to a row's first tile overflow.
  { batch: 4, heads: 34, groups: 34, length: 1000, window: 0, scale: 8 },
]
describe(`cuda bf16, many heads of 64, seed ${TEST_SEED}`, () => {
  after(() => {
    for (const gpu of [own, simple]) if ('device' in gpu) gpu.device.close()
  })
  for (const shape of MANY) {
    test(JSON.stringify(shape), { skip: 'skip' in own ? own.skip : false }, async () => {
      if ('skip' in own || 'skip' in simple) return
      const { device } = own
      const { batch, heads, groups, length, window, scale } = shape
      const random = (count: number, name: string): Tensor => {
        const tensor = standaloneTensor(device, [batch, length, count * 64])
        device.kernels.randomNormal(tensor, randomKey(TEST_SEED, `many ${name}`), 0, 0, 1)
        return tensor
      }
      const [q, k, v] = [random(heads, 'q'), random(groups, 'k'), random(groups, 'v')]
      const options: AttentionOptions = {
        numHeads: heads,
        numKeyValueHeads: groups,
        headDim: 64,
        scale,
        isCausal: true,
        window,
      }
      const results = async (kernels: typeof device.kernels, wait: () => void): Promise<Float64Array[]> => {
        const [out, lse] = [standaloneTensor(device, q.shape), standaloneTensor(device, [batch, heads, length], 'f32')]
        device.runtime.synchronize()
        kernels.attention(out, lse, q, k, v, options)
        wait()
        return [numbersOf(await device.read(out), 'bf16'), numbersOf(await device.read(lse), 'f32')]
      }
      const ours = await results(device.kernels, () => device.runtime.synchronize())
      const wanted = await results(simple.device.kernels, () => simple.device.runtime.synchronize())
      for (const [i, limit] of [5e-3, 1e-5].entries()) {
        let [difference, norm] = [0, 0]
        for (const [n, x] of wanted[i]!.entries()) {
          difference += (ours[i]![n]! - x) ** 2
          norm += x ** 2
        }
        assert.ok(Math.sqrt(difference / norm) < limit, `${i === 0 ? 'out' : 'lse'}: ${Math.sqrt(difference / norm)}`)
      }
    })
  }
})
