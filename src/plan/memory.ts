// Memory of one device in training, by component, for any way to cut the model over devices: the closed forms of ZeRO
// (Rajbhandari et al. 2020, arXiv:1910.02054), of Megatron's activations (activations.ts) and of QLoRA (arXiv:2305.14314).
import {
  type ActivationSetup,
  headActivations,
  keptBytes,
  type LayerActivations,
  layerActivations,
} from './activations.ts'
import {
  type Architecture,
  attentionParameters,
  countParameters,
  mlpParameters,
  normParameters,
  normParametersOfLayer,
} from './architecture.ts'
import { checkParallelism, type Parallelism } from './parallel.ts'
import {
  type AdapterSetup,
  FROZEN_BITS,
  OPTIMIZERS,
  type OptimizerName,
  PRECISIONS,
  type PrecisionName,
} from './precision.ts'

export interface MemorySetup extends Omit<ActivationSetup, 'bytes'> {
  readonly precision: PrecisionName
  readonly optimizer: OptimizerName
  readonly parallelism: Parallelism
  /** Micro-batches of a step on each copy of the model: so many, at most, are in flight in a pipeline. */
  readonly microBatches: number
  /** Absent: every parameter is trained. */
  readonly adapter?: AdapterSetup
}

/** Bytes of the device that needs the most. */
export interface DeviceMemory {
  /** As products read them; frozen ones included. */
  readonly weights: number
  readonly masters: number
  readonly gradients: number
  /** Moments. */
  readonly optimizer: number
  readonly activations: number
  /** Of the last stage, in fp32. */
  readonly logits: number
  /** Whole layers that ZeRO 3 gathers: the one that computes and the next. */
  readonly gathered: number
  readonly total: number
}

export const MEMORY_PARTS = [
  'weights',
  'masters',
  'gradients',
  'optimizer',
  'activations',
  'logits',
  'gathered',
] as const satisfies readonly (keyof DeviceMemory)[]

/** Parameters on one device: those in matrices of layers, of experts, and the rest (embeddings, norms, biases, head). */
interface Share {
  readonly matrices: number
  readonly expertMatrices: number
  readonly rest: number
}

/**
 * Memory of the stage that needs the most: the first holds the activations of most micro-batches and the embedding, the
 * last the head and the logits.
 * @throws ConfigError for cuts that are not possible
 */
export function deviceMemory(model: Architecture, setup: MemorySetup): DeviceMemory {
  checkParallelism(model, setup.seqLen, setup.parallelism)
  const { pipeline } = setup.parallelism
  const first = stageMemory(model, setup, 0)
  const last = pipeline === 1 ? first : stageMemory(model, setup, pipeline - 1)
  return first.total >= last.total ? first : last
}

/** One stage of the pipeline, from 0. */
export function stageMemory(model: Architecture, setup: MemorySetup, stage: number): DeviceMemory {
  const share = stageShare(model, setup.parallelism, stage)
  const states = setup.adapter === undefined ? trainedStates(share, setup) : adapterStates(model, share, setup)
  const activations = stageActivations(model, setup, stage)
  const { zeroStage, data, context } = setup.parallelism
  const gathered = zeroStage === 3 && data * context > 1 ? gatheredBytes(model, setup) : 0
  const parts = { ...states, ...activations, gathered }
  return { ...parts, total: MEMORY_PARTS.reduce((sum, part) => sum + parts[part], 0) }
}

/** The first stages have one layer more where they do not divide. */
function stageLayers(layers: number, pipeline: number, stage: number): { first: number; count: number } {
  const [least, more] = [Math.floor(layers / pipeline), layers % pipeline]
  return { first: stage * least + Math.min(stage, more), count: least + (stage < more ? 1 : 0) }
}

function moeLayersIn({ experts }: Architecture, first: number, count: number): number {
  return experts === undefined ? 0 : Math.max(0, first + count - Math.max(first, experts.denseLayers))
}

function stageShare(model: Architecture, { tensor, pipeline, expert }: Parallelism, stage: number): Share {
  const { first, count } = stageLayers(model.numHiddenLayers, pipeline, stage)
  const moe = moeLayersIn(model, first, count)
  const { experts } = model
  const { embedding, positions, router } = countParameters(model)
  const shared = experts?.sharedIntermediateSize ?? 0
  const weights = { ...model, hasMlpBias: false, attentionBias: 'none' } as const
  const mlp = (width: number): number => (width === 0 ? 0 : mlpParameters(weights, width))
  const matrices =
    count * attentionParameters(weights) + (count - moe) * mlp(model.intermediateSize) + moe * mlp(shared)
  const expertMatrices = moe * (experts?.count ?? 0) * mlp(experts?.intermediateSize ?? 0)
  const biases =
    count * attentionParameters(model) +
    (count - moe) * mlpParameters(model, model.intermediateSize) +
    moe * (shared === 0 ? 0 : mlpParameters(model, shared)) -
    matrices
  const moeLayers = moeLayersIn(model, 0, model.numHiddenLayers)
  const routers = moeLayers === 0 ? 0 : (router * moe) / moeLayers
  const isFirst = stage === 0
  const isLast = stage === pipeline - 1
  // A tied head on another stage than the embedding is a copy of it.
  const tables = (isFirst ? embedding : 0) + (isLast && (!model.tieWordEmbeddings || !isFirst) ? embedding : 0)
  const norms = count * normParametersOfLayer(model) + (isLast ? normParameters(model) : 0)
  return {
    matrices: matrices / tensor,
    expertMatrices: expertMatrices / expert / tensor,
    rest: (tables + biases) / tensor + norms + routers + (isFirst ? positions : 0),
  }
}

