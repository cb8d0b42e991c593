// Llamas of wanted numbers of parameters for a sweep. All of its models have the same layers, so that width alone changes:
// a whole layer more or less would be a step in the law. The width of the MLP takes up what the width of the model leaves,
// so that sizes lie where the sweep wants them, to about a per cent.
import { type Architecture, architecture, countParameters } from '../architecture.ts'

export interface ModelShape {
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly numHiddenLayers: number
  readonly numAttentionHeads: number
}

/** Width for each layer of the usual shape; 64 for larger models (train/settings.ts). */
const WIDTH_PER_LAYER = 32
/** One layer cannot look up what followed an earlier token: its losses lie on another curve. */
const LEAST_LAYERS = 2
/** Width of the MLP for each width of the model, as SwiGLU's three matrices want it; and what is still sensible. */
const [MLP_RATIO, LOWEST_RATIO, HIGHEST_RATIO] = [8 / 3, 1, 5]
const MLP_STEP = 8
const WIDTHS = [16, 32, 48, 64, 96, 128, 160, 192, 224, ...Array.from({ length: 125 }, (_, i) => 256 + 64 * i)]
const LARGEST_MISS = 0.02

/** Heads are 16 or 32 wide in narrow models, 64 in the others. */
function headsOf(hiddenSize: number): number {
  if (hiddenSize >= 256) return hiddenSize / 64
  return hiddenSize % 32 === 0 ? hiddenSize / 32 : hiddenSize / 16
}

export function shapeArchitecture(shape: ModelShape, vocabSize: number, name = 'sweep'): Architecture {
  return architecture({ name, vocabSize, ...shape, tieWordEmbeddings: true })
}

/** Embeddings counted once, as they are shared with the head. */
export function shapeParameters(shape: ModelShape, vocabSize: number): number {
  return countParameters(shapeArchitecture(shape, vocabSize)).total
}

/** Layers of a model of usual proportions. @returns undefined when the vocabulary leaves no room for layers */
export function depthOf(parameters: number, vocabSize: number): number | undefined {
  let best: { layers: number; miss: number } | undefined
  for (const hiddenSize of WIDTHS) {
    const layers = Math.max(LEAST_LAYERS, Math.round(hiddenSize / WIDTH_PER_LAYER))
    const shape = {
      hiddenSize,
      numHiddenLayers: layers,
      numAttentionHeads: headsOf(hiddenSize),
      intermediateSize: MLP_STEP * Math.max(1, Math.round((MLP_RATIO * hiddenSize) / MLP_STEP)),
    }
    const miss = Math.abs(Math.log(shapeParameters(shape, vocabSize) / parameters))
    if (best === undefined || miss < best.miss) best = { layers, miss }
  }
  return best !== undefined && best.miss < 1 ? best.layers : undefined
}

/** The model of so many parameters and layers whose MLP is nearest to usual proportions; undefined when there is none. */
export function shapeOf(parameters: number, vocabSize: number, numHiddenLayers: number): ModelShape | undefined {
  let best: { shape: ModelShape; cost: number } | undefined
  for (const hiddenSize of WIDTHS) {
    if (vocabSize * hiddenSize >= parameters) break
    const narrow = { hiddenSize, numHiddenLayers, numAttentionHeads: headsOf(hiddenSize), intermediateSize: MLP_STEP }
    const rest = parameters - shapeParameters(narrow, vocabSize)
    const intermediateSize = MLP_STEP * (1 + Math.round(rest / (3 * hiddenSize * MLP_STEP * numHiddenLayers)))
    const ratio = intermediateSize / hiddenSize
    if (ratio < LOWEST_RATIO || ratio > HIGHEST_RATIO) continue
    const shape = { ...narrow, intermediateSize }
    if (Math.abs(shapeParameters(shape, vocabSize) / parameters - 1) > LARGEST_MISS) continue
    const cost = Math.abs(Math.log(ratio / MLP_RATIO))
    if (best === undefined || cost < best.cost) best = { shape, cost }
  }
  return best?.shape
}
