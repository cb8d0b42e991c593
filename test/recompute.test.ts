// Whole models: recomputation (none, selective, full), planned or growing memory, and the number of threads must not
// change one bit of the loss or of any gradient, and the reference agrees with them. Dropout and packed documents are on; planned memory starts as NaN.
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { MetaDevice } from '../src/backends/meta/meta-device.ts'
import { openReferenceDevice } from '../src/backends/reference/open-reference.ts'
import { type Allocator, PlannedArena } from '../src/core/allocator.ts'
import { gradientStorages } from '../src/core/arena.ts'
import type { Device } from '../src/core/device.ts'
import type { Parameter } from '../src/core/parameter.ts'
import { type Recompute, Tape } from '../src/core/tape.ts'
import { Storage, Tensor } from '../src/core/tensor.ts'
import { type DecoderModel, DropoutStreams } from '../src/models/decoder.ts'
import { Gpt2 } from '../src/models/gpt2.ts'
import { Llama } from '../src/models/llama.ts'
import { materialize, parameters } from '../src/nn/module.ts'
import { adamw } from '../src/optim/adam.ts'
import { Optimizer } from '../src/optim/optimizer.ts'
import { planStep, type StepPlan, totalBytes } from '../src/train/plan.ts'
import { BatchTensors, type MicroStepOptions, microStep } from '../src/train/step.ts'
import { openCpu } from './devices.ts'
import { PoisonedArena, valuesOf } from './ops/harness.ts'
import { difference, TOLERANCES } from './tolerances.ts'

const models: Record<string, () => DecoderModel> = {
  llama: () =>
    new Llama({
      modelType: 'llama',
      vocabSize: 67,
      hiddenSize: 30,
      intermediateSize: 44,
      numHiddenLayers: 3,
      numAttentionHeads: 4,
      numKeyValueHeads: 2,
      headDim: 6,
      maxPositionEmbeddings: 32,
      rmsNormEps: 1e-5,
      ropeTheta: 10000,
      tieWordEmbeddings: true,
      initializerRange: 0.2,
    }),
  gpt2: () =>
    new Gpt2({
      modelType: 'gpt2',
      vocabSize: 67,
      hiddenSize: 30,
      intermediateSize: 52,
      numHiddenLayers: 3,
      numAttentionHeads: 3,
      maxPositionEmbeddings: 32,
      layerNormEps: 1e-5,
      activationFunction: 'gelu_new',
      initializerRange: 0.2,
    }),
}

const microBatchSize = 2
const seqLen = 19
const optionsOf = (recompute: Recompute): MicroStepOptions => ({
  recompute,
  dropout: 0.2,
  streams: new DropoutStreams(7),
})

/** Two sequences of two documents each; a few positions are not trained. */
function fillBatch(batch: BatchTensors): void {
  const rows = microBatchSize * seqLen
  const starts = [0, 11, 0, 4]
  const start = (i: number): number => {
    const [first, second] = starts.slice(2 * Math.floor(i / seqLen)) as [number, number]
    return i % seqLen < second ? first : second
  }
  const fill = (tensor: Tensor, value: (i: number) => number) =>
    tensor.device.write(
      tensor,
      Array.from({ length: tensor.size }, (_, i) => value(i)),
    )
  fill(batch.tokens, (i) => (i * 31 + 5) % 67)
  fill(batch.targets, (i) => (i % 7 === 6 ? -1 : (i * 17 + 2) % 67))
  fill(batch.positions, (i) => (i % seqLen) - start(i))
  fill(batch.docStart, start)
  batch.sampleIndex.device.write(batch.sampleIndex, [12, 0, 5, 1])
  assert.equal(batch.tokens.size, rows)
}

interface Result {
  readonly loss: number
  /** Of all gradients, as the update sees them. */
  readonly gradNorm: number
  readonly gradients: Map<string, Float64Array>
}

