// The clock around kernels: what it times is the step, and it leaves the device as it was.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openDevice } from '../../src/open.ts'
import { CPU_SHAPES, openShape } from '../../src/train/bench-shapes.ts'
import { timeKernels } from '../../src/train/step-times.ts'

test('kernels of a step are counted, take no longer than the step, and are themselves again afterwards', async () => {
  const device = await openDevice('cpu', { threads: 1 })
  const small = { ...CPU_SHAPES.char!, batchSize: 2, numHiddenLayers: 2 }
  const { step } = await openShape(device, small)
  const before = { ...device.kernels }
  const loss = await step()
  const { milliseconds, kernels } = await timeKernels(device, step)
  const calls = Object.fromEntries(kernels.map(({ kernel, calls }) => [kernel, calls]))
  // Two layers: attention once a layer each way, four products a layer forward and two for each backward, three for the loss.
  assert.equal(calls.attention, 2)
  assert.equal(calls.attentionBackward, 2)
  assert.equal(calls.matmul, 2 * 4 * 3 + 3)
  const sum = kernels.reduce((total, time) => total + time.milliseconds, 0)
  assert.ok(sum > 0 && sum <= milliseconds)
  assert.deepEqual({ ...device.kernels }, before)
  assert.ok((await step()) < loss)
  device.close()
})
