// The time of one training step under a layout: chunks of layers on a pipeline's clock, then what data-parallel ranks
// exchange, then the optimizer. Says where the time goes; memory and the choice of layouts are elsewhere.
import { type Architecture, attentionParameters, mlpParameters, normParametersOfLayer } from '../architecture.ts'
import {
  allGatherSeconds,
  allReduceSeconds,
  type Group,
  groupOf,
  reduceScatterSeconds,
  sendSeconds,
} from './collectives.ts'
import { memorySeconds } from './gemm.ts'
import { embeddingTime, headTime, type LayerTime, layerTime, type Setting, tokensOf } from './layer.ts'
import { checkLayout, devicesOf, type Layout, layersByChunk, microBatches } from './layout.ts'
import type { Cluster } from './machine.ts'
import { type Phase, secondsOf, sum, times } from './phase.ts'
import { bubbleFormula } from './schedule.ts'
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
  /** Gradients and parameters between data-parallel ranks, as far as nothing hides them. */
  readonly data: number
  readonly optimizer: number
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
      ...work,
      transfers,
      bubble: pipeline - secondsOf(work) - transfers,
      data,
      optimizer,
    },
    tokensPerSecond: tokens / seconds,
    tokensPerSecondPerDevice: tokens / seconds / devicesOf(layout),
    timeline,
  }
}

interface ChunkPhases {
  readonly forward: Phase
  readonly input: Phase
  readonly weight: Phase
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
    return layout.zeroStage === 3 ? withGathers(setting, phases, count) : phases
  })
}

/** ZeRO-3: a layer's parameters are gathered before its forward and its backward, its gradients are scattered after. */
function withGathers(setting: Setting, { forward, input, weight }: ChunkPhases, layers: number): ChunkPhases {
  const { on, software, layout } = setting
  const group = dataGroup(setting)
  const elements =
    localParameters(setting) / layersByChunk(setting.model, layout).reduce((sum, count) => sum + count, 0)
  const gather = layers * allGatherSeconds(on, 2 * elements, group, software.collectiveRails)
  const scatter = layers * reduceScatterSeconds(on, software.gradientBytes * elements, group, software.collectiveRails)
  const backward = gather + scatter
  const computed = secondsOf(input) + secondsOf(weight)
  return {
    forward: beside(setting, forward, secondsOf(forward), gather),
    input: beside(setting, input, computed, backward),
    weight,
  }
}

/** A phase with communication beside its work: the longer of the two, and what communication takes from the work. */
function beside({ on, software }: Setting, phase: Phase, work: number, seconds: number): Phase {
  const exposed = software.overlapsData
    ? Math.max(0, seconds - work) + on.constants.overlapCost * Math.min(seconds, work)
    : seconds
  return { ...phase, communication: phase.communication + exposed }
}

/** Parameters of the fullest pipeline rank on one device. */
export function localParameters({ model, layout }: Setting): number {
  const perLayer = denseLayerParameters(model) / layout.tensorParallel
  const chunks = layersByChunk(model, layout)
  const ranks = Array.from({ length: layout.pipelineParallel }, (_, rank) => {
    let layers = 0
    for (let chunk = rank; chunk < chunks.length; chunk += layout.pipelineParallel) layers += chunks[chunk]!
    const ends = (rank === 0 ? 1 : 0) + (rank === layout.pipelineParallel - 1 && !model.tieWordEmbeddings ? 1 : 0)
    return layers * perLayer + (ends * model.vocabSize * model.hiddenSize) / layout.tensorParallel
  })
  return Math.max(...ranks)
}

/** Of an average layer, without its routed experts. */
function denseLayerParameters(model: Architecture): number {
  const { experts, numHiddenLayers: layers } = model
  const own = attentionParameters(model) + normParametersOfLayer(model)
  if (experts === undefined) return own + mlpParameters(model, model.intermediateSize)
  const sparse = experts.count * model.hiddenSize + mlpParameters(model, experts.sharedIntermediateSize)
  const dense = mlpParameters(model, model.intermediateSize)
  return own + (experts.denseLayers * dense + (layers - experts.denseLayers) * sparse) / layers
}

/** Parameters of routed experts on one device. */
function localExpertParameters({ model, layout }: Setting): number {
  const { experts } = model
  if (experts === undefined) return 0
  const layers = (model.numHiddenLayers - experts.denseLayers) / layout.pipelineParallel
  const expert = mlpParameters(model, experts.intermediateSize)
  return (layers * experts.count * expert) / layout.expertParallel / layout.tensorParallel
}

/** Ranks that hold the same parameters: data-parallel and context-parallel ones. */
function dataGroup({ layout, on }: Setting): Group {
  return groupOf(on, layout.dataParallel * layout.contextParallel, layout.tensorParallel)
}

/** Seconds of the exchange of gradients (and, with ZeRO, of parameters) that nothing hides. */
function dataSeconds(setting: Setting, hidden: number): number {
  const { layout, on, software } = setting
  const group = dataGroup(setting)
  if (group.size === 1) return 0
  const exchange = (parameters: number, among: Group): number => {
    if (among.size === 1 || parameters === 0) return 0
    const gradientBytes = parameters * software.gradientBytes
    if (layout.zeroStage === 0) return allReduceSeconds(on, gradientBytes, among)
    const scatter = reduceScatterSeconds(on, gradientBytes, among)
    return scatter + allGatherSeconds(on, 2 * parameters, among)
  }
  const { expertParallel } = layout
  const experts = groupOf(on, group.size / expertParallel, layout.tensorParallel * expertParallel)
  const dense = layout.zeroStage === 3 ? 0 : exchange(localParameters(setting), group)
  const seconds = dense + exchange(localExpertParameters(setting), experts)
  return Math.max(0, seconds - hidden) + on.constants.overlapCost * Math.min(seconds, hidden)
}

/** What the gradients' exchange can hide behind: the last micro-batch's backward through one rank. */
function lastBackward({ layout }: Setting, chunks: readonly ChunkPhases[]): number {
  const all = chunks.reduce((total, { input, weight }) => total + secondsOf(input) + secondsOf(weight), 0)
  return all / layout.pipelineParallel
}

function optimizerSeconds(setting: Setting): number {
  const { layout, on, software } = setting
  const shards = layout.zeroStage === 0 ? 1 : dataGroup(setting).size
  const expertShards = layout.zeroStage === 0 ? 1 : Math.max(1, dataGroup(setting).size / layout.expertParallel)
  const parameters = localParameters(setting) / shards + localExpertParameters(setting) / expertShards
  return memorySeconds(on, parameters * software.optimizerTraffic)
}

/** Seconds of one activation's way to the next stage. */
function transferSeconds({ model, layout, on, software }: Setting): number {
  if (layout.pipelineParallel === 1) return 0
  const bytes = tokensOf(layout) * model.hiddenSize * 2
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