type States = Pick<DeviceMemory, 'weights' | 'masters' | 'gradients' | 'optimizer'>

/** Devices that a ZeRO stage cuts over: of experts, those that have the same ones. */
function shards({ data, context, expert, zeroStage }: Parallelism, from: 1 | 2 | 3) {
  const isCut = zeroStage >= from
  return { dense: isCut ? data * context : 1, experts: isCut ? (data * context) / expert : 1 }
}

function trainedStates(share: Share, { precision, optimizer, parallelism }: MemorySetup): States {
  const { weightBytes, gradientBytes, masterBytes } = PRECISIONS[precision]
  const states = OPTIMIZERS[optimizer]
  const cut = (bytes: number, restBytes: number, from: 1 | 2 | 3): number => {
    const { dense, experts } = shards(parallelism, from)
    return (share.matrices * bytes + share.rest * restBytes) / dense + (share.expertMatrices * bytes) / experts
  }
  return {
    weights: cut(weightBytes, weightBytes, 3),
    masters: cut(masterBytes, masterBytes, 1),
    gradients: cut(gradientBytes, gradientBytes, 2),
    optimizer: cut(states.matrix, states.rest, 1),
  }
}

/** Frozen matrices in few bits, the rest of the model in bf16, and adapters trained as the recipe says. */
function adapterStates(model: Architecture, share: Share, setup: MemorySetup): States {
  const { rank, base } = setup.adapter!
  const { dense, experts } = shards(setup.parallelism, 3)
  const frozenBytes = FROZEN_BITS[base] / 8
  const frozen =
    (share.matrices * frozenBytes + share.rest * 2) / dense + (share.expertMatrices * frozenBytes) / experts
  const whole = countParameters(model)
  const ofStage = (share.matrices + share.expertMatrices) / (whole.attention + whole.mlp + whole.experts)
  const trained = { matrices: adapterParameters(model, rank) * ofStage, expertMatrices: 0, rest: 0 }
  const states = trainedStates(trained, setup)
  return { ...states, weights: states.weights + frozen }
}

/**
 * Parameters of adapters of a rank on every matrix of every layer: rank x (inputs + outputs) each.
 * @param expertsOfLayer  routed experts that count: all, or those that a token goes through
 */
export function adapterParameters(
  model: Architecture,
  rank: number,
  expertsOfLayer: number = model.experts?.count ?? 0,
): number {
  const { hiddenSize, headDim, numAttentionHeads: heads, numKeyValueHeads: kvHeads, experts } = model
  const queries = heads * headDim
  const attention = 2 * (hiddenSize + queries) + 2 * (hiddenSize + kvHeads * headDim)
  const mlp = (width: number): number => (model.isGated ? 3 : 2) * (hiddenSize + width)
  const moe = moeLayersIn(model, 0, model.numHiddenLayers)
  const routed = expertsOfLayer * mlp(experts?.intermediateSize ?? 0)
  const layers = model.numHiddenLayers
  return rank * (layers * attention + (layers - moe) * mlp(model.intermediateSize) + moe * routed)
}

function stageActivations(
  model: Architecture,
  setup: MemorySetup,
  stage: number,
): Pick<DeviceMemory, 'activations' | 'logits'> {
  const { parallelism, microBatches } = setup
  const { pipeline, virtualStages } = parallelism
  const activationSetup = { ...setup, bytes: PRECISIONS[setup.precision].activationBytes }
  const { first, count } = stageLayers(model.numHiddenLayers, pipeline, stage)
  const moe = moeLayersIn(model, first, count)
  const dense = layerActivations(model, activationSetup, parallelism)
  const withExperts = moe > 0 ? layerActivations(model, activationSetup, parallelism, true) : dense
  const perMicroBatch =
    (count - moe) * keptBytes(dense, activationSetup) + moe * keptBytes(withExperts, activationSetup)
  // One-forward-one-backward: the first stage has as many micro-batches in flight as there are stages, the last has one;
  // interleaving adds a part of a stage (arXiv:2205.05198, section 4.2.3).
  const interleaved = virtualStages > 1 ? (pipeline - 1) / virtualStages : 0
  const inFlight = Math.min(pipeline - stage + (stage === 0 ? interleaved : 0), microBatches)
  const largest = moe > 0 && withExperts.total > dense.total ? withExperts : dense
  const isLast = stage === pipeline - 1
  const head = isLast ? headActivations(model, activationSetup, parallelism) : { inputs: 0, logits: 0 }
  return {
    activations: inFlight * perMicroBatch + head.inputs + workingBytes(largest, activationSetup),
    logits: head.logits,
  }
}

/** While a layer's backward runs, what was dropped of it is there again. */
function workingBytes(layer: LayerActivations, setup: ActivationSetup): number {
  return layer.total - keptBytes(layer, setup)
}

function gatheredBytes(model: Architecture, { parallelism, precision, adapter }: MemorySetup): number {
  const { attention, mlp, experts, norms, router } = countParameters(model)
  const layer = (attention + mlp + norms + router + experts / parallelism.expert) / model.numHiddenLayers
  const bytes = adapter === undefined ? PRECISIONS[precision].weightBytes : FROZEN_BITS[adapter.base] / 8
  return (2 * layer * bytes) / parallelism.tensor
}
