// Which layout trains a model fastest on a cluster: every possible one that fits is timed with the bubble's formula, the
// best of those on the pipeline's clock. What is pinned is not searched.
import { ConfigError } from '../../core/errors.ts'
import { formatBytes } from '../../display/format.ts'
import type { Architecture } from '../architecture.ts'
import { divisors } from '../parallel.ts'
import {
  devicesOf,
  type Layout,
  layoutOf,
  microBatches,
  problemOf,
  type Recompute,
  type Schedule,
  type ZeroStage,
} from './layout.ts'
import { DEFAULT_FORMATS, type Formats, layoutMemory, memoryLimit } from './layout-memory.ts'
import type { Cluster } from './machine.ts'
import type { Software } from './software.ts'
import { estimateStep, type StepEstimate } from './step.ts'

export interface SearchInput {
  readonly model: Architecture
  readonly on: Cluster
  readonly software: Software
  /** Sequences in a step. */
  readonly batchSize: number
  readonly seqLen: number
  readonly pins?: Partial<Layout>
  readonly formats?: Formats
  /** Layouts to return, best first. Default 10. */
  readonly count?: number
}

export interface Candidate {
  readonly layout: Layout
  readonly estimate: StepEstimate
  /** On the fullest device. */
  readonly bytes: number
}

export interface SearchResult {
  /** Best first. */
  readonly best: readonly Candidate[]
  /** Layouts that are possible, and those of them that fit. */
  readonly possible: number
  readonly fitting: number
}

/** The clock decides between this many of the best by formula. */
const SIMULATED = 24
/** A pipeline of more works than this is left to the formula. */
const MOST_WORKS = 400_000
/** Sequences at once; more than this rarely fits, and never pays in large models. */
const MICRO_BATCHES = [1, 2, 4, 8, 16, 32]
const CHUNKS = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16]
/** Tokens of a sequence on one rank below which dividing it further is not looked at. */
const FEWEST_CONTEXT_TOKENS = 4096

/** @throws ConfigError where no layout is possible, or none fits, with what comes nearest */
export function searchLayouts(input: SearchInput): SearchResult {
  const { model, on, software, formats = DEFAULT_FORMATS, count = 10 } = input
  const limit = memoryLimit(on)
  const timed: Candidate[] = []
  let possible = 0
  let least: { layout: Layout; bytes: number } | undefined
  for (const layout of candidates(input)) {
    if (problemOf(model, layout) !== undefined) continue
    possible++
    const bytes = layoutMemory(model, layout, software, formats).total
    if (least === undefined || bytes < least.bytes) least = { layout, bytes }
    if (bytes > limit) continue
    timed.push({ layout, bytes, estimate: estimateStep(model, layout, on, software, { isSimulated: false }) })
  }
  if (timed.length === 0) throw new ConfigError(nothingFits(input, least, limit))
  const byTime = (one: Candidate, other: Candidate): number => one.estimate.seconds - other.estimate.seconds
  timed.sort(byTime)
  const first = timed.slice(0, Math.max(count, SIMULATED)).map((candidate): Candidate => {
    const { layout } = candidate
    const works = 2 * microBatches(layout) * layout.chunks * layout.pipelineParallel
    if (layout.pipelineParallel === 1 || works > MOST_WORKS) return candidate
    return { ...candidate, estimate: estimateStep(model, layout, on, software) }
  })
  return { best: first.sort(byTime).slice(0, count), possible, fitting: timed.length }
}

function nothingFits(input: SearchInput, least: { layout: Layout; bytes: number } | undefined, limit: number): string {
  if (least === undefined) return `plan layout: ${whyNone(input)}`
  const { model, on } = input
  const where = `${on.devices} x ${on.device.name}`
  const { tensorParallel: t, pipelineParallel: p, zeroStage, recompute } = least.layout
  return `plan layout: ${model.name} does not fit ${where}: the least that any layout takes is ${formatBytes(least.bytes)} of ${formatBytes(limit)} a device (tensor ${t}, pipeline ${p}, ZeRO ${zeroStage}, recompute ${recompute}); take more devices${least.bytes > 4 * limit ? '' : ', or an optimizer with smaller states'}`
}

