// Approach 1 of Hoffmann et al. 2022: over the loss curves of many runs, the lowest loss reached with each amount of
// compute, and the size of the model that reached it; then a power law of that size against compute.
import { DataError } from '../../core/errors.ts'
import { fitPowerLaw, type PowerLaw } from './isoflop.ts'

/** A run's loss as it trains, tokens rising. */
export interface LossCurve {
  readonly parameters: number
  /** FLOPs of training for each token: 6 N, or what the run counts. */
  readonly flopsPerToken: number
  readonly tokens: readonly number[]
  readonly loss: readonly number[]
}

export interface EnvelopePoint {
  readonly flops: number
  readonly parameters: number
  readonly tokens: number
  readonly loss: number
}

export interface EnvelopeFit {
  readonly envelope: readonly EnvelopePoint[]
  readonly parameters: PowerLaw
  readonly tokens: PowerLaw
}

/** Hoffmann et al. look at 1500 amounts of compute; curves are smoothed before. */
const LOOKS = 1500

/**
 * @param curves  each smoothed already (smoothCurve)
 * @throws DataError when one size has the lowest loss everywhere
 */
export function fitEnvelope(curves: readonly LossCurve[], looks = LOOKS): EnvelopeFit {
  const starts = curves.map((curve) => curve.tokens[0]! * curve.flopsPerToken)
  const ends = curves.map((curve) => curve.tokens.at(-1)! * curve.flopsPerToken)
  const [low, high] = [Math.log(Math.min(...starts)), Math.log(Math.max(...ends))]
  const envelope: EnvelopePoint[] = []
  for (let k = 0; k < looks; k++) {
    const flops = Math.exp(low + ((high - low) * k) / (looks - 1))
    let best: EnvelopePoint | undefined
    for (const curve of curves) {
      const tokens = flops / curve.flopsPerToken
      const loss = lossAt(curve, tokens)
      if (loss !== undefined && (best === undefined || loss < best.loss)) {
        best = { flops, parameters: curve.parameters, tokens, loss }
      }
    }
    if (best !== undefined) envelope.push(best)
  }
  // The smallest and largest models are the lowest where no smaller or larger one was run: they say nothing.
  const sizes = envelope.map((point) => point.parameters)
  const [smallest, largest] = [Math.min(...sizes), Math.max(...sizes)]
  const inner = envelope.filter((point) => point.parameters > smallest && point.parameters < largest)
  const used = new Set(inner.map((point) => point.parameters)).size >= 2 ? inner : envelope
  if (new Set(used.map((point) => point.parameters)).size < 2) {
    throw new DataError(
      `envelope: one size (${smallest} parameters) has the lowest loss at every compute: run smaller and larger models`,
    )
  }
  const flops = used.map((point) => point.flops)
  return {
    envelope,
    parameters: fitPowerLaw(
      flops,
      used.map((point) => point.parameters),
    ),
    tokens: fitPowerLaw(
      flops,
      used.map((point) => point.tokens),
    ),
  }
}

/** Straight between the curve's points in log tokens; undefined outside of them. */
export function lossAt({ tokens, loss }: LossCurve, at: number): number | undefined {
  const last = tokens.length - 1
  if (!(at >= tokens[0]! && at <= tokens[last]!)) return undefined
  let [low, high] = [0, last]
  while (high - low > 1) {
    const middle = (low + high) >>> 1
    if (tokens[middle]! <= at) low = middle
    else high = middle
  }
  if (low === high) return loss[low]
  const share = Math.log(at / tokens[low]!) / Math.log(tokens[high]! / tokens[low]!)
  return loss[low]! + share * (loss[high]! - loss[low]!)
}

/** Mean of the losses within a part of the tokens before and after: as wide as the curve is long. */
export function smoothCurve(curve: LossCurve, part = 0.05): LossCurve {
  const { tokens, loss } = curve
  let [from, to, sum] = [0, 0, 0]
  const smooth = tokens.map((at) => {
    while (to < tokens.length && tokens[to]! <= at * (1 + part)) sum += loss[to++]!
    while (tokens[from]! < at / (1 + part)) sum -= loss[from++]!
    return sum / (to - from)
  })
  return { ...curve, loss: smooth }
}
