// One step: what each ZeRO stage exchanges and when, what a number format changes, what a schedule holds in memory.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Architecture, countParameters } from '../../src/plan/architecture.ts'
import { type Layout, layoutOf, type ZeroStage } from '../../src/plan/layout/layout.ts'
import { layoutMemory } from '../../src/plan/layout/layout-memory.ts'
import { cluster } from '../../src/plan/layout/machine.ts'
import { searchLayouts } from '../../src/plan/layout/search.ts'
import { MODERN, modernSoftware, type Software } from '../../src/plan/layout/software.ts'
import { estimateStep } from '../../src/plan/layout/step.ts'
import { demandPreset } from '../../src/plan/presets.ts'

const LLAMA = demandPreset('Llama 3 8B').architecture
const MIXTRAL = demandPreset('Mixtral 8x7B').architecture
const ON = cluster({ device: 'H100', devices: 64 })
/** Nothing hides the exchange, so that its seconds are whole. */
const EXPOSED: Software = { ...MODERN, overlapsData: false }

function exchange(
  model: Architecture,
  layout: Partial<Layout> & { zeroStage: ZeroStage },
  microBatches: number,
): number {
  const complete = layoutOf({ dataParallel: 64, batchSize: 64 * microBatches, seqLen: 4096, ...layout })
  return estimateStep(model, complete, ON, EXPOSED).parts.data
}

test('ZeRO 0 and 1 exchange once a step, 2 scatters and 3 gathers and scatters in every micro-batch', () => {
  const at = (zeroStage: ZeroStage, microBatches: number) => exchange(LLAMA, { zeroStage }, microBatches)
  for (const stage of [0, 1] as const) assert.equal(at(stage, 8), at(stage, 1))
  const scatter = (at(2, 8) - at(2, 1)) / 7
  const all = (at(3, 8) - at(3, 1)) / 7
  // Gradients in 4 bytes once; besides, for stage 3, parameters in 2 bytes twice.
  assert.ok(scatter > 0 && Math.abs(all / scatter - 2) < 0.05, `${all} and ${scatter}`)
  assert.ok(Math.abs(at(2, 1) / at(1, 1) - 1) < 0.05)
  const bytes = (63 / 64) * 4 * (countParameters(LLAMA).total - 2 * LLAMA.vocabSize * LLAMA.hiddenSize)
  const bandwidth = Math.min(ON.linkBandwidth * 0.72, 8 * ON.networkBandwidth * 0.66)
  assert.ok(scatter > bytes / bandwidth, `${scatter} s`)
})

test('contended adapters: half for groups of several devices of a node, not for groups of one or of all', () => {
  for (const zeroStage of [0, 1] as const) {
    const seconds = (tensorParallel: number, collectiveRails: Software['collectiveRails']): number => {
      const layout = { tensorParallel, dataParallel: 64 / tensorParallel, batchSize: 64, seqLen: 4096, zeroStage }
      return estimateStep(LLAMA, layoutOf(layout), ON, { ...EXPOSED, collectiveRails }).parts.data
    }
    for (const tensorParallel of [1, 8]) {
      assert.equal(seconds(tensorParallel, 'contended'), seconds(tensorParallel, 'all'))
    }
    for (const tensorParallel of [2, 4]) {
      const ratio = seconds(tensorParallel, 'contended') / seconds(tensorParallel, 'all')
      assert.ok(ratio > 1.9 && ratio <= 2, `${ratio} at ${tensorParallel}`)
    }
  }
})

test('routed experts are gathered and scattered too, among the ranks that have the same ones', () => {
  const perMicroBatch = (expertParallel: number): number => {
    const at = (microBatches: number) => exchange(MIXTRAL, { zeroStage: 3, expertParallel }, microBatches)
    return (at(3) - at(1)) / 2
  }
  const { total, experts } = countParameters(MIXTRAL)
  assert.ok(experts / total > 0.9)
  const [one, eight] = [perMicroBatch(1), perMicroBatch(8)]
  // An eighth of the experts on a rank, through one adapter in place of eight of the node.
  assert.ok(one > 1 && eight > 0.5 * one, `${one} and ${eight} s`)
})

