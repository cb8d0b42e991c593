// L-BFGS: minimises a smooth function of a few variables from its values and gradients (Nocedal & Wright 2006,
// "Numerical Optimization", algorithms 7.5 and 3.5: limited-memory BFGS with a line search for the strong Wolfe
// conditions). No bounds, no constraints.

/** Value at `x`; the gradient is written into `gradient`. */
export type Objective = (x: Float64Array, gradient: Float64Array) => number

export interface LbfgsOptions {
  /** Pairs of steps and gradient changes to remember. Default 10. */
  memory?: number
  maxIterations?: number
  /** Ends when no component of the gradient is larger. Default 1e-10. */
  gradientTolerance?: number
  /** Ends when two steps one after the other lower the value by less than this part of it. Default 1e-13. */
  valueTolerance?: number
}

export interface LbfgsResult {
  x: Float64Array
  value: number
  iterations: number
  /** The gradient or the progress became as small as asked for. */
  hasConverged: boolean
}

/** Sufficient decrease and curvature of the Wolfe conditions. */
const [C1, C2] = [1e-4, 0.9]
const MAX_LINE_STEPS = 40

export function minimizeLbfgs(objective: Objective, start: ArrayLike<number>, options: LbfgsOptions = {}): LbfgsResult {
  const { memory = 10, maxIterations = 500, gradientTolerance = 1e-10, valueTolerance = 1e-13 } = options
  const n = start.length
  let x: Float64Array = Float64Array.from(start)
  let gradient: Float64Array = new Float64Array(n)
  let value = objective(x, gradient)
  const steps: Float64Array[] = []
  const changes: Float64Array[] = []
  let stalled = 0
  let iterations = 0
  let hasConverged = false
  if (!Number.isFinite(value)) return { x, value, iterations, hasConverged }
  while (iterations < maxIterations) {
    if (largest(gradient) <= gradientTolerance) {
      hasConverged = true
      break
    }
    let direction = twoLoop(gradient, steps, changes)
    let slope = dot(direction, gradient)
    if (!(slope < 0)) {
      // Rounding has spoilt the memory: start again from the gradient.
      steps.length = 0
      changes.length = 0
      direction = gradient.map((g) => -g)
      slope = -dot(gradient, gradient)
    }
    const first = steps.length === 0 ? Math.min(1, 1 / Math.sqrt(-slope)) : 1
    const point = searchLine(objective, x, value, direction, slope, first)
    if (point === undefined) {
      // No lower point along a fresh gradient: as good as rounding allows.
      if (steps.length === 0) {
        hasConverged = true
        break
      }
      steps.length = 0
      changes.length = 0
      continue
    }
    iterations++
    const step = point.x.map((v, i) => v - x[i]!)
    const change = point.gradient.map((g, i) => g - gradient[i]!)
    // A pair of no curvature would make the estimate of the Hessian indefinite.
    if (dot(step, change) > 1e-12 * Math.sqrt(dot(step, step) * dot(change, change))) {
      steps.push(step)
      changes.push(change)
      if (steps.length > memory) {
        steps.shift()
        changes.shift()
      }
    }
    const progress = value - point.value
    stalled = progress <= valueTolerance * Math.abs(value) ? stalled + 1 : 0
    x = point.x
    gradient = point.gradient
    value = point.value
    if (stalled >= 2) {
      hasConverged = true
      break
    }
  }
  return { x, value, iterations, hasConverged }
}

/** Minus the estimated inverse Hessian times the gradient. */
function twoLoop(
  gradient: Float64Array,
  steps: readonly Float64Array[],
  changes: readonly Float64Array[],
): Float64Array {
  const q = gradient.map((g) => -g)
  const count = steps.length
  if (count === 0) return q
  const weights = new Float64Array(count)
  for (let k = count - 1; k >= 0; k--) {
    weights[k] = dot(steps[k]!, q) / dot(steps[k]!, changes[k]!)
    addScaled(q, changes[k]!, -weights[k]!)
  }
  const last = count - 1
  const scale = dot(steps[last]!, changes[last]!) / dot(changes[last]!, changes[last]!)
  for (let i = 0; i < q.length; i++) q[i]! *= scale
  for (let k = 0; k < count; k++) {
    const b = dot(changes[k]!, q) / dot(steps[k]!, changes[k]!)
    addScaled(q, steps[k]!, weights[k]! - b)
  }
  return q
}

interface LinePoint {
  t: number
  x: Float64Array
  gradient: Float64Array
  value: number
  slope: number
}

/** A point that satisfies the strong Wolfe conditions, or at least lowers the value; undefined when none was found. */
function searchLine(
  objective: Objective,
  from: Float64Array,
  value0: number,
  direction: Float64Array,
  slope0: number,
  firstStep: number,
): LinePoint | undefined {
  const at = (t: number): LinePoint => {
    const x = from.map((v, i) => v + t * direction[i]!)
    const gradient = new Float64Array(from.length)
    const value = objective(x, gradient)
    return { t, x, gradient, value, slope: dot(gradient, direction) }
  }
  const isLowEnough = (point: LinePoint): boolean => point.value <= value0 + C1 * point.t * slope0
  const isFlatEnough = (point: LinePoint): boolean => Math.abs(point.slope) <= -C2 * slope0
  let low: LinePoint = { t: 0, x: from, gradient: direction, value: value0, slope: slope0 }
  let high: LinePoint | undefined
  let t = firstStep
  for (let k = 0; k < MAX_LINE_STEPS; k++) {
    const point = at(t)
    if (!isLowEnough(point) || (low.t > 0 && point.value >= low.value)) high = point
    else {
      if (isFlatEnough(point)) return point
      // The minimum lies between `low` and here when the slopes point at each other.
      if (point.slope * ((high?.t ?? Number.POSITIVE_INFINITY) - point.t) >= 0) high = low
      low = point
    }
    if (high === undefined) t *= 2
    else {
      t = interpolate(low, high)
      if (Math.abs(high.t - low.t) <= 1e-15 * Math.max(1, Math.abs(high.t))) break
    }
  }
  return low.t > 0 && low.value < value0 ? low : undefined
}

/** Minimum of the cubic through two points and their slopes, kept away from both ends; the middle where it has none. */
function interpolate(a: LinePoint, b: LinePoint): number {
  const width = b.t - a.t
  const d1 = a.slope + b.slope - (3 * (a.value - b.value)) / (a.t - b.t)
  const square = d1 * d1 - a.slope * b.slope
  if (square < 0) return a.t + width / 2
  const d2 = Math.sign(width) * Math.sqrt(square)
  const t = b.t - width * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2))
  const edge = 0.1 * Math.abs(width)
  const isInside = t > Math.min(a.t, b.t) + edge && t < Math.max(a.t, b.t) - edge
  return isInside ? t : a.t + width / 2
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!
  return sum
}

function addScaled(target: Float64Array, source: Float64Array, factor: number): void {
  for (let i = 0; i < target.length; i++) target[i]! += factor * source[i]!
}

function largest(values: Float64Array): number {
  let most = 0
  for (const value of values) most = Math.max(most, Math.abs(value))
  return most
}
