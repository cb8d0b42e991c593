// A layout: how a training step is divided over devices; what makes one possible, and what would work where it is not.
import { ConfigError } from '../../core/errors.ts'
import type { Architecture } from '../architecture.ts'
import { divisors } from '../parallel.ts'

export type Schedule = 'gpipe' | '1f1b' | 'interleaved' | 'zero-bubble'
export type Recompute = 'none' | 'selective' | 'full'
export type ZeroStage = 0 | 1 | 2 | 3

/** Ranks are numbered tensor, context, data (with expert inside it), pipeline: the first are nearest to each other. */
export interface Layout {
  readonly dataParallel: number
  readonly tensorParallel: number
  readonly pipelineParallel: number
  readonly contextParallel: number
  /** Experts are divided over this many data-parallel ranks. */
  readonly expertParallel: number
  /** What data-parallel ranks divide: nothing, optimizer state, gradients too, parameters too. */
  readonly zeroStage: ZeroStage
  /** Sequences in a micro-batch. */
  readonly microBatchSize: number
  /** Sequences in a step, over all ranks. */
  readonly batchSize: number
  /** Tokens in a sequence. */
  readonly seqLen: number
  readonly schedule: Schedule
  /** Chunks of layers on one pipeline rank; 1 unless interleaved. */
  readonly chunks: number
  readonly recompute: Recompute
}

const DEFAULTS: Omit<Layout, 'batchSize' | 'seqLen'> = {
  dataParallel: 1,
  tensorParallel: 1,
  pipelineParallel: 1,
  contextParallel: 1,
  expertParallel: 1,
  zeroStage: 0,
  microBatchSize: 1,
  schedule: '1f1b',
  chunks: 1,
  recompute: 'none',
}

export function layoutOf(input: Pick<Layout, 'batchSize' | 'seqLen'> & Partial<Layout>): Layout {
  const schedule = input.schedule ?? ((input.chunks ?? 1) > 1 ? 'interleaved' : DEFAULTS.schedule)
  return { ...DEFAULTS, ...input, schedule }
}

export function devicesOf(layout: Layout): number {
  return layout.dataParallel * layout.tensorParallel * layout.pipelineParallel * layout.contextParallel
}

/** Micro-batches of one data-parallel rank in a step. */
export function microBatches({ batchSize, dataParallel, microBatchSize }: Layout): number {
  return batchSize / (dataParallel * microBatchSize)
}

/** Why the layout is impossible, and what would work; undefined where it is possible. Memory is not looked at. */
export function problemOf(model: Architecture, layout: Layout): string | undefined {
  for (const [name, value] of Object.entries(layout)) {
    if (typeof value === 'number' && name !== 'zeroStage' && (!Number.isSafeInteger(value) || value < 1)) {
      return `${name} must be a whole number of at least 1, got ${value}`
    }
  }
  return (
    tensorProblem(model, layout) ??
    pipelineProblem(model, layout) ??
    batchProblem(layout) ??
    expertProblem(model, layout)
  )
}

function tensorProblem(
  model: Architecture,
  { tensorParallel: t, contextParallel, seqLen }: Layout,
): string | undefined {
  if (model.numAttentionHeads % t !== 0) {
    return `${t}-way tensor parallel does not divide the ${model.numAttentionHeads} heads of ${model.name}: ${oneOf(divisors(model.numAttentionHeads))} would work`
  }
  if (model.intermediateSize % t !== 0) {
    const works = divisors(model.numAttentionHeads).filter((ways) => model.intermediateSize % ways === 0)
    return `${t}-way tensor parallel does not divide the MLP of ${model.intermediateSize} of ${model.name}: ${oneOf(works)} would work`
  }
  if (seqLen % contextParallel !== 0) {
    return `${contextParallel}-way context parallel does not divide ${seqLen} tokens: ${oneOf(divisors(seqLen))} would work`
  }
  return undefined
}

function pipelineProblem(model: Architecture, layout: Layout): string | undefined {
  const { pipelineParallel: p, chunks, schedule } = layout
  const layers = model.numHiddenLayers
  if (p * chunks > layers + 2) {
    return `${p} pipeline ranks of ${chunks} ${chunks === 1 ? 'chunk' : 'chunks'} need as many layers, ${model.name} has ${layers}: at most ${Math.max(1, Math.floor(layers / chunks))} ranks would work`
  }
  if (chunks > 1 && schedule !== 'interleaved') {
    return `${chunks} chunks a rank need the interleaved schedule, got ${schedule}: take 1 chunk, or --schedule interleaved`
  }
  if (chunks > 1 && p === 1) {
    return `${chunks} chunks a rank need a pipeline of at least 2 ranks, got 1: take 1 chunk, or more ranks`
  }
  const count = microBatches(layout)
  if (schedule === 'interleaved' && chunks > 1 && count % p !== 0) {
    return `the interleaved schedule needs a multiple of ${p} micro-batches a rank, got ${count}: ${Math.max(1, Math.round(count / p)) * p} would work`
  }
  return undefined
}

function batchProblem({ batchSize, dataParallel, microBatchSize }: Layout): string | undefined {
  const atOnce = dataParallel * microBatchSize
  if (batchSize % atOnce === 0) return undefined
  return `a batch of ${batchSize} sequences is no multiple of ${dataParallel} data-parallel ranks x ${microBatchSize} in a micro-batch: ${Math.max(1, Math.round(batchSize / atOnce)) * atOnce} would work`
}

function expertProblem(model: Architecture, { expertParallel, dataParallel }: Layout): string | undefined {
  if (expertParallel === 1) return undefined
  const count = model.experts?.count
  if (count === undefined) return `${model.name} has no experts: expert parallel must be 1, got ${expertParallel}`
  const works = divisors(count).filter((ways) => dataParallel % ways === 0)
  if (works.includes(expertParallel)) return undefined
  return `${expertParallel}-way expert parallel must divide ${count} experts and ${dataParallel} data-parallel ranks: ${oneOf(works)} would work`
}

/** @throws ConfigError in one sentence, with what would work */
export function checkLayout(model: Architecture, layout: Layout): void {
  const problem = problemOf(model, layout)
  if (problem !== undefined) throw new ConfigError(`plan layout: ${problem}`)
}

function oneOf(values: readonly number[]): string {
  const powers = values.length > 8 ? values.filter((value) => (value & (value - 1)) === 0) : values
  const shown = powers.length > 8 ? [...powers.slice(0, 7), powers.at(-1)!] : powers
  return shown.length <= 1 ? String(shown[0] ?? 1) : `${shown.slice(0, -1).join(', ')} or ${shown.at(-1)}`
}

/**
 * Layers of every chunk, in the order of the model. Where they do not divide, the first and the last chunk, which have the
 * embedding and the head besides, get fewer (as Llama 3 405B: 126 layers in 128 places).
 */
export function layersByChunk(model: Architecture, { pipelineParallel, chunks }: Layout): number[] {
  const places = pipelineParallel * chunks
  const most = Math.ceil(model.numHiddenLayers / places)
  const layers = new Array<number>(places).fill(most)
  let spare = most * places - model.numHiddenLayers
  for (let index = 0; spare > 0; index = (index + 1) % places, spare--) {
    const place = index % 2 === 0 ? places - 1 - index / 2 : (index - 1) / 2
    layers[place]!--
  }
  return layers
}
