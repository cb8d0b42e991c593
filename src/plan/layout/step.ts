// The time of one training step under a layout: chunks of layers on a pipeline's clock, then what data-parallel ranks
// exchange, then the optimizer. Says where the time goes; memory and the choice of layouts are elsewhere.
import type { Architecture } from '../architecture.ts'
import { allGatherSeconds, groupOf, sendSeconds } from './collectives.ts'
import { type ChunkPhases, dataSeconds, optimizerSeconds, withDataExchange } from './data-parallel.ts'
import { embeddingTime, headTime, type LayerTime, layerTime } from './layer.ts'
import { checkLayout, devicesOf, type Layout, layersByChunk, microBatches } from './layout.ts'
import type { Cluster } from './machine.ts'
import { type Phase, secondsOf, sum, times } from './phase.ts'
import { bubbleFormula } from './schedule.ts'
import { type Setting, tokensOf, widthOf } from './setting.ts'
import type { Software } from './software.ts'
import { type ChunkTime, simulate, type Timeline } from './timeline.ts'

/** Seconds of a step on the pipeline rank that works most, by what they are spent on; they add up to `seconds`. */
export interface StepParts {
  readonly products: number
  readonly memory: number
  /** Tensor, context and expert parallel. */
  readonly communication: number
  /** Transfers between pipeline stages that stages wait for. */
  readonly transfers: number
  /** Waiting for other stages. */
  readonly bubble: number
  /** Gradients and parameters between data-parallel ranks, as far as nothing hides it. */
  readonly data: number
  readonly optimizer: number
}

/** In the words of reports, in the order of their bars. */
export const PART_NAMES: Readonly<Record<keyof StepParts, string>> = {
  products: 'products and attention',
  memory: 'memory traffic',
  communication: 'tensor, context, expert exchange',
  transfers: 'transfers between stages',
  bubble: 'waiting for other stages',
  data: 'data-parallel exchange',
  optimizer: 'optimizer',
}

export interface StepEstimate {
  readonly seconds: number
  readonly parts: StepParts
  readonly tokensPerSecond: number
  readonly tokensPerSecondPerDevice: number
  /** Undefined where the bubble was taken from its formula. */
  readonly timeline: Timeline | undefined
}

export interface StepOptions {
  /** Run the pipeline on the clock (true) or take the bubble from its formula. Default true. */
  isSimulated?: boolean | undefined
}

/**
 * @throws ConfigError for an impossible layout
 */
export function estimateStep(
  model: Architecture,
  layout: Layout,
  on: Cluster,
  software: Software,
  { isSimulated = true }: StepOptions = {},
): StepEstimate {
  checkLayout(model, layout)
  const setting: Setting = { model, layout, on, software }
  const chunks = chunkPhases(setting)
  const transfer = transferSeconds(setting)
  const count = microBatches(layout)
  const shape = { ranks: layout.pipelineParallel, microBatches: count, chunks: layout.chunks }
  const isParted = layout.schedule === 'zero-bubble'
  const chunkTimes = chunks.map(({ forward, input, weight }): ChunkTime => {
    const [whole, part] = [secondsOf(input), secondsOf(weight)]
    return { forward: secondsOf(forward), backward: isParted ? whole : whole + part, weight: isParted ? part : 0 }
  })
  // One rank's work in a micro-batch.
  const ranks = Array.from({ length: layout.pipelineParallel }, (_, rank) => {
    const own = chunks.filter((_, chunk) => chunk % layout.pipelineParallel === rank)
    return sum(...own.flatMap(({ forward, input, weight }) => [forward, input, weight]))
  })
  const busiest = ranks.reduce((most, phase) => (secondsOf(phase) > secondsOf(most) ? phase : most))
  const timeline =
    isSimulated && layout.pipelineParallel > 1
      ? simulate({
          schedule: layout.schedule,
          shape,
          times: chunkTimes,
          transfer,
          isBlocking: !software.overlapsPipeline,
        })
      : undefined
  const work = times(busiest, count)
  // In the steady state a stage sends one activation and one gradient for each micro-batch and chunk.
  const transfers = software.overlapsPipeline ? 0 : 2 * count * layout.chunks * transfer
  const pipeline =
    timeline?.seconds ??
    (secondsOf(work) + transfers) * (1 + formula(layout, shape, busiest, chunks)) + 2 * (shape.ranks - 1) * transfer
  const hidden = software.overlapsData ? lastBackward(setting, chunks) : 0
  const data = dataSeconds(setting, hidden)
  const optimizer = optimizerSeconds(setting)
  const seconds = pipeline + data + optimizer
  const tokens = layout.batchSize * layout.seqLen
  return {
    seconds,
    parts: {
      products: work.products,
      memory: work.memory,
      communication: work.communication,
      transfers,
      bubble: pipeline - secondsOf(work) - transfers,
      data: work.data + data,
      optimizer,
    },
    tokensPerSecond: tokens / seconds,
    tokensPerSecondPerDevice: tokens / seconds / devicesOf(layout),
    timeline,
  }
}

