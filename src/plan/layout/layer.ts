// The time of one transformer layer on one rank: its products by shape, the bytes of everything between them, and the
// communication of tensor, context and expert parallelism. Forward, gradients of inputs and gradients of weights apart.
// Attention's core has a file of its own.
import type { Architecture } from '../architecture.ts'
import { attentionCore } from './attention.ts'
import { allGatherSeconds, allReduceSeconds, allToAllSeconds, groupOf, reduceScatterSeconds } from './collectives.ts'
import { gemmSeconds, memorySeconds } from './gemm.ts'
import type { Layout } from './layout.ts'
import type { Cluster } from './machine.ts'
import { NOTHING, type Phase, sum } from './phase.ts'
import { type Setting, tokensOf, widthOf } from './setting.ts'
import { otherPrecision } from './software.ts'

/** Passes over memory of operations that are no one fused kernel: one kernel an operation, some of them in f32. */
const UNFUSED_PASSES = 2.5

export interface LayerTime {
  readonly forward: Phase
  /** Gradients of inputs, with what has to be recomputed before. */
  readonly backwardInput: Phase
  /** Gradients of weights, and their sum over micro-batches. */
  readonly backwardWeight: Phase
}

/** A product of the layer: weights [depth, columns] of this rank, `count` of them in one launch, `rows` tokens each. */
interface Product {
  readonly rows: number
  readonly depth: number
  readonly columns: number
  readonly count?: number
}

/** One layer. @param isSparse  whether its MLP is made of routed experts */
export function layerTime(setting: Setting, isSparse: boolean): LayerTime {
  const { model, layout, on, software } = setting
  const products = [...attentionProducts(model, layout), ...mlpProducts(model, layout, isSparse)]
  const forwardProducts = productSeconds(setting, products, 'forward')
  const attention = attentionCore(setting)
  const passes = elementwiseBytes(setting, isSparse)
  const slow = software.isFused ? 1 : UNFUSED_PASSES
  const quantize = software.linearPrecision === 'fp8' ? quantizeBytes(products) : 0
  const communication = tensorSeconds(setting)
  const dispatch = isSparse ? dispatchSeconds(setting) : 0
  const context = contextSeconds(setting)

  const plainForward: Phase = {
    ...NOTHING,
    products: forwardProducts + attention.forward.products,
    memory: attention.forward.memory + memorySeconds(on, slow * passes.forward + quantize),
    communication: communication + dispatch + context,
  }
  const plainBackward: Phase = {
    ...NOTHING,
    products: productSeconds(setting, products, 'input') + attention.backward.products,
    memory: attention.backward.memory + memorySeconds(on, slow * passes.backward + quantize),
    communication: communication + dispatch + 2 * context,
  }
  const isHidden = software.overlapsTensor === 'all'
  const forward = software.overlapsTensor === 'none' ? plainForward : hideTensor(on, plainForward)
  const backward = isHidden ? hideTensor(on, plainBackward) : plainBackward
  const again = recomputed(setting, isHidden ? forward : plainForward, forwardProducts, attention.forward)
  const backwardWeight: Phase = {
    ...NOTHING,
    products: productSeconds(setting, products, 'weight'),
    memory: memorySeconds(on, weightSumBytes(products, setting)),
  }
  return { forward, backwardInput: sum(again, backward), backwardWeight }
}

/** What the backward repeats of the forward. */
function recomputed({ layout, software }: Setting, forward: Phase, products: number, attention: Phase): Phase {
  if (layout.recompute === 'none') return NOTHING
  if (layout.recompute === 'full') return forward
  if (software.selective === 'attention') {
    // A fused kernel recomputes by itself: that is in its own time.
    return software.attention === 'materialized' ? attention : NOTHING
  }
  return { ...NOTHING, products: products / 2, memory: forward.memory - attention.memory }
}

function attentionProducts(model: Architecture, layout: Layout): Product[] {
  const { hiddenSize, headDim, latentAttention: latent } = model
  const t = layout.tensorParallel
  const rows = tokensOf(layout)
  const heads = model.numAttentionHeads / t
  const keyValueHeads = Math.max(1, model.numKeyValueHeads / t)
  if (latent === undefined) {
    return [
      { rows, depth: hiddenSize, columns: (heads + 2 * keyValueHeads) * headDim },
      { rows, depth: heads * headDim, columns: hiddenSize },
    ]
  }
  const { queryRank, keyValueRank, contentDim, rotaryDim, valueDim } = latent
  const queryColumns = heads * (contentDim + rotaryDim)
  const queries: Product[] =
    queryRank === 0
      ? [{ rows, depth: hiddenSize, columns: queryColumns }]
      : [
          { rows, depth: hiddenSize, columns: queryRank },
          { rows, depth: queryRank, columns: queryColumns },
        ]
  return [
    ...queries,
    { rows, depth: hiddenSize, columns: keyValueRank + rotaryDim },
    { rows, depth: keyValueRank, columns: heads * (contentDim + valueDim) },
    { rows, depth: heads * valueDim, columns: hiddenSize },
  ]
}