async function runStep(
  device: Device,
  makeModel: () => DecoderModel,
  recompute: Recompute,
  makeAllocator: (device: Device, optimizer: Optimizer) => Allocator,
  isWholeStep = false,
  recomputeBlocks?: number,
): Promise<Result> {
  const model = makeModel()
  const optimizer = new Optimizer(materialize(model, device, { seed: 3 }), adamw(), undefined, isWholeStep)
  const batch = new BatchTensors(device, microBatchSize, seqLen)
  fillBatch(batch)
  optimizer.begin(33)
  const options = optionsOf(recompute)
  {
    using tape = new Tape(device, { allocator: makeAllocator(device, optimizer), recompute, recomputeBlocks })
    microStep(model, batch, optimizer.scalars, tape, options, true)
  }
  optimizer.step({ lr: 1e-3, step: 1, gradClip: 1 })
  const { gradNorm } = await optimizer.lastNorm()
  const gradients = new Map<string, Float64Array>()
  for (const parameter of parameters(model)) gradients.set(nameOf(parameter), await valuesOf(parameter.gradient!))
  return { loss: (await valuesOf(batch.totalLoss))[0]!, gradNorm, gradients }
}

function nameOf(parameter: Parameter): string {
  return parameter.partNames().join(' + ')
}

function planFor(
  makeModel: () => DecoderModel,
  device: Device,
  recompute: Recompute,
  isWholeStep = false,
  recomputeLayers?: number,
): StepPlan {
  const options = { ...optionsOf(recompute), isWholeStep, recomputeLayers }
  return planStep(makeModel(), new MetaDevice(device), { microBatchSize, seqLen }, adamw(), options)
}

/** As plannedArena, with the gradients of weights where the plan has them. */
function sharedArena(plan: StepPlan, device: Device, { sharedArenas }: Optimizer): PlannedArena {
  const arena = plannedArena(plan, device)
  sharedArenas.forEach((shared, n) => {
    for (const { storage, distance } of gradientStorages(shared)) arena.bindKept(storage, n, distance)
  })
  return arena
}

/** An arena of exactly the planned size that holds NaN. */
function plannedArena(plan: StepPlan, device: Device): PlannedArena {
  const buffer = device.allocate(plan.train.memory.totalBytes)
  const storage = new Storage(device, plan.train.memory.totalBytes)
  storage.bind(buffer, 0)
  const elements = plan.train.memory.totalBytes / device.itemBytes(device.floatDtype)
  device.kernels.fill(new Tensor([elements], device.floatDtype, storage), Number.NaN)
  return new PlannedArena(plan.train.memory, buffer)
}

function assertSameBits(actual: Result, expected: Result): void {
  assert.ok(Number.isFinite(expected.loss))
  assert.equal(actual.loss, expected.loss)
  assert.equal(actual.gradNorm, expected.gradNorm)
  for (const [name, gradient] of expected.gradients) {
    assert.ok(
      gradient.some((value) => value !== 0),
      `${name} has a gradient`,
    )
    assert.deepEqual(actual.gradients.get(name), gradient, name)
  }
}

