// Memory of one device in closed form, against the ZeRO paper, the paper on activation recomputation and the QLoRA paper.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { layerActivations } from '../../src/plan/activations.ts'
import { countParameters } from '../../src/plan/architecture.ts'
import { CONVENTIONS, forwardFlops } from '../../src/plan/flops.ts'
import { type DeviceMemory, deviceMemory, MEMORY_PARTS, type MemorySetup, stageMemory } from '../../src/plan/memory.ts'
import { cheapestFix } from '../../src/plan/memory-fix.ts'
import { deviceCount, ONE_DEVICE, type Parallelism } from '../../src/plan/parallel.ts'
import type { PrecisionName } from '../../src/plan/precision.ts'
import { demandPreset, PRESETS } from '../../src/plan/presets.ts'

const GB = 1e9
const GiB = 2 ** 30

const SETUP: MemorySetup = {
  precision: 'fp16-mixed',
  optimizer: 'adam',
  parallelism: ONE_DEVICE,
  microBatches: 64,
  microBatchSize: 1,
  seqLen: 2048,
  recompute: 'none',
  attention: 'flash',
  hasDropout: false,
}

const states = ({ weights, masters, gradients, optimizer }: DeviceMemory): number =>
  weights + masters + gradients + optimizer

/** Bytes of states of each ZeRO stage for a parameter. */
function zeroLadder(precision: PrecisionName, data: number): number[] {
  const model = demandPreset('Megatron 7.5B').architecture
  return ([0, 1, 2, 3] as const).map((zeroStage) => {
    const parallelism = { ...ONE_DEVICE, data, zeroStage }
    return states(deviceMemory(model, { ...SETUP, precision, parallelism })) / countParameters(model).total
  })
}

// Rajbhandari et al. 2020 (arXiv:1910.02054), figure 1: 7.5 billion parameters on 64 devices, mixed precision and Adam.
test("ZeRO's example: 120, 31.4, 16.6 and 1.9 GB", (t) => {
  const ladder = zeroLadder('fp16-mixed', 64).map((bytes) => (7.5e9 * bytes) / GB)
  const printed = [120, 31.4, 16.6, 1.9]
  for (const [stage, gigabytes] of ladder.entries())
    assert.equal(Number(gigabytes.toPrecision(stage < 3 ? 3 : 2)), printed[stage])
  t.diagnostic(
    `${ladder.map((bytes) => bytes.toFixed(2)).join(', ')} GB; a predictor that knows no stages says 120 for all`,
  )
})

// The lecture notes' ratios of stages 1 and 2 are those of fp32; the paper's (section 1) are those of mixed precision.
test('ZeRO saves 2x and 4x where everything is fp32, and 4x and 8x in mixed precision', () => {
  const ratios = (precision: PrecisionName): number[] => {
    const [whole, ...stages] = zeroLadder(precision, 1e6)
    return stages.slice(0, 2).map((bytes) => whole! / bytes)
  }
  for (const [precision, expected] of [
    ['fp32', [2, 4]],
    ['fp16-mixed', [4, 8]],
  ] as const) {
    for (const [index, ratio] of ratios(precision).entries()) assert.ok(Math.abs(ratio - expected[index]!) < 1e-3)
  }
})

// Korthikanti et al. 2022 (arXiv:2205.05198): equations 1 to 6 and table 2, in bytes, for s, b, h, a, t.
test("activations of a layer are the paper's formulas", () => {
  const model = demandPreset('Megatron-Turing 175B').architecture
  const [s, b, h, a] = [2048, 3, model.hiddenSize, model.numAttentionHeads]
  const setup = { ...SETUP, microBatchSize: b, attention: 'unfused', hasDropout: true, bytes: 2 } as const
  const sbh = s * b * h
  const pairs = (5 * a * s) / h
  for (const t of [1, 8]) {
    const whole = layerActivations(model, setup, { tensor: t, context: 1, sequence: false })
    assert.ok(Math.abs(whole.total / (sbh * (10 + 24 / t + pairs / t)) - 1) < 1e-12)
    assert.equal(whole.input, 2 * sbh)
    const cut = layerActivations(model, setup, { tensor: t, context: 1, sequence: true })
    assert.ok(Math.abs(cut.total / ((sbh * (34 + pairs)) / t) - 1) < 1e-12)
    assert.ok(Math.abs((cut.total - cut.core) / ((34 * sbh) / t) - 1) < 1e-12)
  }
})

