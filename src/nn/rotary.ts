// Rotary embedding tables: cosines and sines of every position and frequency, with the published scalings for longer
// contexts. Angles are computed in float32 steps as Hugging Face does, because that is what models were trained with.
import { ConfigError } from '../core/errors.ts'
import { Constant } from '../core/parameter.ts'

/** Hugging Face's `rope_scaling` of config.json, in camelCase. */
export type RopeScaling =
  | { ropeType: 'default' }
  | { ropeType: 'linear'; factor: number }
  | {
      ropeType: 'llama3'
      factor: number
      lowFreqFactor: number
      highFreqFactor: number
      originalMaxPositionEmbeddings: number
    }

/**
 * Frequencies of the headDim / 2 pairs, float32 values: theta^(-2i/headDim), then scaled.
 * 'linear' divides all by `factor` (Chen et al. 2023, arXiv:2306.15595); 'llama3' leaves short wavelengths, divides
 * long ones and blends between (Llama 3 herd, arXiv:2407.21783, as in transformers' modeling_rope_utils).
 */
export function rotaryFrequencies(headDim: number, theta: number, scaling?: RopeScaling): Float32Array {
  const half = headDim / 2
  const frequencies = new Float32Array(half)
  for (let i = 0; i < half; i++) {
    frequencies[i] = Math.fround(1 / Math.fround(Math.fround(theta) ** Math.fround((2 * i) / headDim)))
  }
  if (scaling === undefined || scaling.ropeType === 'default') return frequencies
  if (scaling.ropeType === 'linear') return frequencies.map((f) => f / scaling.factor)
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings: original } = scaling
  if (!(highFreqFactor > lowFreqFactor)) {
    throw new ConfigError(
      `ropeScaling: highFreqFactor must be above lowFreqFactor, got ${highFreqFactor} and ${lowFreqFactor}`,
    )
  }
  return frequencies.map((f) => {
    const wavelength = (2 * Math.PI) / f
    if (wavelength < original / highFreqFactor) return f
    if (wavelength > original / lowFreqFactor) return f / factor
    const smooth = (original / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor)
    return ((1 - smooth) * f) / factor + smooth * f
  })
}

/** A quarter of a million positions of heads of 128: about a second's work and 64 MiB in float32, twice. */
const MAX_TABLE_ELEMENTS = 2 ** 24

/** cos and sin tables [maxPositions, headDim / 2] as constants of a model. */
export class RotaryEmbedding {
  readonly cos: Constant
  readonly sin: Constant

  /** @throws ConfigError for tables that would take seconds to compute, whatever is then generated */
  constructor(headDim: number, maxPositions: number, theta: number, scaling?: RopeScaling) {
    if (maxPositions * (headDim / 2) > MAX_TABLE_ELEMENTS) {
      throw new ConfigError(
        `rotary positions: maxPositionEmbeddings x headDim / 2 must be at most ${MAX_TABLE_ELEMENTS}, got ${maxPositions} x ${headDim / 2}: lower max_position_embeddings`,
      )
    }
    const table = (f: (angle: number) => number) => () => {
      const frequencies = rotaryFrequencies(headDim, theta, scaling)
      const values = new Float32Array(maxPositions * frequencies.length)
      for (let position = 0; position < maxPositions; position++) {
        for (let i = 0; i < frequencies.length; i++) {
          values[position * frequencies.length + i] = f(Math.fround(position * frequencies[i]!))
        }
      }
      return values
    }
    this.cos = new Constant([maxPositions, headDim / 2], table(Math.cos))
    this.sin = new Constant([maxPositions, headDim / 2], table(Math.sin))
  }
}