for (const [name, makeModel] of Object.entries(models)) {
  describe(name, async () => {
    const device = await openCpu(2)
    after(() => device.close())
    const baseline = await runStep(device, makeModel, 'none', (on) => new PoisonedArena(on))

    for (const recompute of ['none', 'selective', 'full'] as const) {
      test(`recompute ${recompute}, growing memory`, async () => {
        assertSameBits(await runStep(device, makeModel, recompute, (on) => new PoisonedArena(on)), baseline)
      })
      test(`recompute ${recompute}, planned memory`, async () => {
        const plan = planFor(makeModel, device, recompute)
        const arena = plannedArena(plan, device)
        assertSameBits(await runStep(device, makeModel, recompute, () => arena), baseline)
        assert.ok(arena.isComplete)
      })
    }

    for (const recompute of ['selective', 'full'] as const) {
      test(`recompute ${recompute} in the first two of three layers: the same bits, memory in between`, async () => {
        const plan = planFor(makeModel, device, recompute, false, 2)
        const arena = plannedArena(plan, device)
        assertSameBits(await runStep(device, makeModel, recompute, () => arena, false, 2), baseline)
        assert.ok(arena.isComplete)
        const bytes = ({ train }: StepPlan): number => train.memory.totalBytes
        // The last layer's backward comes first, so its activations need no more than what is made again of it.
        if (recompute === 'selective') assert.ok(bytes(plan) > bytes(planFor(makeModel, device, recompute)))
        assert.ok(bytes(plan) < bytes(planFor(makeModel, device, 'none')))
      })
    }

    test('gradients of parameters with room between them have memory of their own: norms read that room', async () => {
      const plan = planFor(makeModel, device, 'none', true)
      assert.ok(plan.sharedGradientBytes < plan.gradientBytes)
      const run = runStep(device, makeModel, 'none', (on, optimizer) => sharedArena(plan, on, optimizer), true)
      assertSameBits(await run, baseline)
    })

    test('the reference agrees, within the tolerance', async () => {
      const expected = await runStep(openReferenceDevice(), makeModel, 'none', (on) => new PoisonedArena(on))
      const { forward, backward, element } = TOLERANCES.f32
      assert.equal(difference([baseline.loss], [expected.loss], forward, 1), undefined)
      for (const [parameter, gradient] of expected.gradients) {
        assert.equal(difference(baseline.gradients.get(parameter)!, gradient, backward, element), undefined, parameter)
      }
    })

    test('one thread gives the bits of two', async () => {
      const single = await openCpu(1)
      assertSameBits(await runStep(single, makeModel, 'none', (on) => new PoisonedArena(on)), baseline)
      single.close()
    })

    test('the more is recomputed, the less memory and the more FLOPs the plan has', () => {
      const [none, selective, full] = (['none', 'selective', 'full'] as const).map((r) => planFor(makeModel, device, r))
      assert.ok(full!.train.memory.totalBytes < selective!.train.memory.totalBytes)
      assert.ok(selective!.train.memory.totalBytes < none!.train.memory.totalBytes)
      assert.ok(full!.train.flops > selective!.train.flops && selective!.train.flops > none!.train.flops)
    })

    test('the comparison notices one bit', async () => {
      const other = await runStep(device, makeModel, 'none', (on) => new PoisonedArena(on))
      const [first] = other.gradients.values()
      const changed = first!.findIndex((value) => value !== 0)
      first![changed]! *= 1 + 2 ** -23
      assert.throws(() => assertSameBits(other, baseline))
    })
  })
}

/** Parameters of whole cache lines: only then do gradients lie where activations lay. */
const wholeModels: Record<string, () => DecoderModel> = {
  llama: () =>
    new Llama({
      modelType: 'llama',
      vocabSize: 64,
      hiddenSize: 32,
      intermediateSize: 48,
      numHiddenLayers: 3,
      numAttentionHeads: 4,
      numKeyValueHeads: 2,
      headDim: 8,
      maxPositionEmbeddings: 32,
      rmsNormEps: 1e-5,
      ropeTheta: 10000,
      tieWordEmbeddings: false,
      initializerRange: 0.2,
    }),
  gpt2: () =>
    new Gpt2({
      modelType: 'gpt2',
      vocabSize: 64,
      hiddenSize: 32,
      intermediateSize: 48,
      numHiddenLayers: 3,
      numAttentionHeads: 4,
      maxPositionEmbeddings: 32,
      layerNormEps: 1e-5,
      activationFunction: 'gelu_new',
      initializerRange: 0.2,
    }),
}

for (const [name, makeModel] of Object.entries(wholeModels)) {
  describe(`${name}, gradients of weights where activations lay`, async () => {
    const device = await openCpu(2)
    after(() => device.close())
    const baseline = await runStep(device, makeModel, 'none', (on) => new PoisonedArena(on))

    for (const recompute of ['none', 'selective', 'full'] as const) {
      test(`recompute ${recompute}: the same bits in less memory`, async () => {
        const plan = planFor(makeModel, device, recompute, true)
        assert.equal(plan.sharedGradientBytes, plan.gradientBytes)
        assert.ok(totalBytes(plan) < totalBytes(planFor(makeModel, device, recompute)))
        const run = runStep(device, makeModel, recompute, (on, optimizer) => sharedArena(plan, on, optimizer), true)
        assertSameBits(await run, baseline)
      })
    }
  })
}