test("GPT-3's and MT-NLG's figures of that paper: 5as/h, what selective recomputation saves and costs, five times less", (t) => {
  const setup = { ...SETUP, attention: 'unfused', hasDropout: true, bytes: 2 } as const
  const cases = [
    ['Megatron-Turing 175B', 80, 0.7, 0.027],
    ['Megatron-Turing 530B', 64, 0.65, 0.016],
  ] as const
  for (const [name, printedPairs, printedSaving, printedCost] of cases) {
    const model = demandPreset(name).architecture
    const one = { tensor: 1, context: 1, sequence: false }
    const layer = layerActivations(model, setup, one)
    const saved = layer.core / layer.total
    assert.equal((34 * layer.core) / (layer.total - layer.core), printedPairs)
    assert.ok(Math.abs(saved - printedSaving) < 0.005, `${name}: ${saved}`)
    const both = layerActivations(model, setup, { tensor: 8, context: 1, sequence: true })
    const baseline = layerActivations(model, setup, { tensor: 8, context: 1, sequence: false })
    const left = (both.total - both.core) / baseline.total
    assert.ok(Math.abs(left - 0.2) < 0.02, `${name}: ${left}`)
    assert.ok(Math.abs((both.input * 8) / baseline.total - 0.1) < 0.015, 'full recomputation leaves a tenth')
    // Equation 9 adds three forwards of scores and values; one is made again.
    const forward = forwardFlops(model, 2048, 'full')
    const share = forward.attention / (3 * forward.total)
    assert.ok(Math.abs(3 * share - printedCost) < 0.001, `${name}: ${3 * share}`)
    t.diagnostic(
      `${name}: selective saves ${(100 * saved).toFixed(1)} % (printed ${100 * printedSaving}), costs ${(100 * share).toFixed(1)} % (printed ${100 * printedCost} by its equation 9), with sequence parallelism ${(100 * left).toFixed(1)} % are left`,
    )
  }
})

test('the first stage of a pipeline keeps as much as the whole model would; interleaving adds its part', () => {
  const model = demandPreset('Megatron-Turing 175B').architecture
  const activations = (pipeline: number, virtualStages: number): number => {
    const parallelism = { ...ONE_DEVICE, pipeline, virtualStages }
    return stageMemory(model, { ...SETUP, parallelism }, 0).activations
  }
  const perLayer = activations(2, 1)
  assert.equal(activations(8, 1), perLayer)
  // L (1 + (p - 1) / (p m)), section 4.2.3 of the same paper.
  assert.ok(Math.abs(activations(8, 3) / perLayer - (1 + 7 / 24)) < 1e-12)
})

// Dettmers et al. 2023 (arXiv:2305.14314), abstract, sections 1 and 3, and figure 6 with appendix G: 45.0 GB for 65B with rank
// 64, one sequence of 512 tokens and gradient checkpointing.
test('QLoRA: 65 billion parameters from more than 780 GB to less than 48 GB; double quantization saves 3 GB', (t) => {
  const model = demandPreset('Llama 1 65B').architecture
  const tuning = { ...SETUP, seqLen: 512, recompute: 'full', optimizer: 'adamw', precision: 'bf16-pure' } as const
  const whole = deviceMemory(model, { ...tuning, precision: 'bf16-pure' })
  // 16-bit weights and gradients and two moments in 32 bits.
  assert.ok(Math.abs(states(whole) / (780 * GB) - 1) < 0.01, String(states(whole) / GB))
  const quantized = (base: 'nf4' | 'nf4-double'): DeviceMemory =>
    deviceMemory(model, { ...tuning, adapter: { rank: 64, base } })
  const { total } = quantized('nf4-double')
  assert.ok(total < 48 * GB && Math.abs(total / (45 * GB) - 1) < 0.03, String(total / GB))
  const saved = quantized('nf4').total - total
  assert.ok(Math.abs(saved - 3 * GB) < 0.1 * GB, String(saved / GB))
  t.diagnostic(
    `${(states(whole) / GB).toFixed(0)} GB, ${(total / GB).toFixed(1)} GB with adapters of rank 64; 4 bits a weight alone: ${(countParameters(model).total / 2 / GB).toFixed(1)} GB`,
  )
})

