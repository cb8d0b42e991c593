// Freivalds' check of a matrix product, row by row (Freivalds 1977): for a random vector r of signs, C r and A (B r)
// cost n^2 instead of n^3, and agree only if C = A B. An error d in one element of row i changes (C r)_i by d; rounding
// changes it by about eps times the norm of the row, so that one wrong element of a thousandth of a typical one shows
// in a row of 10^4. Sampled rows, computed in full, are the second check for what is no plain product.
import { randomKey, randomWord } from '../../src/core/random.ts'

/** A matrix on the host; `isTransposed` means that the values are stored as columns. */
export interface HostMatrix {
  readonly values: ArrayLike<number>
  readonly rows: number
  readonly columns: number
  readonly isTransposed?: boolean
}

/** M r in float64. */
function timesVector({ values, rows, columns, isTransposed }: HostMatrix, r: Float64Array): Float64Array {
  const product = new Float64Array(rows)
  for (let i = 0; i < rows; i++) {
    let sum = 0
    if (isTransposed) for (let j = 0; j < columns; j++) sum += values[j * rows + i] * r[j]
    else for (let j = 0; j < columns; j++) sum += values[i * columns + j] * r[j]
    product[i] = sum
  }
  return product
}

/** A vector of random signs. */
function signs(length: number, round: number): Float64Array {
  const key = randomKey(1977, `freivalds ${round}`)
  return Float64Array.from({ length }, (_, i) => (randomWord(key, i) & 1 ? 1 : -1))
}

/**
 * What is wrong with C = A B, or undefined.
 * @param tolerance  allowed |(C r)_i - (A B r)_i| relative to the norm of row i of C; f32 products stay below 1e-6
 */
export function freivalds(c: HostMatrix, a: HostMatrix, b: HostMatrix, tolerance = 5e-6): string | undefined {
  if (c.rows !== a.rows || c.columns !== b.columns || a.columns !== b.rows) return 'the shapes do not fit'
  for (let round = 0; round < 2; round++) {
    const r = signs(c.columns, round)
    const actual = timesVector(c, r)
    const expected = timesVector(a, timesVector(b, r))
    for (let i = 0; i < c.rows; i++) {
      let squares = 0
      for (let j = 0; j < c.columns; j++) squares += c.values[i * c.columns + j] ** 2
      const error = Math.abs(actual[i] - expected[i]) / Math.sqrt(squares)
      if (!(error <= tolerance)) return `row ${i} is off by ${error.toExponential(2)} of its norm`
    }
  }
  return undefined
}
