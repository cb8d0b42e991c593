// One training run of a sweep: what is trained, on how much, how, and what it is for.

import { trainingFlopsPerToken } from '../flops.ts'
import { type ModelShape, shapeArchitecture, shapeParameters } from './shapes.ts'

/** grid: a point of the fit. lr, batch: looks for a good value. shape: width against depth. target: predicted, then run. */
export type RunRole = 'grid' | 'lr' | 'batch' | 'shape' | 'target'

export interface RunSpec {
  /** Also the name of the run's folder: equal runs have equal names. */
  readonly id: string
  readonly role: RunRole
  readonly shape: ModelShape
  readonly parameters: number
  readonly steps: number
  readonly batchTokens: number
  readonly lr: number
  readonly seed: number
}

export interface SweepSetting {
  readonly vocabSize: number
  readonly seqLen: number
  readonly seed: number
}

export function runSpec(
  role: RunRole,
  shape: ModelShape,
  { tokens, batchTokens, lr }: { tokens: number; batchTokens: number; lr: number },
  { vocabSize, seed }: SweepSetting,
): RunSpec {
  const parameters = shapeParameters(shape, vocabSize)
  const steps = Math.max(1, Math.round(tokens / batchTokens))
  const size = `${shape.hiddenSize}x${shape.numHiddenLayers}x${shape.intermediateSize}`
  const id = `${size}-${steps}x${batchTokens}-lr${lr.toPrecision(3)}`
  return { id, role, shape, parameters, steps, batchTokens, lr: Number(lr.toPrecision(3)), seed }
}

export function tokensOf({ steps, batchTokens }: RunSpec): number {
  return steps * batchTokens
}

/** FLOPs of a token in training, attention included: what a budget pays for. Laws go by 6 N D. */
export function flopsPerToken(shape: ModelShape, { vocabSize, seqLen }: SweepSetting): number {
  return trainingFlopsPerToken(shapeArchitecture(shape, vocabSize), seqLen).model
}