test('cuts divide what they cut: states of all devices together are those of one, with copies counted', () => {
  for (const name of ['Llama 3 8B', 'DeepSeek-V3', 'BLOOM 176B', 'GPT-2 124M']) {
    const { architecture: model, seqLen } = demandPreset(name)
    const setup = { ...SETUP, seqLen }
    const { total, norms } = countParameters(model)
    for (const [tensor, pipeline] of [
      [1, 1],
      [1, 3],
      [2, 4],
    ] as const) {
      const parallelism = { ...ONE_DEVICE, tensor, pipeline }
      let weights = 0
      for (let stage = 0; stage < pipeline; stage++) {
        weights += (tensor * stageMemory(model, { ...setup, parallelism }, stage).weights) / 2
      }
      const copies = model.tieWordEmbeddings && pipeline > 1 ? countParameters(model).embedding : 0
      const whole = norms + countParameters(model).router + countParameters(model).positions
      assert.ok(Math.abs(weights / (total + copies + (tensor - 1) * whole) - 1) < 2e-3, `${name} ${tensor} ${pipeline}`)
    }
  }
})

test('every part is a number of bytes, and the total is their sum, for every preset', () => {
  for (const { architecture: model, seqLen } of PRESETS) {
    const parallelism = { ...ONE_DEVICE, data: 8, zeroStage: 3 } as const
    const memory = deviceMemory(model, { ...SETUP, seqLen, parallelism })
    for (const part of MEMORY_PARTS)
      assert.ok(memory[part] >= 0 && Number.isFinite(memory[part]), `${model.name} ${part}`)
    assert.equal(
      memory.total,
      MEMORY_PARTS.reduce((sum, part) => sum + memory[part], 0),
    )
  }
})

test('impossible cuts say what works', () => {
  const model = { ...demandPreset('Llama 3 8B').architecture, numAttentionHeads: 16 }
  const cut = (change: Partial<Parallelism>) => () =>
    deviceMemory(model, { ...SETUP, parallelism: { ...ONE_DEVICE, ...change } })
  assert.throws(
    cut({ tensor: 7 }),
    /^ConfigError: plan: tensor parallelism must divide the 16 attention heads, got 7; 1, 2, 4, 8, 16 work$/,
  )
  assert.throws(cut({ pipeline: 33 }), /needs as many layers, got 32; at most 32 work/)
  assert.throws(cut({ context: 3 }), /context parallelism must divide the sequence of 2048, got 3; .*2, 4/)
  assert.throws(cut({ expert: 2, data: 2 }), /has no experts: expert parallelism must be 1, got 2/)
  assert.throws(cut({ data: 0 }), /data parallelism must be a whole number of at least 1, got 0/)
})

test('the cheapest change fits, and costs what it must: states first, then activations, then cuts, then devices', () => {
  const limit = 77 * GiB
  const fixOf = (name: string, change: Partial<MemorySetup>, cuts: Partial<Parallelism>) => {
    const { architecture: model, seqLen } = demandPreset(name)
    const setup = { ...SETUP, seqLen, ...change, parallelism: { ...ONE_DEVICE, ...cuts } }
    const before = deviceMemory(model, setup).total
    const fix = cheapestFix(model, setup, limit, 8)
    if (fix !== undefined) {
      assert.ok(before > limit && fix.bytes <= limit)
      assert.equal(deviceMemory(model, fix.setup).total, fix.bytes)
      assert.equal(deviceCount(fix.setup.parallelism), fix.devices)
      const sequences = ({ microBatches, microBatchSize, parallelism }: MemorySetup) =>
        microBatches * microBatchSize * parallelism.data
      assert.equal(sequences(fix.setup), sequences(setup))
    }
    return fix
  }
  assert.equal(fixOf('Llama 3 8B', {}, { data: 64 })?.options, '--zero 1')
  assert.match(fixOf('Llama 3 8B', { microBatchSize: 32 }, { data: 64 })!.options, /--micro-batch-size/)
  assert.match(fixOf('Llama 2 70B', {}, { data: 64 })!.options, /--zero [23]|--tensor/)
  const more = fixOf('Llama 3 405B', {}, { data: 8 })!
  assert.ok(more.devices > 8, more.options)
  assert.match(more.options, /^--devices \d+ /)
  // Adam's states and masters of a trillion parameters in fp32 on devices of 77 GiB: found, with thousands of them.
  assert.ok(fixOf('Megatron 1008B', {}, {})!.devices >= 256)
})

test('a convention of each paper: GPT-3 with every one, in the order that their terms demand', () => {
  const { architecture: model } = demandPreset('GPT-3 175B')
  const of = (rule: keyof typeof CONVENTIONS): number => CONVENTIONS[rule](model, 2048)
  assert.ok(of('6ND-non-embedding') < of('6ND') && of('6ND') < of('exact') && of('exact') < of('palm'))
  assert.ok(Math.abs(of('megatron-recomputed') / ((4 / 3) * of('palm')) - 1) < 0.01)
})
