// Llamas for a sweep: a ladder of widths 3 to 7 times a unit, and larger models of the same family. All have the same
// layers, the same width of a head and the same proportion of the MLP, so that width alone changes: a whole layer more or
// less, or an MLP of other proportions, would be a step in the law.
import { invariant } from '../../core/errors.ts'
import { type Architecture, architecture, countParameters } from '../architecture.ts'

export interface ModelShape {
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly numHiddenLayers: number
  readonly numAttentionHeads: number
}

/** What the models of a sweep have in common. */
export interface ModelFamily {
  readonly numHiddenLayers: number
  readonly headDim: number
}

/** Two heads at least: a model of width 32 with one head of 32 lost 5 % to one of width 48 with three of 16. */
const LADDER = [3, 4, 5, 6, 7]
export const [LEAST_UNIT, LARGEST_UNIT] = [8, 1024]
/** Layers by width; one layer cannot look up what followed an earlier token: its losses lie on another curve. */
const [WIDTH_PER_LAYER, LEAST_LAYERS] = [40, 2]
/** Width of the MLP for each width of the model, as SwiGLU's three matrices want it; and what is still sensible. */
const [MLP_RATIO, LOWEST_RATIO, HIGHEST_RATIO] = [8 / 3, 1, 5]
const MLP_STEP = 8
const LARGEST_MISS = 0.02

/** @param unit  a multiple of 8 */
export function familyOf(unit: number): ModelFamily {
  const headDim = [64, 32, 16, 8].find((candidate) => unit % candidate === 0)
  invariant(headDim !== undefined, `the unit of a sweep's widths is ${unit}`)
  return { headDim, numHiddenLayers: Math.max(LEAST_LAYERS, Math.round((4 * unit) / WIDTH_PER_LAYER)) }
}

/** The models of a sweep, the smallest first. */
export function ladderOf(unit: number): ModelShape[] {
  const { headDim, numHiddenLayers } = familyOf(unit)
  return LADDER.map((factor) => {
    const hiddenSize = factor * unit
    const intermediateSize = MLP_STEP * Math.round((MLP_RATIO * hiddenSize) / MLP_STEP)
    return { hiddenSize, intermediateSize, numHiddenLayers, numAttentionHeads: hiddenSize / headDim }
  })
}

export function shapeArchitecture(shape: ModelShape, vocabSize: number, name = 'sweep'): Architecture {
  return architecture({ name, vocabSize, ...shape, tieWordEmbeddings: true })
}

/** Embeddings counted once, as they are shared with the head. */
export function shapeParameters(shape: ModelShape, vocabSize: number): number {
  return countParameters(shapeArchitecture(shape, vocabSize)).total
}

/** The model of so many parameters whose MLP is nearest to usual proportions, to 2 %; undefined when there is none. */
export function shapeOf(
  parameters: number,
  vocabSize: number,
  { numHiddenLayers, headDim }: ModelFamily,
): ModelShape | undefined {
  let best: { shape: ModelShape; cost: number } | undefined
  for (let hiddenSize = headDim; vocabSize * hiddenSize < parameters; hiddenSize += headDim) {
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