function chunkPhases(setting: Setting): ChunkPhases[] {
  const { model, layout } = setting
  const layers = layersByChunk(model, layout)
  const denseLayers = model.experts === undefined ? model.numHiddenLayers : model.experts.denseLayers
  const dense = layerTime(setting, false)
  const sparse = model.experts === undefined ? dense : layerTime(setting, true)
  let first = 0
  return layers.map((count, chunk): ChunkPhases => {
    const denseHere = Math.max(0, Math.min(count, denseLayers - first))
    first += count
    const pieces: [LayerTime, number][] = [
      [dense, denseHere],
      [sparse, count - denseHere],
    ]
    if (chunk === 0) pieces.push([embeddingTime(setting), 1])
    if (chunk === layers.length - 1) pieces.push([headTime(setting), 1])
    const total = (of: keyof LayerTime): Phase => sum(...pieces.map(([piece, factor]) => times(piece[of], factor)))
    const phases = { forward: total('forward'), input: total('backwardInput'), weight: total('backwardWeight') }
    return withDataExchange(setting, phases, { layers: count, sparseLayers: count - denseHere })
  })
}

/** What the gradients' exchange can hide behind: the last micro-batch's backward through one rank. */
function lastBackward({ layout }: Setting, chunks: readonly ChunkPhases[]): number {
  const all = chunks.reduce((total, { input, weight }) => total + secondsOf(input) + secondsOf(weight), 0)
  return all / layout.pipelineParallel
}

/** Seconds of one activation's way to the next stage. */
function transferSeconds(setting: Setting): number {
  const { model, layout, on, software } = setting
  if (layout.pipelineParallel === 1) return 0
  const bytes = tokensOf(layout) * model.hiddenSize * widthOf(setting)
  const t = layout.tensorParallel
  const stride = devicesOf(layout) / layout.pipelineParallel
  const isInsideNode = stride * 2 <= on.devicesPerNode
  const isDivided = software.scattersPipeline && t > 1
  const send = sendSeconds(on, isDivided ? bytes / t : bytes, isInsideNode)
  const isGathered = isDivided && !software.hasSequenceParallel
  return send + (isGathered ? allGatherSeconds(on, bytes, groupOf(on, t, 1)) : 0)
}

/** The bubble that the schedule's formula says, for ranks that work as long as the busiest. */
function formula(
  { schedule }: Layout,
  shape: { ranks: number; microBatches: number; chunks: number },
  busiest: Phase,
  chunks: readonly ChunkPhases[],
): number {
  if (shape.ranks === 1) return 0
  const total = (of: keyof ChunkPhases): number => chunks.reduce((seconds, chunk) => seconds + secondsOf(chunk[of]), 0)
  const [forward, input, weight] = [total('forward'), total('input'), total('weight')]
  const average = (forward + input + weight) / shape.ranks
  // Other ranks than the busiest are passed once: they wait as long as they themselves work.
  return (bubbleFormula(schedule, shape, { forward, input, weight }) * average) / secondsOf(busiest)
}
