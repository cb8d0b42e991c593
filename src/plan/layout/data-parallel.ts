// What data- and context-parallel ranks exchange: gradients and, with ZeRO (arXiv:1910.02054), parameters; once a step, or in
// every micro-batch where a stage keeps no whole gradients (2) or parameters (3). Then the optimizer on its share of them.
import { type Architecture, attentionParameters, mlpParameters, normParametersOfLayer } from '../architecture.ts'
import { allGatherSeconds, allReduceSeconds, type Group, groupOf, reduceScatterSeconds } from './collectives.ts'
import { memorySeconds } from './gemm.ts'
import { layersByChunk } from './layout.ts'
import { type Phase, secondsOf } from './phase.ts'
import { type Setting, widthOf } from './setting.ts'

/** A chunk of layers in one micro-batch: its forward, gradients of inputs, gradients of weights. */
export interface ChunkPhases {
  readonly forward: Phase
  readonly input: Phase
  readonly weight: Phase
}

/** Parameters that the same ranks hold, on one device. */
interface Share {
  readonly parameters: number
  readonly group: Group
}

/** The fullest rank's, and of routed experts, of which fewer ranks hold the same. */
function sharesOf(setting: Setting): { dense: Share; experts: Share } {
  const { layout, on } = setting
  const ranks = layout.dataParallel * layout.contextParallel
  const { tensorParallel, expertParallel } = layout
  return {
    dense: { parameters: denseParameters(setting), group: groupOf(on, ranks, tensorParallel) },
    experts: {
      parameters: expertParameters(setting),
      group: groupOf(on, ranks / expertParallel, tensorParallel * expertParallel),
    },
  }
}

function denseParameters({ model, layout }: Setting): number {
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

function expertParameters({ model, layout }: Setting): number {
  const { experts } = model
  if (experts === undefined) return 0
  const layers = (model.numHiddenLayers - experts.denseLayers) / layout.pipelineParallel
  const expert = mlpParameters(model, experts.intermediateSize)
  return (layers * experts.count * expert) / layout.expertParallel / layout.tensorParallel
}

/**
 * ZeRO-3 gathers a layer's parameters before its forward and its backward; ZeRO-2 and -3 scatter its gradients after each
 * backward, since nobody has memory for a whole sum of them.
 */
export function withDataExchange(
  setting: Setting,
  phases: ChunkPhases,
  { layers, sparseLayers }: { layers: number; sparseLayers: number },
): ChunkPhases {
  const { model, layout, on, software } = setting
  if (layout.zeroStage < 2) return phases
  const { forward, input, weight } = phases
  const { dense, experts } = sharesOf(setting)
  const sparseModelLayers = model.numHiddenLayers - (model.experts?.denseLayers ?? 0)
  const pieces = [
    { count: layers, elements: (dense.parameters * layout.pipelineParallel) / model.numHiddenLayers, ...dense },
    { count: sparseLayers, elements: (experts.parameters * layout.pipelineParallel) / sparseModelLayers, ...experts },
  ].filter(({ count, elements }) => count > 0 && elements > 0)
  const inAll = (seconds: typeof allGatherSeconds, bytes: number): number =>
    pieces.reduce(
      (total, { count, elements, group }) =>
        total + count * seconds(on, bytes * elements, group, software.collectiveRails),
      0,
    )
  const gather = layout.zeroStage === 3 ? inAll(allGatherSeconds, widthOf(setting)) : 0
  const scatter = inAll(reduceScatterSeconds, software.gradientBytes)
  return {
    forward: beside(setting, forward, secondsOf(forward), gather),
    input: beside(setting, input, secondsOf(input) + secondsOf(weight), gather + scatter),
    weight,
  }
}

/** A phase with an exchange beside its work: the longer of the two, and what the exchange takes from the work. */
function beside({ on, software }: Setting, phase: Phase, work: number, seconds: number): Phase {
  const exposed = software.overlapsData
    ? Math.max(0, seconds - work) + on.constants.overlapCost * Math.min(seconds, work)
    : seconds
  return { ...phase, data: phase.data + exposed }
}

/**
 * Seconds of what is exchanged once a step and nothing hides.
 * @param hidden  seconds of work that it can run beside
 */
export function dataSeconds(setting: Setting, hidden: number): number {
  const { layout, on, software } = setting
  const once = ({ parameters, group }: Share): number => {
    if (parameters === 0 || layout.zeroStage === 3) return 0
    const gradientBytes = parameters * software.gradientBytes
    const { collectiveRails: rails } = software
    if (layout.zeroStage === 0) return allReduceSeconds(on, gradientBytes, group, rails)
    const scatter = layout.zeroStage === 1 ? reduceScatterSeconds(on, gradientBytes, group, rails) : 0
    return scatter + allGatherSeconds(on, widthOf(setting) * parameters, group, rails)
  }
  const { dense, experts } = sharesOf(setting)
  const seconds = once(dense) + once(experts)
  return Math.max(0, seconds - hidden) + on.constants.overlapCost * Math.min(seconds, hidden)
}

export function optimizerSeconds(setting: Setting): number {
  const { layout, on, software } = setting
  const shard = ({ parameters, group }: Share): number => parameters / (layout.zeroStage === 0 ? 1 : group.size)
  const { dense, experts } = sharesOf(setting)
  return memorySeconds(on, (shard(dense) + shard(experts)) * software.optimizerTraffic)
}
