// Approach 2 of Hoffmann et al. 2022: runs of equal compute and different sizes have a lowest loss; how its size grows with
// compute is a power law. The lowest point is that of a parabola in log N (Hoffmann et al.), or of Akima's interpolation
// between the runs with the scatter of seeds taken into account (Porian et al. 2024, arXiv:2406.19146).
import { DataError } from '../../core/errors.ts'
import { randomKey, randomNormalAt } from '../../core/random.ts'
import { interpolateAkima } from './akima.ts'
import { TRAINING_FLOPS } from './parametric-law.ts'
import type { RunPoint } from './points.ts'
import { fitLine, fitParabola, type Interval, quantile } from './statistics.ts'

/** Runs of one budget, in order of size. */
export interface IsoflopGroup {
  readonly flops: number
  readonly points: readonly RunPoint[]
}

export interface IsoflopOptimum {
  readonly flops: number
  readonly parameters: number
  readonly tokens: number
  readonly loss: number
}

/** optimum = coefficient * flops^exponent */
export interface PowerLaw {
  readonly exponent: number
  readonly coefficient: number
  readonly rSquared: number
  /** 95 %, from the scatter about the line, where there are three points or more. */
  readonly exponentInterval: Interval | undefined
}

export interface IsoflopFit {
  /** Budgets whose lowest loss lies between two sizes. */
  readonly optima: readonly IsoflopOptimum[]
  /** Budgets without one: their lowest loss is at the smallest or largest size that was run. */
  readonly without: readonly number[]
  readonly parameters: PowerLaw
  readonly tokens: PowerLaw
}

/**
 * Runs grouped by compute: budgets that differ by less than `tolerance` are one. Of several runs of a size the lowest loss
 * counts. Groups of fewer than 3 sizes are left out.
 */
export function isoflopGroups(points: readonly RunPoint[], tolerance = 0.1): IsoflopGroup[] {
  const sorted = [...points].sort((a, b) => a.flops - b.flops)
  const groups: RunPoint[][] = []
  for (const point of sorted) {
    const last = groups.at(-1)
    if (last !== undefined && point.flops <= last[0]!.flops * (1 + tolerance)) last.push(point)
    else groups.push([point])
  }
  return groups.flatMap((group) => {
    const best = new Map<number, RunPoint>()
    for (const point of group) {
      const other = best.get(point.parameters)
      if (other === undefined || point.loss < other.loss) best.set(point.parameters, point)
    }
    if (best.size < 3) return []
    const flops = Math.exp(group.reduce((sum, point) => sum + Math.log(point.flops), 0) / group.length)
    return [{ flops, points: [...best.values()].sort((a, b) => a.parameters - b.parameters) }]
  })
}

export type IsoflopMethod = 'parabola' | 'interpolation'

/** @throws DataError when fewer than two budgets have a lowest loss between their sizes */
export function fitIsoflops(groups: readonly IsoflopGroup[], method: IsoflopMethod = 'parabola'): IsoflopFit {
  const lowest = method === 'parabola' ? parabolaOptimum : interpolatedOptimum
  const optima: IsoflopOptimum[] = []
  const without: number[] = []
  for (const group of groups) {
    const optimum = lowest(group)
    if (optimum === undefined) without.push(group.flops)
    else optima.push(optimum)
  }
  if (optima.length < 2) {
    throw new DataError(
      `isoFLOP fit: expected a lowest loss between the sizes of at least 2 budgets, found ${optima.length} in ${groups.length} budgets; run smaller and larger models`,
    )
  }
  const flops = optima.map((optimum) => optimum.flops)
  return {
    optima,
    without,
    parameters: fitPowerLaw(
      flops,
      optima.map((optimum) => optimum.parameters),
    ),
    tokens: fitPowerLaw(
      flops,
      optima.map((optimum) => optimum.tokens),
    ),
  }
}

/** Sizes on each side of the lowest run that take part in the parabola: far from it the curve is none. */
const NEIGHBOURS = 2

function parabolaOptimum({ flops, points }: IsoflopGroup): IsoflopOptimum | undefined {
  const lowest = indexOfLowest(points.map((point) => point.loss))
  if (lowest === 0 || lowest === points.length - 1) return undefined
  const near = points.slice(Math.max(0, lowest - NEIGHBOURS), lowest + NEIGHBOURS + 1)
  const parabola = fitParabola(
    near.map((point) => Math.log(point.parameters)),
    near.map((point) => point.loss),
  )
  if (parabola === undefined || !(parabola[2] > 0)) return undefined
  const [c0, c1, c2] = parabola
  const log = -c1 / (2 * c2)
  const [first, last] = [points[0]!, points.at(-1)!]
  if (!(log > Math.log(first.parameters) && log < Math.log(last.parameters))) return undefined
  return optimumOf(flops, points, Math.exp(log), c0 - (c1 * c1) / (4 * c2))
}

