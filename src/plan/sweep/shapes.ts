// Llamas of wanted numbers of parameters for a sweep. All of its models have the same layers and the same width of a head,
// so that width alone changes: a whole layer more or less would be a step in the law. The width of the MLP takes up what the width of the model leaves,
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

/** What the models of a sweep have in common. */
export interface ModelFamily {
  readonly numHiddenLayers: number
  readonly headDim: number
}

/** The first that leaves the smallest model two heads: with one of 32 a width of 32 lost 5 % to a width of 48 with three. */
const HEAD_DIMS = [64, 32, 16]
const LEAST_HEADS = 2

export function shapeArchitecture(shape: ModelShape, vocabSize: number, name = 'sweep'): Architecture {
  return architecture({ name, vocabSize, ...shape, tieWordEmbeddings: true })
}

/** Embeddings counted once, as they are shared with the head. */
export function shapeParameters(shape: ModelShape, vocabSize: number): number {
  return countParameters(shapeArchitecture(shape, vocabSize)).total
}

/** The common layers and heads for models of these sizes, rising; undefined when the vocabulary leaves them no room. */
export function familyOf(sizes: readonly number[], vocabSize: number): ModelFamily | undefined {
  const numHiddenLayers = usualLayers(sizes[Math.floor(sizes.length / 2)]!, vocabSize)
  for (const headDim of HEAD_DIMS) {
    const family = { numHiddenLayers, headDim }
    const shapes = sizes.map((parameters) => shapeOf(parameters, vocabSize, family))
    if (shapes.every((shape) => shape !== undefined) && shapes[0]!.numAttentionHeads >= LEAST_HEADS) return family
  }
  return undefined
}

/** Layers of a model of usual proportions. */
function usualLayers(parameters: number, vocabSize: number): number {
  let best = { layers: LEAST_LAYERS, miss: Number.POSITIVE_INFINITY }
  for (const hiddenSize of WIDTHS) {
    const layers = Math.max(LEAST_LAYERS, Math.round(hiddenSize / WIDTH_PER_LAYER))
    const shape = {
      hiddenSize,
      numHiddenLayers: layers,
      numAttentionHeads: 1,
      intermediateSize: MLP_STEP * Math.max(1, Math.round((MLP_RATIO * hiddenSize) / MLP_STEP)),
    }
    const miss = Math.abs(Math.log(shapeParameters(shape, vocabSize) / parameters))
    if (miss < best.miss) best = { layers, miss }
  }
  return best.layers
}

/** The model of so many parameters whose MLP is nearest to usual proportions; undefined when there is none. */
export function shapeOf(
  parameters: number,
  vocabSize: number,
  { numHiddenLayers, headDim }: ModelFamily,
): ModelShape | undefined {
  let best: { shape: ModelShape; cost: number } | undefined
  for (const hiddenSize of WIDTHS) {
    if (hiddenSize % headDim !== 0) continue
    if (vocabSize * hiddenSize >= parameters) break
    const narrow = { hiddenSize, numHiddenLayers, numAttentionHeads: hiddenSize / headDim, intermediateSize: MLP_STEP }
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