function mlpProducts(model: Architecture, layout: Layout, isSparse: boolean): Product[] {
  const { experts, hiddenSize, isGated, intermediateSize } = model
  const t = layout.tensorParallel
  const rows = tokensOf(layout)
  const mlp = (width: number, tokens: number, count: number): Product[] =>
    width === 0
      ? []
      : [
          { rows: tokens, depth: hiddenSize, columns: ((isGated ? 2 : 1) * width) / t, count },
          { rows: tokens, depth: width / t, columns: hiddenSize, count },
        ]
  if (!isSparse || experts === undefined) return mlp(intermediateSize, rows, 1)
  const local = experts.count / layout.expertParallel
  const rowsEach = (rows * experts.active * layout.expertParallel) / experts.count
  return [
    { rows, depth: hiddenSize, columns: experts.count },
    ...mlp(experts.sharedIntermediateSize, rows, 1),
    ...mlp(experts.intermediateSize, rowsEach, local),
  ]
}

/** Seconds of all products of the layer, once. */
function productSeconds(
  { on, software }: Setting,
  products: readonly Product[],
  of: 'forward' | 'input' | 'weight',
): number {
  let seconds = 0
  for (const { rows, depth, columns, count = 1 } of products) {
    const shape =
      of === 'forward'
        ? ([rows, columns, depth] as const)
        : of === 'input'
          ? ([rows, depth, columns] as const)
          : ([depth, columns, rows] as const)
    seconds += gemmSeconds(on, ...shape, software.linearPrecision, count)
  }
  return seconds
}

/** Bytes that element-wise operations move, in as few kernels as fusion allows. */
function elementwiseBytes(setting: Setting, isSparse: boolean): { forward: number; backward: number } {
  const { model, layout, software } = setting
  const t = layout.tensorParallel
  const rows = tokensOf(layout)
  const elementBytes = widthOf(setting)
  const residual = (rows * model.hiddenSize * elementBytes) / (software.hasSequenceParallel ? t : 1)
  const heads = (model.numAttentionHeads * model.headDim * elementBytes * rows) / t
  const keys = (2 * model.numKeyValueHeads * model.headDim * elementBytes * rows) / t
  const { experts } = model
  const width =
    isSparse && experts !== undefined
      ? experts.sharedIntermediateSize + experts.active * experts.intermediateSize
      : model.intermediateSize
  const inner = (rows * width * elementBytes) / t
  const norms = model.normsPerLayer
  const isRotary = model.positions === 'rotary'
  const dropout = software.hasDropout ? 0.5 : 0
  const bias = model.hasMlpBias ? heads + keys + inner + 2 * residual : 0
  // Routed tokens are written to their experts and read back, weighted.
  const routing = isSparse && experts !== undefined ? 4 * experts.active * residual : 0
  const forward =
    norms * 2 * residual + // read, write
    2 * (3 + dropout) * residual + // residual sum: read both, write
    (isRotary ? 2 * (heads + keys / 2) : 0) +
    (model.isGated ? 3 : 2) * inner +
    routing
  const backward =
    norms * 4 * residual + // read gradient and input, sum into the residual's gradient
    2 * (software.hasDropout ? 2.5 : 0) * residual +
    (isRotary ? 2 * (heads + keys / 2) : 0) +
    (model.isGated ? 5 : 3) * inner +
    bias +
    routing
  return { forward, backward }
}

/** Factors are read in 16 bits twice (largest value, cast) and written in 8. */
function quantizeBytes(products: readonly Product[]): number {
  return products.reduce(
    (total, { rows, depth, columns, count = 1 }) => total + 5 * count * depth * (rows + columns),
    0,
  )
}

/** A product writes its weight gradient, which is then added to the sum over micro-batches. */
function weightSumBytes(products: readonly Product[], setting: Setting): number {
  const elements = products.reduce((total, { depth, columns, count = 1 }) => total + count * depth * columns, 0)
  return elements * weightGradientBytes(setting)
}

