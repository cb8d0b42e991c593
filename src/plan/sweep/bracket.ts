// The lowest point of a noisy curve with one valley, such as loss against the logarithm of a learning rate: three trials
// an octave apart, more on the side where the lowest is the last, and a parabola through the lowest three.
import { fitParabola } from '../scaling/statistics.ts'

export interface Trial {
  /** log2 of the quantity. */
  readonly x: number
  readonly loss: number
}

export interface Valley {
  readonly trials: readonly Trial[]
  /** log2 of the best value. */
  readonly x: number
  readonly loss: number
  /** Between which values (log2) the parabola loses less than half a per cent; undefined without a parabola. */
  readonly flat: { readonly low: number; readonly high: number } | undefined
}

const FLAT = 0.005
const MOST_EXTENSIONS = 4

/**
 * @param losses  of the trials at these points (log2), made at once; undefined ends the search
 * @param range   of log2 values that are possible
 */
export async function searchValley(
  losses: (x: readonly number[]) => Promise<readonly number[] | undefined>,
  start: number,
  range: { low: number; high: number },
): Promise<Valley | undefined> {
  const isPossible = (x: number): boolean => x >= range.low - 1e-9 && x <= range.high + 1e-9
  const trials: Trial[] = []
  const tryAt = async (points: readonly number[]): Promise<boolean> => {
    const values = await losses(points)
    if (values === undefined) return false
    for (const [i, x] of points.entries()) trials.push({ x, loss: values[i]! })
    trials.sort((a, b) => a.x - b.x)
    return true
  }
  const middle = Math.min(range.high, Math.max(range.low, start))
  if (!(await tryAt([middle - 1, middle, middle + 1].filter(isPossible)))) return undefined
  for (let k = 0; k < MOST_EXTENSIONS; k++) {
    const best = lowestOf(trials)
    const next = best === 0 ? trials[0]!.x - 1 : best === trials.length - 1 ? trials.at(-1)!.x + 1 : undefined
    if (next === undefined || !isPossible(next)) break
    if (!(await tryAt([next]))) return undefined
  }
  return valleyOf(trials)
}

function lowestOf(trials: readonly Trial[]): number {
  return trials.reduce((best, trial, i) => (trial.loss < trials[best]!.loss ? i : best), 0)
}

/** @param trials  in order of x */
export function valleyOf(trials: readonly Trial[]): Valley {
  const best = lowestOf(trials)
  const { x, loss } = trials[best]!
  const near = trials.slice(Math.max(0, best - 1), best + 2).filter((trial) => Number.isFinite(trial.loss))
  const parabola = fitParabola(
    near.map((trial) => trial.x),
    near.map((trial) => trial.loss),
  )
  if (near.length < 3 || parabola === undefined || !(parabola[2] > 0)) return { trials, x, loss, flat: undefined }
  const [c0, c1, c2] = parabola
  const lowest = -c1 / (2 * c2)
  const least = c0 - (c1 * c1) / (4 * c2)
  const reach = Math.sqrt((FLAT * least) / c2)
  return { trials, x: lowest, loss: least, flat: { low: lowest - reach, high: lowest + reach } }
}
