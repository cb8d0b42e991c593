// The little statistics that fits need: quantiles, standard deviations, straight lines with their uncertainty.
import { invariant } from '../../core/errors.ts'

export interface Interval {
  low: number
  high: number
}

/** The q-quantile with linear interpolation between neighbours, as numpy's default. */
export function quantile(values: ArrayLike<number>, q: number): number {
  invariant(values.length > 0, 'quantile of nothing')
  const sorted = Float64Array.from(values).sort()
  const at = q * (sorted.length - 1)
  const below = Math.floor(at)
  const next = Math.min(below + 1, sorted.length - 1)
  return sorted[below]! + (at - below) * (sorted[next]! - sorted[below]!)
}

/** Between the tails of an estimate's resampled values. @param level  0.95 leaves 2.5 % at each end */
export function percentileInterval(values: ArrayLike<number>, level = 0.95): Interval {
  return { low: quantile(values, (1 - level) / 2), high: quantile(values, (1 + level) / 2) }
}

export function mean(values: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]!
  return sum / values.length
}

/** Of a sample: divided by n - 1. */
export function standardDeviation(values: ArrayLike<number>): number {
  const middle = mean(values)
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += (values[i]! - middle) ** 2
  return Math.sqrt(sum / (values.length - 1))
}

export interface Line {
  slope: number
  intercept: number
  rSquared: number
  /** 0 where there are only two points. */
  slopeError: number
}

/** Least squares of y = intercept + slope x. */
export function fitLine(x: readonly number[], y: readonly number[]): Line {
  invariant(x.length === y.length && x.length >= 2, 'a line needs two points')
  const [middleX, middleY] = [mean(x), mean(y)]
  let [xx, xy, yy] = [0, 0, 0]
  for (let i = 0; i < x.length; i++) {
    const [dx, dy] = [x[i]! - middleX, y[i]! - middleY]
    xx += dx * dx
    xy += dx * dy
    yy += dy * dy
  }
  const slope = xy / xx
  const residual = Math.max(0, yy - slope * xy)
  const slopeError = x.length > 2 ? Math.sqrt(residual / (x.length - 2) / xx) : 0
  return { slope, intercept: middleY - slope * middleX, rSquared: yy > 0 ? 1 - residual / yy : 1, slopeError }
}

/** Least squares of y = c0 + c1 x + c2 x^2. @returns undefined where the points do not determine it */
export function fitParabola(x: readonly number[], y: readonly number[]): [number, number, number] | undefined {
  // Around the mean and over the width: the normal equations stay well conditioned.
  const middle = mean(x)
  const width = Math.max(...x.map((v) => Math.abs(v - middle)))
  if (x.length < 3 || !(width > 0)) return undefined
  const sums = [0, 0, 0, 0, 0]
  const right = [0, 0, 0]
  for (let i = 0; i < x.length; i++) {
    const u = (x[i]! - middle) / width
    for (let k = 0; k < 5; k++) sums[k]! += u ** k
    for (let k = 0; k < 3; k++) right[k]! += y[i]! * u ** k
  }
  const matrix = [0, 1, 2].map((row) => [...[0, 1, 2].map((column) => sums[row + column]!), right[row]!])
  const solved = solve(matrix)
  if (solved === undefined) return undefined
  const [k0, k1, k2] = solved as [number, number, number]
  const [s1, s2] = [k1 / width, k2 / width ** 2]
  return [k0 - s1 * middle + s2 * middle ** 2, s1 - 2 * s2 * middle, s2]
}

/** Gaussian elimination with pivots. @param rows  n rows of n coefficients and the right side; undefined where singular */
export function solve(rows: readonly (readonly number[])[]): number[] | undefined {
  const m = rows.map((row) => [...row])
  const n = m.length
  for (let column = 0; column < n; column++) {
    let pivot = column
    for (let row = column + 1; row < n; row++) {
      if (Math.abs(m[row]![column]!) > Math.abs(m[pivot]![column]!)) pivot = row
    }
    if (!(Math.abs(m[pivot]![column]!) > 1e-12)) return undefined
    ;[m[column], m[pivot]] = [m[pivot]!, m[column]!]
    for (let row = 0; row < n; row++) {
      if (row === column) continue
      const factor = m[row]![column]! / m[column]![column]!
      for (let k = column; k <= n; k++) m[row]![k]! -= factor * m[column]![k]!
    }
  }
  return m.map((row, i) => row[n]! / row[i]!)
}
