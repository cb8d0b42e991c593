// The time of a step before it runs: the roofline's arithmetic, the products of Muon's update, and a real step held against
// what was predicted of it.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { createModel } from '../../src/checkpoint/hf-config.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import { emptyBatch } from '../../src/data/host-batch.ts'
import { DropoutStreams } from '../../src/models/decoder.ts'
import { materialize } from '../../src/nn/module.ts'
import { openDevice, openMeta } from '../../src/open.ts'
import { adamw } from '../../src/optim/adam.ts'
import { muon } from '../../src/optim/muon.ts'
import { Optimizer, type UpdateRule } from '../../src/optim/optimizer.ts'
import { planStep, type StepPlan } from '../../src/train/plan.ts'
import { modelConfig, modelFromDepth } from '../../src/train/settings.ts'
import { TrainStep } from '../../src/train/step.ts'
import { type DeviceRates, measureDeviceRates, stepSeconds } from '../../src/train/step-time.ts'

const SHAPE = { microBatchSize: 8, seqLen: 64 } as const
const CONFIG = modelConfig(modelFromDepth(2, SHAPE.seqLen, { hiddenSize: 64 }), { vocabSize: 512 })
const OPTIONS = { recompute: 'none', dropout: 0, streams: new DropoutStreams(0) } as const

const device = await openDevice('cpu', { threads: 1 })

async function planOf(rule: UpdateRule): Promise<StepPlan> {
  return planStep(createModel(CONFIG), await openMeta(device), SHAPE, rule, OPTIONS)
}

test('each op at the roof that holds it, a fixed time for each, and the update by its bytes', async () => {
  const plan = await planOf(adamw())
  const { ops } = plan.train
  assert.equal(
    ops.reduce((sum, { flops }) => sum + flops, 0),
    plan.train.flops,
  )
  const never = { productFlops: 1e300, attentionFlops: 1e300, bandwidth: 1e300, callSeconds: 0 }
  const seconds = (rates: Partial<DeviceRates>, microBatches = 1): number =>
    stepSeconds(plan, microBatches, { ...never, ...rates })
  const of = (isAttention: boolean): number =>
    ops.filter(({ op }) => (op === 'attention') === isAttention).reduce((sum, { flops }) => sum + flops, 0)
  assert.ok(Math.abs(seconds({ productFlops: 1 }) / of(false) - 1) < 1e-12)
  assert.ok(Math.abs(seconds({ attentionFlops: 1 }) / of(true) - 1) < 1e-12)
  assert.equal(seconds({ callSeconds: 1 }), ops.length)
  const states = 2 * (plan.gradientBytes + plan.parameterBytes + plan.optimizerBytes)
  assert.ok(Math.abs(seconds({ bandwidth: 1 }) / (plan.train.bytes + states) - 1) < 1e-12)
  assert.ok(Math.abs(seconds({ bandwidth: 1 }, 4) / (4 * plan.train.bytes + states) - 1) < 1e-12)
})

test("the products of Muon's update are those that it runs", async () => {
  const rule = muon()
  const arenas = materialize(createModel(CONFIG), device, { seed: 1 })
  const optimizer = new Optimizer(arenas, rule)
  const { kernels } = device
  const { matmul } = kernels
  let flops = 0
  kernels.matmul = (out: Tensor, a: Tensor, b: Tensor, options) => {
    flops += 2 * out.size * (options.transposeA ? a.shape[0]! : a.shape[1]!)
    matmul(out, a, b, options)
  }
  try {
    optimizer.step({ lr: 1e-3, step: 1, gradClip: 1 })
  } finally {
    kernels.matmul = matmul
  }
  assert.ok(flops > 0)
  assert.equal((await planOf(rule)).updateFlops, flops)
  assert.equal((await planOf(adamw())).updateFlops, 0)
})

// Under other programs the processor time of a thread is what its clock would show without them.
test('a real step takes the predicted time within a factor of two; 6 N D at the peak is further off', async (t) => {
  const plan = await planOf(adamw())
  const model = createModel(CONFIG)
  const step = new TrainStep(
    model,
    new Optimizer(materialize(model, device, { seed: 1 }), adamw()),
    SHAPE,
    plan,
    OPTIONS,
  )
  const batch = emptyBatch(SHAPE.microBatchSize, SHAPE.seqLen)
  for (let i = 0; i < batch.tokens.length; i++) {
    batch.tokens[i] = (i * 7919) % CONFIG.vocabSize
    batch.targets[i] = (i * 31) % CONFIG.vocabSize
    batch.positions[i] = i % SHAPE.seqLen
  }
  const tokens = batch.tokens.length
  let measured = Number.POSITIVE_INFINITY
  for (let n = 1; n <= 60; n++) {
    const before = process.cpuUsage()
    await step.run([batch], tokens, { lr: 1e-4, step: n, gradClip: 1 })
    const { user, system } = process.cpuUsage(before)
    measured = Math.min(measured, (user + system) / 1e6)
  }
  const predictions = Array.from({ length: 3 }, () => stepSeconds(plan, 1, measureDeviceRates(device)))
  const ratio = Math.min(...predictions) / measured
  const trivial = (6 * plan.parameterCount * tokens) / device.measurePeakFlops().f32 / measured
  t.diagnostic(`predicted / measured: ${ratio.toFixed(2)}; 6 N D at the whole peak: ${trivial.toFixed(2)}`)
  assert.ok(ratio > 0.5 && ratio < 2, String(ratio))
  assert.ok(Math.abs(Math.log(trivial)) > Math.abs(Math.log(ratio)), `${trivial} ${ratio}`)
  step.close()
})

after(() => device.close())
