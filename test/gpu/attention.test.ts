// Attention on the GPU, by each of its families of kernels that can be asked for, against the float64 reference: the op
// table's rows and those of attention-cases.ts. Larger shapes are in attention-large.test.ts.
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { openReferenceDevice } from '../../src/backends/reference/open-reference.ts'
import { ConfigError } from '../../src/core/errors.ts'
import { cases } from '../ops/cases.ts'
import { compareOutcomes, type OpCase, type Outcome, runCase } from '../ops/harness.ts'
import { TEST_SEED } from '../ops/inputs.ts'
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
