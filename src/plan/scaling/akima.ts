// Akima's interpolation: a cubic between every two points whose slopes at the points are weighted means of the slopes
// around them, so that one outlier bends only its neighbourhood (Akima 1970, "A new method of interpolation and smooth
// curve fitting based on local procedures").
import { invariant } from '../../core/errors.ts'

/** @param x  rising @param at  within [x0, xLast] @returns the curve's values there */
export function interpolateAkima(x: readonly number[], y: readonly number[], at: readonly number[]): number[] {
  const n = x.length
  invariant(n >= 2 && y.length === n, 'Akima needs two points')
  // m[k + 2] is the slope of piece k; two more at each end go on as a parabola would.
  const m: number[] = new Array(n + 3).fill(0)
  for (let k = 0; k < n - 1; k++) m[k + 2] = (y[k + 1]! - y[k]!) / (x[k + 1]! - x[k]!)
  if (n === 2) return at.map((t) => y[0]! + m[2]! * (t - x[0]!))
  m[1] = 2 * m[2]! - m[3]!
  m[0] = 2 * m[1]! - m[2]!
  m[n + 1] = 2 * m[n]! - m[n - 1]!
  m[n + 2] = 2 * m[n + 1]! - m[n]!
  const changes = Array.from({ length: n + 2 }, (_, k) => Math.abs(m[k + 1]! - m[k]!))
  const negligible = 1e-9 * Math.max(...changes)
  const slopes = x.map((_, i) => {
    const [before, after] = [changes[i]!, changes[i + 2]!]
    if (before + after <= negligible) return (m[i + 1]! + m[i + 2]!) / 2
    return (after * m[i + 1]! + before * m[i + 2]!) / (before + after)
  })
  let piece = 0
  return at.map((t) => {
    while (piece < n - 2 && t > x[piece + 1]!) piece++
    while (piece > 0 && t < x[piece]!) piece--
    const h = x[piece + 1]! - x[piece]!
    const d = t - x[piece]!
    const [slope, left, right] = [m[piece + 2]!, slopes[piece]!, slopes[piece + 1]!]
    const c = (3 * slope - 2 * left - right) / h
    const e = (left + right - 2 * slope) / (h * h)
    return y[piece]! + d * (left + d * (c + d * e))
  })
}
