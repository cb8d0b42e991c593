// Which layout trains a model fastest on a cluster: every possible one that fits is timed with the bubble's formula, the
// best of those on the pipeline's clock. What is pinned is not searched.
import { ConfigError } from '../../core/errors.ts'
import { formatBytes } from '../../display/format.ts'
import type { Architecture } from '../architecture.ts'
import { divisors } from '../parallel.ts'
import { type Layout, layoutOf, microBatches, problemOf, type Recompute } from './layout.ts'
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

function nothingFits(
  { model, on, batchSize, pins }: SearchInput,
  least: { layout: Layout; bytes: number } | undefined,
  limit: number,
): string {
  const where = `${on.devices} x ${on.device.name}`
  if (least === undefined) {
    const pinned = layoutOf({ seqLen: 1, batchSize, ...pins, dataParallel: 1 })
    const known = pins === undefined ? undefined : problemOf(model, { ...pinned, seqLen: pinned.contextParallel })
    if (known !== undefined && Object.keys(pins ?? {}).length > 0) return `plan layout: ${known}`
    return `plan layout: no layout divides ${where} and a batch of ${batchSize} sequences: take numbers with more small divisors, or fewer pinned options`
  }
  const { tensorParallel: t, pipelineParallel: p, zeroStage, recompute } = least.layout
  return `plan layout: ${model.name} does not fit ${where}: the least that any layout takes is ${formatBytes(least.bytes)} of ${formatBytes(limit)} a device (tensor ${t}, pipeline ${p}, ZeRO ${zeroStage}, recompute ${recompute}); take more devices${least.bytes > 4 * limit ? '' : ', or an optimizer with smaller states'}`
}

function* candidates({ model, on, batchSize, seqLen, pins = {}, software }: SearchInput): Generator<Layout> {
  const { devices } = on
  const choose = <K extends keyof Layout>(key: K, values: readonly Layout[K][]): readonly Layout[K][] =>
    pins[key] === undefined ? values : [pins[key] as Layout[K]]
  const tensors = choose('tensorParallel', divisors(on.devicesPerNode))
  const contexts = choose(
    'contextParallel',
    divisors(devices).filter((c) => c === 1 || seqLen / c >= FEWEST_CONTEXT_TOKENS),
  )
  const recomputes = choose('recompute', recomputePolicies(software))
  const experts = model.experts === undefined ? [1] : divisors(model.experts.count)
  for (const tensorParallel of tensors) {
    for (const pipelineParallel of choose(
      'pipelineParallel',
      divisors(devices).filter((p) => p <= model.numHiddenLayers),
    )) {
      for (const contextParallel of contexts) {
        const dataParallel = devices / (tensorParallel * pipelineParallel * contextParallel)
        if (!Number.isInteger(dataParallel) || (pins.dataParallel ?? dataParallel) !== dataParallel) continue
        if (batchSize % dataParallel !== 0) continue
        const perPlace = model.numHiddenLayers / pipelineParallel
        const chunkCounts = choose(
          'chunks',
          pipelineParallel === 1 || (pins.schedule !== undefined && pins.schedule !== 'interleaved')
            ? [1]
            : CHUNKS.filter((chunks) => chunks === 1 || chunks <= Math.ceil(perPlace)),
        )
        for (const microBatchSize of choose('microBatchSize', MICRO_BATCHES)) {
          if ((batchSize / dataParallel) % microBatchSize !== 0) continue
          for (const zeroStage of choose('zeroStage', dataParallel * contextParallel === 1 ? [0] : [1, 3])) {
            // Parameters that are gathered for every micro-batch and stage do not go with a pipeline.
            if (zeroStage === 3 && pipelineParallel > 1 && pins.zeroStage === undefined) continue
            for (const expertParallel of choose('expertParallel', experts)) {
              if (dataParallel % expertParallel !== 0) continue
              for (const recompute of recomputes) {
                for (const chunks of chunkCounts) {
                  yield layoutOf({
                    dataParallel,
                    tensorParallel,
                    pipelineParallel,
                    contextParallel,
                    expertParallel,
                    zeroStage,
                    microBatchSize,
                    batchSize,
                    seqLen,
                    chunks,
                    recompute,
                    ...(pins.schedule !== undefined && chunks === 1 && { schedule: pins.schedule }),
                  })
                }
              }
            }
          }
        }
      }
    }
  }
}

/** Fused attention keeps no scores: what selective recomputation would drop is not there. */
export function recomputePolicies({ attention, selective }: Software): readonly Recompute[] {
  return attention !== 'materialized' && selective === 'attention' ? ['none', 'full'] : ['none', 'selective', 'full']
}
