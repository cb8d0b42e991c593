// The cheapest change that makes a model fit on each device: every combination of smaller micro-batches, ZeRO stages,
// recomputation, tensor and pipeline parallelism on the same number of devices, ordered by the time it is thought to cost.
// The layout search proper, with machine constants, is in layout/.
import type { Architecture } from './architecture.ts'
import { type RecomputePolicy, trainingFlopsPerToken } from './flops.ts'
import { deviceMemory, type MemorySetup } from './memory.ts'
import { deviceCount, divisors, type Parallelism } from './parallel.ts'

export interface MemoryFix {
  readonly setup: MemorySetup
  readonly bytes: number
  /** More than it takes now; devices are added only where nothing else is enough. */
  readonly devices: number
  /** What is different, as options: `--zero 2 --micro-batch-size 1`. */
  readonly options: string
}

/**
 * Shares of a step's time, to order changes by, not to predict a time: communication that ZeRO 3 adds (half as much
 * again, arXiv:1910.02054 section 7), a tensor cut twice as fine, products of half as many rows.
 */
const COSTS = { zeroStage: [0, 0.001, 0.002, 0.04], tensorDoubling: 0.04, microBatchHalving: 0.01 } as const

const RECOMPUTE: readonly RecomputePolicy[] = ['none', 'selective', 'full']
/** Times as many devices as were asked for that are still advice. */
const MOST_DEVICES = 4096

/**
 * @param limitBytes      of one device
 * @param devicesPerNode  tensor parallelism stays inside a node
 * @returns undefined where nothing is enough
 */
export function cheapestFix(
  model: Architecture,
  setup: MemorySetup,
  limitBytes: number,
  devicesPerNode: number,
): MemoryFix | undefined {
  const devices = deviceCount(setup.parallelism)
  for (let factor = 1; factor <= MOST_DEVICES; factor *= 2) {
    const fix = cheapestOn(model, setup, limitBytes, devicesPerNode, devices * factor)
    if (fix !== undefined) return { ...fix, devices: devices * factor, options: optionsOf(setup, fix.setup) }
  }
  return undefined
}

function cheapestOn(
  model: Architecture,
  setup: MemorySetup,
  limitBytes: number,
  devicesPerNode: number,
  devices: number,
): { setup: MemorySetup; bytes: number } | undefined {
  let best: { setup: MemorySetup; bytes: number; cost: number } | undefined
  for (const candidate of candidates(model, setup, devicesPerNode, devices)) {
    const cost = costOf(model, setup, candidate)
    if (best !== undefined && cost >= best.cost) continue
    const { total } = deviceMemory(model, candidate)
    if (total <= limitBytes) best = { setup: candidate, bytes: total, cost }
  }
  return best
}

function* candidates(
  model: Architecture,
  setup: MemorySetup,
  devicesPerNode: number,
  devices: number,
): Generator<MemorySetup> {
  const { parallelism, recompute, microBatchSize, microBatches, attention } = setup
  const { context, expert, tensor: tensorNow, pipeline: pipelineNow } = parallelism
  const sequences = microBatchSize * microBatches * parallelism.data
  const policies = RECOMPUTE.slice(RECOMPUTE.indexOf(recompute)).filter(
    (policy) => policy !== 'selective' || attention === 'unfused' || recompute === 'selective',
  )
  const layers = model.numHiddenLayers
  const tensors = divisors(model.numAttentionHeads).filter(
    (t) => t >= tensorNow && t <= Math.max(devicesPerNode, tensorNow),
  )
  for (const tensor of tensors) {
    for (const pipeline of divisors(devices).filter((p) => p >= pipelineNow && p <= layers)) {
      const data = devices / (tensor * pipeline * context)
      if (!Number.isInteger(data) || (data * context) % expert !== 0 || sequences % data !== 0) continue
      for (const size of divisors(sequences / data).filter((size) => size <= microBatchSize)) {
        for (const zeroStage of [0, 1, 2, 3] as const) {
          if (zeroStage < parallelism.zeroStage || (zeroStage > parallelism.zeroStage && data * context === 1)) continue
          for (const policy of policies) {
            const cuts: Parallelism = { ...parallelism, tensor, pipeline, data, zeroStage }
            const sequence = tensor > 1 && tensor > tensorNow ? true : parallelism.sequence
            const rest = { recompute: policy, microBatchSize: size, microBatches: sequences / data / size }
            yield { ...setup, ...rest, parallelism: { ...cuts, sequence } }
          }
        }
      }
    }
  }
}

function costOf(model: Architecture, from: MemorySetup, to: MemorySetup): number {
  const flops = ({ recompute }: MemorySetup): number =>
    trainingFlopsPerToken(model, from.seqLen, { recompute }).hardware
  const bubble = ({ parallelism: { pipeline, virtualStages }, microBatches }: MemorySetup): number =>
    (pipeline - 1) / (virtualStages * microBatches)
  return (
    flops(to) / flops(from) -
    1 +
    bubble(to) -
    bubble(from) +
    COSTS.zeroStage[to.parallelism.zeroStage] -
    COSTS.zeroStage[from.parallelism.zeroStage] +
    COSTS.tensorDoubling * Math.log2(to.parallelism.tensor / from.parallelism.tensor) +
    COSTS.microBatchHalving * Math.log2(from.microBatchSize / to.microBatchSize)
  )
}

function optionsOf(from: MemorySetup, to: MemorySetup): string {
  const changes: [string, unknown, unknown][] = [
    ['--devices', deviceCount(from.parallelism), deviceCount(to.parallelism)],
    ['--micro-batch-size', from.microBatchSize, to.microBatchSize],
    ['--zero', from.parallelism.zeroStage, to.parallelism.zeroStage],
    ['--recompute', from.recompute, to.recompute],
    ['--tensor', from.parallelism.tensor, to.parallelism.tensor],
    ['--pipeline', from.parallelism.pipeline, to.parallelism.pipeline],
    ['--sequence', from.parallelism.sequence, to.parallelism.sequence],
  ]
  return changes
    .filter(([, was, is]) => was !== is)
    .map(([flag, , is]) => (is === true ? flag : `${flag} ${is}`))
    .join(' ')
}
