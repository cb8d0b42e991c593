// The one tolerance table of the test suite, by the precision of the device under test, and the comparison that uses
// it. A result is compared as a whole (relative error of the norm) and element by element (against the largest one).

export interface Tolerance {
  /** ||actual - expected|| / ||expected|| of what a forward makes. */
  readonly forward: number
  /** The same of gradients, which are longer sums. */
  readonly backward: number
  /** The largest error of one element over the largest element, as a multiple of the two above. */
  readonly element: number
}

export const TOLERANCES = {
  f32: { forward: 1e-5, backward: 2e-5, element: 4 },
  // One rounding of a result costs 1.7e-3 of its norm in bf16 and 2.1e-4 in f16; kernels round a few times inside.
  bf16: { forward: 5e-3, backward: 1e-2, element: 4 },
  f16: { forward: 8e-4, backward: 2e-3, element: 4 },
  f64: { forward: 1e-12, backward: 1e-12, element: 4 },
} as const satisfies Record<string, Tolerance>

/** Gradients of the reference against central differences in float64. */
export const FINITE_DIFFERENCE_TOLERANCE = 1e-6

export type Precision = keyof typeof TOLERANCES

/** What is wrong with `actual`, or undefined. Infinities must agree exactly; NaN is always wrong. */
export function difference(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number,
  elementFactor: number,
): string | undefined {
  if (actual.length !== expected.length) return `${actual.length} elements instead of ${expected.length}`
  let errors = 0
  let norm = 0
  let largestError = 0
  let largest = 0
  for (let i = 0; i < expected.length; i++) {
    if (actual[i] === expected[i] && !Number.isFinite(expected[i])) continue
    const error = Math.abs(actual[i] - expected[i])
    if (!Number.isFinite(error)) return `element ${i} is ${actual[i]} instead of ${expected[i]}`
    errors += error * error
    norm += expected[i] * expected[i]
    largestError = Math.max(largestError, error)
    largest = Math.max(largest, Math.abs(expected[i]))
  }
  const relative = Math.sqrt(errors) / Math.sqrt(norm)
  if (errors > 0 && !(relative <= tolerance)) {
    return `relative error ${relative.toExponential(2)}, allowed ${tolerance.toExponential(0)}`
  }
  if (errors > 0 && !(largestError / largest <= elementFactor * tolerance)) {
    return `largest element error ${(largestError / largest).toExponential(2)}, allowed ${(elementFactor * tolerance).toExponential(0)}`
  }
  return undefined
}