/** Of one weight: its gradient as a product writes it, read and written sum. */
function weightGradientBytes(setting: Setting): number {
  return widthOf(setting) + 2 * setting.software.gradientSumBytes
}

/** Tensor parallel: two all-reduces of the activations a pass, or as many bytes in gathers and scatters. */
function tensorSeconds(setting: Setting): number {
  const { model, layout, on, software } = setting
  if (layout.tensorParallel === 1) return 0
  const group = groupOf(on, layout.tensorParallel, 1)
  const bytes = tokensOf(layout) * model.hiddenSize * widthOf(setting)
  if (!software.hasSequenceParallel) return 2 * allReduceSeconds(on, bytes, group)
  return 2 * (allGatherSeconds(on, bytes, group) + reduceScatterSeconds(on, bytes, group))
}

/** Context parallel: keys and values of the whole sequence are gathered; their gradients are scattered. */
function contextSeconds(setting: Setting): number {
  const { model, layout, on } = setting
  if (layout.contextParallel === 1) return 0
  const group = groupOf(on, layout.contextParallel, layout.tensorParallel)
  const heads = Math.max(1, model.numKeyValueHeads / layout.tensorParallel)
  const elements = layout.microBatchSize * layout.seqLen * 2 * heads * model.headDim
  return allGatherSeconds(on, elements * widthOf(setting), group)
}

/** Expert parallel: tokens to their experts and back. */
function dispatchSeconds(setting: Setting): number {
  const { model, layout, on } = setting
  if (layout.expertParallel === 1) return 0
  const group = groupOf(on, layout.expertParallel, layout.tensorParallel * layout.contextParallel)
  const elements = (tokensOf(layout) * model.experts!.active * model.hiddenSize) / layout.tensorParallel
  return 2 * allToAllSeconds(on, elements * widthOf(setting), group)
}

/** Communication beside products: what is longer counts, and it slows the products. */
function hideTensor(on: Cluster, phase: Phase): Phase {
  const { communication, products } = phase
  const cost = on.constants.overlapCost * Math.min(communication, products)
  return { ...phase, communication: Math.max(0, communication - products) + cost }
}

/** The embedding's look-up: forward reads and writes a row a token, backward adds one. */
export function embeddingTime(setting: Setting): LayerTime {
  const { model, layout, on, software } = setting
  const bytes = tokensOf(layout) * model.hiddenSize * widthOf(setting)
  const group = groupOf(on, layout.tensorParallel, 1)
  const reduce = layout.tensorParallel === 1 ? 0 : allReduceSeconds(on, bytes, group)
  const dropout = software.hasDropout ? 2.5 : 0
  const gap = on.constants.kernelGap
  return {
    forward: { ...NOTHING, memory: memorySeconds(on, (2 + dropout) * bytes) + gap, communication: reduce },
    backwardInput: { ...NOTHING, memory: memorySeconds(on, (3 + dropout) * bytes) + gap },
    backwardWeight: NOTHING,
  }
}

/** The last norm, the head over a vocabulary divided by tensor parallelism, and the loss in f32. */
export function headTime(setting: Setting): LayerTime {
  const { model, layout, on, software } = setting
  const rows = tokensOf(layout)
  const columns = Math.ceil(model.vocabSize / layout.tensorParallel)
  const depth = model.hiddenSize
  const logits = rows * columns
  const group = groupOf(on, layout.tensorParallel, 1)
  const reduce = layout.tensorParallel === 1 ? 0 : allReduceSeconds(on, rows * depth * widthOf(setting), group)
  const slow = software.isFused ? 1 : UNFUSED_PASSES
  const precision = otherPrecision(software)
  return {
    forward: {
      ...NOTHING,
      products: gemmSeconds(on, rows, columns, depth, precision),
      // To f32, its maximum, exponentials and their sum.
      memory: memorySeconds(on, slow * 18 * logits),
      communication: software.hasSequenceParallel ? reduce / 2 : 0,
    },
    backwardInput: {
      ...NOTHING,
      products: gemmSeconds(on, rows, depth, columns, precision),
      memory: memorySeconds(on, slow * 14 * logits),
      communication: reduce,
    },
    backwardWeight: {
      ...NOTHING,
      products: gemmSeconds(on, depth, columns, rows, precision),
      memory: memorySeconds(on, depth * columns * weightGradientBytes(setting)),
    },
  }
}