/** Porian et al.: points of a fine grid between two sizes, resamples, and the scatter of a loss between seeds. */
const [GRID_PER_GAP, RESAMPLES] = [25, 1000]
const SCATTER = { low: { loss: 3, deviation: 0.005 }, high: { loss: 6, deviation: 0.1 } }

/** The median of the lowest points of the interpolation over resamples in which every loss scatters as seeds do. */
function interpolatedOptimum({ flops, points }: IsoflopGroup): IsoflopOptimum | undefined {
  const x = points.map((point) => Math.log(point.parameters))
  const count = (points.length - 1) * GRID_PER_GAP
  const step = (x.at(-1)! - x[0]!) / (count - 1)
  const grid = Array.from({ length: count }, (_, i) => x[0]! + i * step)
  const lowestOf = (losses: readonly number[]): { at: number; loss: number } | undefined => {
    const values = interpolateAkima(x, losses.map(Math.log), grid)
    const index = indexOfLowest(values)
    return index === 0 || index === count - 1 ? undefined : { at: grid[index]!, loss: Math.exp(values[index]!) }
  }
  const losses = points.map((point) => point.loss)
  if (lowestOf(losses) === undefined) return undefined
  const key = randomKey(42, `isoFLOP scatter ${flops}`)
  const found: { at: number; loss: number }[] = []
  for (let sample = 0; sample < RESAMPLES; sample++) {
    const noisy = losses.map((loss, i) => loss + scatterOf(loss) * randomNormalAt(key, sample * losses.length + i))
    const lowest = lowestOf(noisy)
    if (lowest !== undefined) found.push(lowest)
  }
  if (found.length < RESAMPLES / 2) return undefined
  const median = (of: (lowest: { at: number; loss: number }) => number): number => quantile(found.map(of), 0.5)
  return optimumOf(
    flops,
    points,
    Math.exp(median((lowest) => lowest.at)),
    median((lowest) => lowest.loss),
  )
}

/** Standard deviation of a loss between seeds, as Porian et al. measured it: straight in logarithms between two losses. */
function scatterOf(loss: number): number {
  const { low, high } = SCATTER
  const share = Math.min(1, Math.max(0, (Math.log(loss) - low.loss) / (high.loss - low.loss)))
  return Math.exp(Math.log(low.deviation) + share * Math.log(high.deviation / low.deviation))
}

/** Tokens follow from the FLOPs that these runs spend for each parameter and token, which need not be 6. */
function optimumOf(flops: number, points: readonly RunPoint[], parameters: number, loss: number): IsoflopOptimum {
  const perProduct = points.map((point) => point.flops / (point.parameters * point.tokens))
  const isConstant = perProduct.every((value) => Math.abs(value / TRAINING_FLOPS - 1) < 1e-3)
  const factor = isConstant
    ? TRAINING_FLOPS
    : Math.exp(
        interpolateLinear(
          points.map((point) => Math.log(point.parameters)),
          perProduct.map(Math.log),
          Math.log(parameters),
        ),
      )
  return { flops, parameters, tokens: flops / (factor * parameters), loss }
}

function interpolateLinear(x: readonly number[], y: readonly number[], at: number): number {
  const right = Math.max(
    1,
    Math.min(
      x.length - 1,
      x.findIndex((value) => value >= at),
    ),
  )
  const share = (at - x[right - 1]!) / (x[right]! - x[right - 1]!)
  return y[right - 1]! + share * (y[right]! - y[right - 1]!)
}

function indexOfLowest(values: readonly number[]): number {
  return values.reduce((best, value, index) => (value < values[best]! ? index : best), 0)
}

/** 97.5 % points of Student's t for 1, 2, ... degrees of freedom; beyond the last the normal's. */
const STUDENT = [
  12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131,
]

/** Least squares in logarithms. */
export function fitPowerLaw(x: readonly number[], y: readonly number[]): PowerLaw {
  const line = fitLine(x.map(Math.log), y.map(Math.log))
  const reach = line.slopeError * (STUDENT[x.length - 3] ?? 1.96)
  return {
    exponent: line.slope,
    coefficient: Math.exp(line.intercept),
    rSquared: line.rSquared,
    exponentInterval: x.length > 2 ? { low: line.slope - reach, high: line.slope + reach } : undefined,
  }
}
