// The time of one transformer layer on one rank: its products by shape, the bytes of everything between them, and the
// communication of tensor, context and expert parallelism. Forward, gradients of inputs and gradients of weights apart.
import type { Architecture } from '../architecture.ts'
import { peakFlops } from '../devices.ts'
import { allGatherSeconds, allReduceSeconds, allToAllSeconds, groupOf, reduceScatterSeconds } from './collectives.ts'
import { gemmSeconds, memorySeconds } from './gemm.ts'
import type { Layout } from './layout.ts'
import { type Cluster, clockShare } from './machine.ts'
import { NOTHING, type Phase, sum } from './phase.ts'
import type { Software } from './software.ts'

/** Bytes of an activation's element. */
const WIDTH = 2
/** Passes over memory of operations that are no one fused kernel: one kernel an operation, some of them in f32. */
const UNFUSED_PASSES = 2.5

export interface Setting {
  readonly model: Architecture
  readonly layout: Layout
  readonly on: Cluster
  readonly software: Software
}

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

/** Tokens of a micro-batch on one rank. */
export function tokensOf({ microBatchSize, seqLen, contextParallel }: Layout): number {
  return (microBatchSize * seqLen) / contextParallel
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
    products: forwardProducts + attention.forward.products,
    memory: attention.forward.memory + memorySeconds(on, slow * passes.forward + quantize),
    communication: communication + dispatch + context,
  }
  const plainBackward: Phase = {
    products: productSeconds(setting, products, 'input') + attention.backward.products,
    memory: attention.backward.memory + memorySeconds(on, slow * passes.backward + quantize),
    communication: communication + dispatch + 2 * context,
  }
  const isHidden = software.overlapsTensor === 'all'
  const forward = software.overlapsTensor === 'none' ? plainForward : hideTensor(on, plainForward)
  const backward = isHidden ? hideTensor(on, plainBackward) : plainBackward
  const again = recomputed(setting, isHidden ? forward : plainForward, forwardProducts, attention.forward)
  const backwardWeight: Phase = {
    products: productSeconds(setting, products, 'weight'),
    memory: memorySeconds(on, weightSumBytes(products, software)),
    communication: 0,
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
  return { products: products / 2, memory: forward.memory - attention.memory, communication: 0 }
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

/** Attention's core. Causal masks halve the work of kernels that skip; materialized scores are whole. */
function attentionCore({ model, layout, on, software }: Setting): { forward: Phase; backward: Phase } {
  const heads = model.numAttentionHeads / layout.tensorParallel
  const { latentAttention: latent } = model
  const keyDim = latent === undefined ? model.headDim : latent.contentDim + latent.rotaryDim
  const valueDim = latent?.valueDim ?? model.headDim
  const queries = layout.seqLen / layout.contextParallel
  const keys = layout.seqLen
  const count = layout.microBatchSize * heads
  if (software.attention !== 'materialized') {
    const flops = 2 * count * queries * (keys / 2) * (keyDim + valueDim)
    const rate =
      peakFlops(on.device, 'bf16') * on.constants.attentionEfficiency[software.attention] * clockShare(on.powerShare)
    const seconds = flops / rate
    const gap = on.constants.kernelGap
    // Backward: five products to forward's two.
    return {
      forward: { ...NOTHING, products: seconds + gap },
      backward: { ...NOTHING, products: 2.5 * seconds + 2 * gap },
    }
  }
  const scoreProduct = gemmSeconds(on, queries, keys, keyDim, 'bf16', count)
  const valueProduct = gemmSeconds(on, queries, valueDim, keys, 'bf16', count)
  const scoreBytes = count * queries * keys * WIDTH
  // Softmax reads and writes; dropout reads, and writes values and a mask of one byte.
  const softmax = 2 + (software.hasDropout ? 2.5 : 0)
  const softmaxBackward = 3 + (software.hasDropout ? 2.5 : 0)
  const kernels = software.hasDropout ? 2 : 1
  return {
    forward: {
      ...NOTHING,
      products: scoreProduct + valueProduct,
      memory: memorySeconds(on, softmax * scoreBytes) + kernels * on.constants.kernelGap,
    },
    backward: {
      ...NOTHING,
      products: 2 * (scoreProduct + valueProduct),
      memory: memorySeconds(on, softmaxBackward * scoreBytes) + kernels * on.constants.kernelGap,
    },
  }
}

/** Bytes that element-wise operations move, in as few kernels as fusion allows. */
function elementwiseBytes(
  { model, layout, software }: Setting,
  isSparse: boolean,
): { forward: number; backward: number } {
  const t = layout.tensorParallel
  const rows = tokensOf(layout)
  const residual = (rows * model.hiddenSize * WIDTH) / (software.hasSequenceParallel ? t : 1)
  const heads = (model.numAttentionHeads * model.headDim * WIDTH * rows) / t
  const keys = (2 * model.numKeyValueHeads * model.headDim * WIDTH * rows) / t
  const { experts } = model
  const width =
    isSparse && experts !== undefined
      ? experts.sharedIntermediateSize + experts.active * experts.intermediateSize
      : model.intermediateSize
  const inner = (rows * width * WIDTH) / t
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
function weightSumBytes(products: readonly Product[], { gradientSumBytes }: Software): number {
  const elements = products.reduce((total, { depth, columns, count = 1 }) => total + count * depth * columns, 0)
  return elements * (WIDTH + 2 * gradientSumBytes)
}

/** Tensor parallel: two all-reduces of the activations a pass, or as many bytes in gathers and scatters. */
function tensorSeconds({ model, layout, on, software }: Setting): number {
  if (layout.tensorParallel === 1) return 0
  const group = groupOf(on, layout.tensorParallel, 1)
  const bytes = tokensOf(layout) * model.hiddenSize * WIDTH
  if (!software.hasSequenceParallel) return 2 * allReduceSeconds(on, bytes, group)
  return 2 * (allGatherSeconds(on, bytes, group) + reduceScatterSeconds(on, bytes, group))
}

/** Context parallel: keys and values of the whole sequence are gathered; their gradients are scattered. */
function contextSeconds({ model, layout, on }: Setting): number {
  if (layout.contextParallel === 1) return 0
  const group = groupOf(on, layout.contextParallel, layout.tensorParallel)
  const heads = Math.max(1, model.numKeyValueHeads / layout.tensorParallel)
  return allGatherSeconds(on, layout.microBatchSize * layout.seqLen * 2 * heads * model.headDim * WIDTH, group)
}

/** Expert parallel: tokens to their experts and back. */
function dispatchSeconds({ model, layout, on }: Setting): number {
  if (layout.expertParallel === 1) return 0
  const group = groupOf(on, layout.expertParallel, layout.tensorParallel * layout.contextParallel)
  const bytes = (tokensOf(layout) * model.experts!.active * model.hiddenSize * WIDTH) / layout.tensorParallel
  return 2 * allToAllSeconds(on, bytes, group)
}

/** Communication beside products: what is longer counts, and it slows the products. */
function hideTensor(on: Cluster, phase: Phase): Phase {
  const { communication, products } = phase
  const cost = on.constants.overlapCost * Math.min(communication, products)
  return { ...phase, communication: Math.max(0, communication - products) + cost }
}

/** The embedding's look-up: forward reads and writes a row a token, backward adds one. */
export function embeddingTime({ model, layout, on, software }: Setting): LayerTime {
  const bytes = tokensOf(layout) * model.hiddenSize * WIDTH
  const group = groupOf(on, layout.tensorParallel, 1)
  const reduce = layout.tensorParallel === 1 ? 0 : allReduceSeconds(on, bytes, group)
  const dropout = software.hasDropout ? 2.5 : 0
  const gap = on.constants.kernelGap
  return {
    forward: { products: 0, memory: memorySeconds(on, (2 + dropout) * bytes) + gap, communication: reduce },
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
  const reduce = layout.tensorParallel === 1 ? 0 : allReduceSeconds(on, rows * depth * WIDTH, group)
  const slow = software.isFused ? 1 : UNFUSED_PASSES
  return {
    forward: {
      products: gemmSeconds(on, rows, columns, depth),
      // To f32, its maximum, exponentials and their sum.
      memory: memorySeconds(on, slow * 18 * logits),
      communication: software.hasSequenceParallel ? reduce / 2 : 0,
    },
    backwardInput: {
      products: gemmSeconds(on, rows, depth, columns),
      memory: memorySeconds(on, slow * 14 * logits),
      communication: reduce,
    },
    backwardWeight: {
      products: gemmSeconds(on, depth, columns, rows),
      memory: memorySeconds(on, depth * columns * (WIDTH + 2 * software.gradientSumBytes)),
      communication: 0,
    },
  }
}