test('number formats: the peak of products, bytes of activations and gradients; a device without the format is refused', () => {
  const layout = layoutOf({
    dataParallel: 8,
    tensorParallel: 8,
    zeroStage: 1,
    microBatchSize: 2,
    batchSize: 64,
    seqLen: 4096,
  })
  const parts = (precision: Parameters<typeof modernSoftware>[1]) =>
    estimateStep(LLAMA, layout, ON, { ...modernSoftware(ON.device, precision, false), overlapsData: false }).parts
  const bf16 = parts('bf16-fp32-gradients')
  for (const [precision, slower] of [
    ['fp32', 989.4 / 67],
    ['tf32', 2],
  ] as const) {
    const other = parts(precision)
    assert.ok(Math.abs(other.products / bf16.products / slower - 1) < 0.05, precision)
    assert.ok(other.communication > 1.8 * bf16.communication && other.memory > 1.3 * bf16.memory)
  }
  assert.ok(parts('fp8-mixed').products < 0.8 * bf16.products)
  // Gradients in 2 bytes in place of 4, parameters in 2.
  assert.ok(Math.abs(parts('bf16-mixed').data / bf16.data - 4 / 6) < 0.05)
  const v100 = cluster({ device: 'V100', devices: 8 }).device
  assert.equal(modernSoftware(v100, 'fp16-mixed', false).linearPrecision, 'fp16')
  assert.throws(
    () => modernSoftware(v100, 'bf16-mixed', false),
    /V100 32GB has no products in bf16, .*fp16-mixed would work/,
  )
})

test('GPipe holds every micro-batch, 1F1B as many as there are ranks', () => {
  const bytes = (schedule: 'gpipe' | '1f1b', batchSize: number): number =>
    layoutMemory(LLAMA, layoutOf({ schedule, pipelineParallel: 4, batchSize, seqLen: 4096 }), MODERN).activations
  const close = (one: number, other: number): void => assert.ok(Math.abs(one / other - 1) < 1e-9, `${one}, ${other}`)
  close(bytes('1f1b', 32), bytes('1f1b', 4))
  const perMicroBatch = bytes('1f1b', 4) - bytes('1f1b', 3)
  close(bytes('gpipe', 32) - bytes('gpipe', 4), 28 * perMicroBatch)
  // The last rank, with the head, holds as many as the first.
  assert.ok(bytes('gpipe', 4) >= bytes('1f1b', 4))
})

test('a search says what stands in the way: pins, devices, batch', () => {
  const search = (pins: Partial<Layout>, devices = 64, batchSize = 512) =>
    searchLayouts({
      model: LLAMA,
      on: cluster({ device: 'H100', devices }),
      software: MODERN,
      batchSize,
      seqLen: 8192,
      pins,
    })
  assert.throws(() => search({ pipelineParallel: 5 }), /= 5 must divide 64 devices: 4 or 8 would work/)
  assert.throws(() => search({ contextParallel: 3 }), /3-way context parallel does not divide 8192 tokens/)
  assert.throws(() => search({ chunks: 4, pipelineParallel: 1 }), /need a pipeline of at least 2 ranks/)
  assert.throws(
    () => search({ schedule: 'gpipe', chunks: 2 }),
    /2 chunks a rank need the interleaved schedule, got gpipe/,
  )
  assert.throws(
    () => search({ microBatchSize: 3 }),
    /micro-batches of 3: 576 sequences \(--batch-tokens 4718592\) would work/,
  )
  search({ microBatchSize: 3 }, 64, 576)
  for (const { layout } of search({ schedule: 'interleaved', pipelineParallel: 4 }).best) assert.ok(layout.chunks > 1)
  for (const { layout } of search({ chunks: 4 }).best) assert.equal(layout.chunks, 4)
})
