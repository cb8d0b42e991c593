// Every op: forward and backward on every device against the float64 reference, sums of gradients, and the
// reference's own gradients against finite differences. The rows are in cases.ts.
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { openReferenceDevice } from '../../src/backends/reference/open-reference.ts'
import { devicesUnderTest, GPU_PRECISIONS } from '../devices.ts'
import { cases } from './cases.ts'
import { checkAgainstReference, checkFiniteDifferences, checkSums } from './harness.ts'
import { TEST_SEED } from './inputs.ts'
import { allOps } from './registry.ts'

const reference = openReferenceDevice()
const devices = await devicesUnderTest(GPU_PRECISIONS)
console.log(`random inputs of seed ${TEST_SEED}`)
after(() => {
  for (const entry of devices) if ('device' in entry) entry.close()
})

test('every op of src/ops has a row in the table, and names are unique', async () => {
  const ids = (await allOps()).map((op) => op.id)
  assert.ok(ids.length >= 11)
  assert.deepEqual([...new Set(cases.map((c) => c.op))].sort(), [...ids].sort())
  assert.equal(new Set(cases.map((c) => c.name)).size, cases.length)
})

describe('reference against finite differences', () => {
  for (const opCase of cases) {
    test(opCase.name, async () => {
      if (!opCase.isTooLargeForFiniteDifferences) {
        assert.deepEqual(await checkFiniteDifferences(reference, opCase), [])
      }
      assert.deepEqual(await checkSums(reference, 'f64', opCase), [])
    })
  }
})

for (const entry of devices) {
  describe(`${entry.name} against the reference`, { skip: 'skip' in entry && entry.skip }, () => {
    if ('skip' in entry) return
    for (const opCase of cases) {
      test(opCase.name, async () => {
        assert.deepEqual(await checkAgainstReference(entry.device, entry.precision, reference, opCase), [])
        assert.deepEqual(await checkSums(entry.device, entry.precision, opCase), [])
      })
    }
  })
}
