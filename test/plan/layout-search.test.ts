// The search: its best against every layout it could have taken, its speed, its refusals; the collectives and the failures.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ConfigError } from '../../src/core/errors.ts'
import { architecture } from '../../src/plan/architecture.ts'
import {
  allGatherSeconds,
  allReduceSeconds,
  allToAllSeconds,
  groupOf,
  sendSeconds,
} from '../../src/plan/layout/collectives.ts'
import { explain } from '../../src/plan/layout/explain.ts'
import { gemmEfficiency, gemmSeconds } from '../../src/plan/layout/gemm.ts'
import {
  bestGoodput,
  clusterMtbf,
  dalyInterval,
  expectedGoodput,
  youngInterval,
} from '../../src/plan/layout/goodput.ts'
import { layersByChunk, layoutOf, problemOf } from '../../src/plan/layout/layout.ts'
import { memoryLimit } from '../../src/plan/layout/layout-memory.ts'
import { cluster } from '../../src/plan/layout/machine.ts'
import { searchLayouts } from '../../src/plan/layout/search.ts'
import { MODERN } from '../../src/plan/layout/software.ts'
import { estimateStep } from '../../src/plan/layout/step.ts'
import { demandPreset } from '../../src/plan/presets.ts'
import { LLAMA_405B } from './layout-others.ts'

const H100 = (devices: number) => cluster({ device: 'H100', devices })

test('16384 GPUs are searched in less than 10 s on one core; 98304 are simulated', () => {
  const started = process.cpuUsage()
  const found = searchLayouts({ model: LLAMA_405B, on: H100(16384), software: MODERN, batchSize: 2048, seqLen: 8192 })
  const { user, system } = process.cpuUsage(started)
  console.log(`16384 GPUs: ${found.possible} layouts in ${((user + system) / 1e6).toFixed(2)} s of processor time`)
  assert.ok((user + system) / 1e6 < 10)
  const large = searchLayouts({ model: LLAMA_405B, on: H100(98304), software: MODERN, batchSize: 12288, seqLen: 8192 })
  const { estimate, layout } = large.best[0]!
  assert.equal(estimate.timeline?.ranks.length, layout.pipelineParallel)
  assert.ok(estimate.tokensPerSecond > 4 * found.best[0]!.estimate.tokensPerSecond)
})

test('the best layout fits, its parts add up, and no neighbour that fits is faster', () => {
  const ground = { model: LLAMA_405B, on: H100(1024), software: MODERN }
  const { best } = searchLayouts({ ...ground, batchSize: 512, seqLen: 8192 })
  const [first] = best
  for (const { estimate, bytes } of best) {
    assert.ok(bytes <= memoryLimit(ground.on))
    assert.ok(estimate.seconds >= first!.estimate.seconds)
    const parts = Object.values(estimate.parts).reduce((total, part) => total + part, 0)
    assert.ok(Math.abs(parts / estimate.seconds - 1) < 1e-9)
  }
  const alternatives = explain(first!, ground)
  assert.ok(alternatives.length >= 5)
  for (const { change, slower, verdict } of alternatives) {
    if (slower === undefined) assert.match(verdict, /does not fit/)
    else assert.ok(slower > -0.02, `${change} would be faster: ${verdict}`)
  }
})

test('slices and relatives of a device have their own multiprocessors, and say that nobody compared them', () => {
  const chip = (device: string) => {
    const { multiprocessors, isCompared } = cluster({ device, devices: 1 })
    return [multiprocessors, isCompared]
  }
  assert.deepEqual(chip('H100 SXM'), [132, true])
  assert.deepEqual(chip('H100 PCIe'), [114, false])
  assert.deepEqual(chip('A100 80GB'), [108, true])
  assert.deepEqual(chip('A100 80GB MIG 3g.40gb'), [42, false])
  assert.deepEqual(
    [chip('L4'), chip('L40S')],
    [
      [58, false],
      [142, false],
    ],
  )
})

test('pins are kept', () => {
  const pins = { tensorParallel: 4, pipelineParallel: 8, recompute: 'full' } as const
  const { best } = searchLayouts({
    model: demandPreset('GPT-3 175B').architecture,
    on: H100(256),
    software: MODERN,
    batchSize: 1024,
    seqLen: 2048,
    pins,
  })
  for (const { layout } of best) {
    assert.deepEqual(
      [layout.tensorParallel, layout.pipelineParallel, layout.recompute, layout.dataParallel],
      [4, 8, 'full', 8],
    )
  }
})

