// What kernels keep for themselves in training steps, held against what the plan counts for it.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openDevice } from '../../src/open.ts'
import { type CpuShape, openShape } from '../../src/train/bench-shapes.ts'

const base = {
  vocabSize: 65,
  hiddenSize: 256,
  numHiddenLayers: 1,
  numAttentionHeads: 4,
  seqLen: 64,
  batchSize: 2,
  steps: 1,
}
const shapes: Record<string, CpuShape> = {
  'short rows': base,
  // 8 MiB of panels, packed in two equal parts.
  'a wide vocabulary': { ...base, vocabSize: 8192 },
  // Four ranges of keys with 2 MiB of partial dQ each: more than any packed panels.
  'one long row: attention is cut into ranges': { ...base, seqLen: 2048, batchSize: 1 },
  'wide heads': { ...base, numAttentionHeads: 1, seqLen: 128 },
}

for (const threads of [1, 2]) {
  for (const [name, shape] of Object.entries(shapes)) {
    test(`${name}, ${threads} threads: kernels keep no more than is planned, and near it where it is much`, async () => {
      const device = await openDevice('cpu', { threads })
      try {
        const run = await openShape(device, shape)
        await run.step()
        const { numAttentionHeads, hiddenSize, batchSize: microBatchSize, seqLen } = shape
        const headDim = hiddenSize / numAttentionHeads
        const attention = { microBatchSize, seqLen, numAttentionHeads, numKeyValueHeads: numAttentionHeads, headDim }
        const planned = device.kernelScratchBytes(attention)
        const held = device.scratchBytesHeld
        assert.ok(held > 0 && held <= planned, `${held} bytes held, ${planned} planned`)
        if (seqLen === 2048) assert.ok(held >= 8 << 20 && planned - held < 1 << 20, `${held} of ${planned}`)
        if (shape.vocabSize === 8192) assert.ok(held >= 4 << 20, `${held} of ${planned}`)
      } finally {
        device.close()
      }
    })
  }
}