/** What stands in the way of every layout: the pins and the model, then the pins and the devices, then the batch. */
function whyNone({ model, on, batchSize, seqLen, pins }: SearchInput): string {
  const pinned = layoutOf({ batchSize, seqLen, ...pins })
  const { pipelineParallel, microBatchSize } = pinned
  const least = microBatchSize * (pinned.chunks > 1 ? pipelineParallel : 1)
  const known = problemOf(model, { ...pinned, dataParallel: 1, expertParallel: 1, batchSize: least })
  if (known !== undefined) return known
  const ways = devicesOf({ ...pinned, dataParallel: 1 })
  if (on.devices % ways !== 0) {
    const works = divisors(on.devices)
    const near = [works.findLast((value) => value < ways), works.find((value) => value > ways)]
    return `tensor x pipeline x context = ${ways} must divide ${on.devices} devices: ${near.filter((value) => value !== undefined).join(' or ')} would work`
  }
  const dataParallel = on.devices / ways
  const sequences = dataParallel * least
  const works = Math.max(1, Math.round(batchSize / sequences)) * sequences
  return (
    problemOf(model, { ...pinned, dataParallel, batchSize: sequences }) ??
    `a batch of ${batchSize} sequences cannot be divided over ${on.devices} devices with micro-batches of ${microBatchSize}: ${works} sequences (--batch-tokens ${works * seqLen}) would work`
  )
}

function* candidates({ model, on, batchSize, seqLen, pins = {}, software }: SearchInput): Generator<Layout> {
  const { devices } = on
  const choose = <K extends keyof Layout>(key: K, values: readonly Layout[K][]): readonly Layout[K][] =>
    pins[key] === undefined ? values : [pins[key] as Layout[K]]
  const tensors = choose('tensorParallel', divisors(on.devicesPerNode))
  const pipelines = choose(
    'pipelineParallel',
    divisors(devices).filter((p) => p <= model.numHiddenLayers),
  )
  const contexts = choose(
    'contextParallel',
    divisors(devices).filter((c) => c === 1 || seqLen / c >= FEWEST_CONTEXT_TOKENS),
  )
  const experts = choose('expertParallel', model.experts === undefined ? [1] : divisors(model.experts.count))
  const recomputes = choose('recompute', recomputePolicies(software))
  for (const [tensorParallel, pipelineParallel, contextParallel] of product(tensors, pipelines, contexts)) {
    const dataParallel = devices / (tensorParallel * pipelineParallel * contextParallel)
    if (!Number.isInteger(dataParallel) || batchSize % dataParallel !== 0) continue
    if ((pins.dataParallel ?? dataParallel) !== dataParallel) continue
    const cuts = { dataParallel, tensorParallel, pipelineParallel, contextParallel }
    const isDivided = dataParallel * contextParallel > 1
    const stages = choose('zeroStage', isDivided ? ([1, 2, 3] as const).filter((stage) => goesWith(stage, cuts)) : [0])
    const microBatchSizes = choose('microBatchSize', MICRO_BATCHES).filter(
      (size) => (batchSize / dataParallel) % size === 0,
    )
    const expertWays = experts.filter((ways) => dataParallel % ways === 0)
    const chunkCounts = choose('chunks', chunksOf(model, pipelineParallel, pins.schedule))
    for (const [microBatchSize, zeroStage, expertParallel, recompute, chunks] of product(
      microBatchSizes,
      stages,
      expertWays,
      recomputes,
      chunkCounts,
    )) {
      const rest = { microBatchSize, zeroStage, expertParallel, recompute, chunks, batchSize, seqLen }
      yield layoutOf({ ...cuts, ...rest, ...(pins.schedule !== undefined && { schedule: pins.schedule }) })
    }
  }
}

/** Chunks of a rank that are looked at. */
function chunksOf(model: Architecture, pipelineParallel: number, schedule: Schedule | undefined): readonly number[] {
  if (pipelineParallel === 1 || (schedule !== undefined && schedule !== 'interleaved')) return [1]
  const most = Math.ceil(model.numHiddenLayers / pipelineParallel)
  return CHUNKS.filter((chunks) => (chunks === 1 ? schedule === undefined : chunks <= most))
}

type Lists = readonly (readonly unknown[])[]

/** Every way to take one of each list, the last varying fastest. */
function* product<T extends Lists>(...lists: T): Generator<{ [K in keyof T]: T[K][number] }> {
  const [first, ...others] = lists
  if (first === undefined) yield [] as unknown as { [K in keyof T]: T[K][number] }
  for (const value of first ?? []) {
    for (const rest of product(...others)) yield [value, ...rest] as unknown as { [K in keyof T]: T[K][number] }
  }
}

/**
 * Whether a ZeRO stage is looked at: it needs ranks to divide something over, and exchanges in every micro-batch do not go
 * with a pipeline, which has many.
 */
export function goesWith(
  stage: ZeroStage,
  cuts: Pick<Layout, 'dataParallel' | 'contextParallel' | 'pipelineParallel'>,
): boolean {
  if (stage === 0) return true
  return cuts.dataParallel * cuts.contextParallel > 1 && (stage === 1 || cuts.pipelineParallel === 1)
}

/** Fused attention keeps no scores: what selective recomputation would drop is not there. */
export function recomputePolicies({ attention, selective }: Software): readonly Recompute[] {
  return attention !== 'materialized' && selective === 'attention' ? ['none', 'full'] : ['none', 'selective', 'full']
}