test('an impossible layout is refused in one sentence that says what would work', () => {
  const model = architecture({
    name: 'small',
    vocabSize: 1000,
    hiddenSize: 1024,
    numHiddenLayers: 12,
    numAttentionHeads: 16,
    intermediateSize: 4096,
  })
  const base = { batchSize: 64, seqLen: 1024 }
  assert.match(
    problemOf(model, layoutOf({ ...base, tensorParallel: 7 }))!,
    /7-way tensor parallel does not divide the 16 heads of small: 1, 2, 4, 8 or 16 would work/,
  )
  assert.match(problemOf(model, layoutOf({ ...base, pipelineParallel: 20 }))!, /at most 12 ranks would work/)
  assert.match(problemOf(model, layoutOf({ ...base, dataParallel: 48 }))!, /48 would work/)
  assert.match(problemOf(model, layoutOf({ ...base, contextParallel: 3 }))!, /does not divide 1024 tokens/)
  assert.match(problemOf(model, layoutOf({ ...base, expertParallel: 2 }))!, /has no experts/)
  assert.match(problemOf(model, layoutOf({ ...base, pipelineParallel: 4, chunks: 3, batchSize: 6 }))!, /multiple of 4/)
  assert.match(problemOf(model, layoutOf({ ...base, microBatchSize: 0 }))!, /at least 1, got 0/)
  const search = (devices: number, batchSize: number, pins = {}) =>
    searchLayouts({ model, on: H100(devices), software: MODERN, batchSize, seqLen: 1024, pins })
  assert.throws(() => search(8, 64, { tensorParallel: 7 }), ConfigError)
  assert.throws(() => search(8, 64, { tensorParallel: 7 }), /7-way tensor parallel.*8 or 16 would work/)
  const huge = demandPreset('Llama 3 405B').architecture
  assert.throws(
    () => searchLayouts({ model: huge, on: H100(8), software: MODERN, batchSize: 64, seqLen: 8192 }),
    /does not fit 8 x H100 SXM.*take more devices/,
  )
  assert.throws(() => H100(-4), /whole number of at least 1, got -4/)
  assert.throws(() => H100(12), /do not fill nodes of 8: take 16/)
  assert.throws(() => cluster({ device: 'RTX 4090', devices: 16, devicesPerNode: 8 }), /--network-bandwidth/)
  assert.throws(() => cluster({ device: 'H1000', devices: 8 }), /did you mean/)
})

test('layers that do not divide leave the first and last chunk lighter', () => {
  const layers = layersByChunk(LLAMA_405B, layoutOf({ batchSize: 32, seqLen: 8192, pipelineParallel: 16, chunks: 8 }))
  assert.equal(layers.length, 128)
  assert.deepEqual([layers[0], layers[1], layers.at(-1)], [0, 1, 0])
  assert.equal(
    layers.reduce((total, count) => total + count, 0),
    126,
  )
})

test('the formula of the bubble and the simulated pipeline agree where ranks are nearly equal', () => {
  for (const chunks of [1, 4]) {
    const layout = layoutOf({
      tensorParallel: 8,
      pipelineParallel: 8,
      dataParallel: 8,
      zeroStage: 1,
      chunks,
      batchSize: 256,
      seqLen: 8192,
    })
    const model = demandPreset('Llama 3 70B').architecture
    const on = H100(512)
    const clock = estimateStep(model, layout, on, MODERN).seconds
    const formula = estimateStep(model, layout, on, MODERN, { isSimulated: false }).seconds
    assert.ok(Math.abs(formula / clock - 1) < 0.06, `${chunks} chunks: ${formula} and ${clock}`)
  }
})

test('products: larger is more efficient, memory bounds thin ones, whole peak is never reached', () => {
  const on = H100(1)
  const sizes = [256, 1024, 4096, 16384].map((size) => gemmEfficiency(on, size, size, size))
  for (const [index, efficiency] of sizes.entries()) {
    assert.ok(efficiency < on.constants.matrixEfficiency)
    if (index > 0) assert.ok(efficiency > sizes[index - 1]!)
  }
  const thin = gemmSeconds(on, 1, 8192, 8192)
  const bytes = 2 * 8192 * 8192
  assert.ok(thin > bytes / on.device.memoryBandwidth)
})

