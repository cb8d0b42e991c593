// The decomposition gate on documents of uneven lengths: correct divisions agree, a mean of means is caught, for both
// model families.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openDevice } from '../../src/open.ts'
import { checkInvariance } from '../../src/train/invariance.ts'
import { modelConfig, modelFromDepth } from '../../src/train/settings.ts'
import { unevenLengths, writeDataset } from '../data/fixtures.ts'

for (const family of ['llama', 'gpt2'] as const) {
  test(`${family}: loss and gradients do not depend on the division of the batch`, async () => {
    const device = await openDevice('cpu', { threads: 2 })
    const vocabSize = 53
    const documents = unevenLengths(120).map((length, d) =>
      Array.from({ length }, (_, i) => (d * 5 + i * i) % vocabSize),
    )
    const dataset = writeDataset(documents, { vocabSize })
    const model = modelFromDepth(1, 32, { family, hiddenSize: 32, numAttentionHeads: 2, numHiddenLayers: 2 })
    const config = modelConfig(model, { vocabSize })
    const rows = await checkInvariance({ device, config, dataset, seqLen: 32, rows: 16, seed: 5 })
    assert.equal(rows.filter((row) => row.isPlantedFault).length, 1)
    for (const { name, isPlantedFault, isEqual, lossDifference, gradientDifference } of rows) {
      assert.equal(isEqual, !isPlantedFault, `${name}: loss ${lossDifference}, gradient ${gradientDifference}`)
    }
    device.close()
  })
}