test('collectives: bytes over the slowest link, latency by members', () => {
  const on = cluster({ device: 'A100', devices: 64, constants: { linkLatency: 0, networkLatency: 0, kernelGap: 0 } })
  const [link, network] = [
    on.linkBandwidth * on.constants.linkEfficiency,
    on.networkBandwidth * on.constants.networkEfficiency,
  ]
  const close = (one: number, other: number): void =>
    assert.ok(Math.abs(one / other - 1) < 1e-12, `${one}, not ${other}`)
  const node = groupOf(on, 8, 1)
  close(allReduceSeconds(on, 1e9, node), (2 * 7 * 1e9) / 8 / link)
  close(allGatherSeconds(on, 1e9, node), (7 * 1e9) / 8 / link)
  const across = groupOf(on, 8, 8)
  assert.equal(across.perNode, 1)
  close(allReduceSeconds(on, 1e9, across), (2 * 7 * 1e9) / 8 / network)
  // Eight adapters of a node carry a group that has all of the node's devices; one, where a program uses one.
  const whole = groupOf(on, 64, 1)
  close(allGatherSeconds(on, 1e9, whole), (63 * 1e9) / 64 / Math.min(link, 8 * network))
  close(allGatherSeconds(on, 1e9, whole, 'one'), (63 * 1e9) / 64 / network)
  close(allToAllSeconds(on, 1e9, whole), (56 * 1e9) / 64 / network)
  close(sendSeconds(on, 1e9, false), 1e9 / network)
  assert.equal(allReduceSeconds(on, 1e9, groupOf(on, 1, 1)), 0)
  const slow = cluster({ device: 'A100', devices: 64 })
  assert.ok(allReduceSeconds(slow, 1, groupOf(slow, 64, 1)) > allReduceSeconds(slow, 1, groupOf(slow, 8, 1)))
})

/** Seconds until `segments` intervals are done, with failures drawn at random. */
function playFailures(failures: Parameters<typeof bestGoodput>[0], interval: number, segments: number): number {
  let state = 12345
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state + 0.5) / 2 ** 32
  }
  const { mtbfSeconds, checkpointSeconds, restartSeconds } = failures
  const draw = (): number => -mtbfSeconds * Math.log(random())
  let clock = 0
  for (let done = 0; done < segments; done++) {
    for (let untilFailure = draw(); untilFailure < interval + checkpointSeconds; untilFailure = draw()) {
      clock += untilFailure
      for (let next = draw(); next < restartSeconds; next = draw()) clock += next
      clock += restartSeconds
    }
    clock += interval + checkpointSeconds
  }
  return clock
}

test('failures: expected goodput is that of a played run, the best interval beats its neighbours, Young and Daly are near it', () => {
  const failures = { mtbfSeconds: 10_000, checkpointSeconds: 60, restartSeconds: 600 }
  for (const interval of [300, 1100, 5000]) {
    const expected = expectedGoodput(failures, interval)
    const played = (interval * 40_000) / playFailures(failures, interval, 40_000)
    assert.ok(Math.abs(expected.share / played - 1) < 0.01, `${interval}: ${expected.share} and ${played}`)
    const whole = expected.share + expected.checkpoints + expected.restarts + expected.lost
    assert.ok(Math.abs(whole - 1) < 1e-9)
  }
  const best = bestGoodput(failures)
  for (const factor of [0.9, 1.1]) {
    assert.ok(expectedGoodput(failures, best.intervalSeconds * factor).share < best.share)
  }
  assert.ok(Math.abs(dalyInterval(failures) / best.intervalSeconds - 1) < 0.005)
  assert.ok(Math.abs(youngInterval(failures) / best.intervalSeconds - 1) < 0.06)
  assert.throws(() => expectedGoodput(failures, 0), /above 0 seconds, got 0/)
  assert.throws(() => bestGoodput({ ...failures, mtbfSeconds: -1 }), /above 0 seconds, got -1/)
})

test('Llama 3 405B: 419 unexpected interruptions in 54 days on 16384 GPUs leave more than 90 % (arXiv:2407.21783, section 3.3.4)', () => {
  const deviceMtbf = (54 * 86400 * 16384) / 419
  const mtbfSeconds = clusterMtbf(deviceMtbf, 16384)
  assert.ok(Math.abs(mtbfSeconds / 3600 - 3.09) < 0.01)
  // The paper says how often, not how long a restart takes: up to eight minutes are what 90 % allows.
  assert.ok(bestGoodput({ mtbfSeconds, checkpointSeconds: 15, restartSeconds: 420 }).share > 0.9)
  assert.ok(bestGoodput({ mtbfSeconds, checkpointSeconds: 15, restartSeconds: 1800 }).share < 0.9)
})
