// Approach 3 of Hoffmann et al. 2022: the parametric law fitted to runs by minimising
//     sum of Huber_delta(log L_i - log(E + A / N_i^alpha + B / D_i^beta))
// over (log A, log B, log E, alpha, beta) with L-BFGS from a grid of starts; and its uncertainty by resampling the runs
// (the bootstrap of Besiroglu et al. 2024, arXiv:2404.10102: whole points with replacement, each resample fitted again).
// Logarithms of N and D are taken from their means, which makes the valley of the fit nearly round.
import { DataError } from '../../core/errors.ts'
import type { RandomKey } from '../../core/kernels.ts'
import { randomKey, randomUniform } from '../../core/random.ts'
import { minimizeLbfgs, type Objective } from './lbfgs.ts'
import type { ParametricLaw } from './parametric-law.ts'
import { lossOf } from './parametric-law.ts'
import type { RunPoint } from './points.ts'
import { type Interval, percentileInterval, standardDeviation } from './statistics.ts'

export interface ParametricFit {
  readonly law: ParametricLaw
  /** Sum of the Huber losses of the log residuals. */
  readonly objective: number
  /** Root mean square of the log residuals: 0.01 is one per cent of the loss. */
  readonly residual: number
  readonly hasConverged: boolean
}

export const PARAMETER_NAMES = ['E', 'A', 'B', 'alpha', 'beta'] as const
export type ParameterName = (typeof PARAMETER_NAMES)[number]

/** Where squares turn into absolute values: a tenth of a per cent of the loss, as Hoffmann et al. */
export const HUBER_DELTA = 1e-3

/** Starts of Hoffmann et al., appendix D.3: 4500 of them. */
const START_GRID = {
  a: [0, 5, 10, 15, 20, 25],
  b: [0, 5, 10, 15, 20, 25],
  e: [-1, -0.5, 0, 0.5, 1],
  alpha: [0, 0.5, 1, 1.5, 2],
  beta: [0, 0.5, 1, 1.5, 2],
}
/** The lowest of all starts are followed to their minima; the rest end in the same ones, only later. */
const FOLLOWED_STARTS = 60
const MIN_POINTS = 6

/** The runs as arrays, logarithms taken once. */
interface Problem {
  readonly count: number
  /** log N and log D, less their means. */
  readonly u: Float64Array
  readonly v: Float64Array
  readonly logLoss: Float64Array
  readonly meanU: number
  readonly meanV: number
  readonly delta: number
  /** alpha = beta: four constants instead of five. */
  readonly hasEqualExponents: boolean
  readonly exponentPrior: ExponentPrior | undefined
}

/**
 * Adds weight / 2 (exponent - mean)^2 for each exponent to the sum. A weight of (scatter / spread)^2 treats the mean as a
 * measurement with that spread, beside log losses with that scatter.
 */
export interface ExponentPrior {
  readonly mean: number
  readonly weight: number
}

export interface FitOptions {
  /** Default 1e-3. */
  delta?: number
  /** Fit with alpha = beta, as Muennighoff et al. 2023 and Gadre et al. 2024 do: less to be misled by few runs. */
  hasEqualExponents?: boolean
  /** Pulls the exponents towards what larger studies found, where runs are too few to tell. */
  exponentPrior?: ExponentPrior
  /** Start here alone instead of a grid. */
  start?: ParametricLaw
  /** Starts of the grid to follow, the lowest first; default 60, Infinity for all 4500. */
  followedStarts?: number
}

/**
 * Fits the law to runs.
 * @throws DataError for fewer than 6 runs, or runs of fewer than 3 sizes or 3 amounts of tokens
 */
export function fitParametric(points: readonly RunPoint[], options: FitOptions = {}): ParametricFit {
  checkPoints(points)
  const problem = problemOf(points, options)
  const objective = objectiveOf(problem)
  const starts =
    options.start === undefined
      ? gridStarts(problem, objective, options.followedStarts ?? FOLLOWED_STARTS)
      : [toVector(options.start, problem)]
  let best = minimizeLbfgs(objective, starts[0]!, PRECISE)
  for (const start of starts.slice(1)) {
    const result = minimizeLbfgs(objective, start, PRECISE)
    if (result.value < best.value) best = result
  }
  const law = toLaw(best.x, problem)
  const squares = points.map((point) => Math.log(point.loss / lossOf(law, point.parameters, point.tokens)) ** 2)
  const residual = Math.sqrt(squares.reduce((sum, square) => sum + square, 0) / points.length)
  return { law, objective: best.value, residual, hasConverged: best.hasConverged }
}

const PRECISE = { gradientTolerance: 1e-13, valueTolerance: 1e-15, maxIterations: 2000 }
/** Far below the scatter of resamples. */
const RESAMPLED = { gradientTolerance: 1e-9, valueTolerance: 1e-11, maxIterations: 400 }

function checkPoints(points: readonly RunPoint[]): void {
  const sizes = new Set(points.map((point) => point.parameters)).size
  const horizons = new Set(points.map((point) => point.tokens)).size
  if (points.length < MIN_POINTS || sizes < 3 || horizons < 3) {
    throw new DataError(
      `scaling fit: five constants need at least ${MIN_POINTS} runs of 3 sizes and 3 amounts of tokens, got ${points.length} runs of ${sizes} sizes and ${horizons} amounts; add runs`,
    )
  }
}

type Form = Pick<FitOptions, 'delta' | 'hasEqualExponents' | 'exponentPrior'>

function problemOf(points: readonly RunPoint[], form: Form): Problem {
  const { delta = HUBER_DELTA, hasEqualExponents = false, exponentPrior } = form
  const u = Float64Array.from(points, (point) => Math.log(point.parameters))
  const v = Float64Array.from(points, (point) => Math.log(point.tokens))
  const center = (values: Float64Array): number => {
    const middle = values.reduce((sum, value) => sum + value, 0) / values.length
    for (let i = 0; i < values.length; i++) values[i]! -= middle
    return middle
  }
  const [meanU, meanV] = [center(u), center(v)]
  const logLoss = Float64Array.from(points, (point) => Math.log(point.loss))
  return { count: points.length, u, v, logLoss, meanU, meanV, delta, hasEqualExponents, exponentPrior }
}

/** The sum and its gradient over x = (log A', log B', log E, alpha, beta), or without beta where it is alpha. @param weights  how often each run counts */
function objectiveOf(problem: Problem, weights?: Float64Array): Objective {
  const { count, u, v, logLoss, delta, hasEqualExponents, exponentPrior } = problem
  return (x, gradient) => {
    const a = x[0]!
    const b = x[1]!
    const irreducible = Math.exp(x[2]!)
    const alpha = x[3]!
    const beta = hasEqualExponents ? alpha : x[4]!
    let [value, ga, gb, ge, gAlpha, gBeta] = [0, 0, 0, 0, 0, 0]
    for (let i = 0; i < count; i++) {
      const weight = weights === undefined ? 1 : weights[i]!
      if (weight === 0) continue
      const ofSize = Math.exp(a - alpha * u[i]!)
      const ofTokens = Math.exp(b - beta * v[i]!)
      const loss = ofSize + ofTokens + irreducible
      const residual = logLoss[i]! - Math.log(loss)
      const size = Math.abs(residual)
      let pull = residual
      if (size <= delta) value += weight * 0.5 * residual * residual
      else {
        value += weight * delta * (size - 0.5 * delta)
        pull = residual > 0 ? delta : -delta
      }
      const share = (-weight * pull) / loss
      ga += share * ofSize
      gb += share * ofTokens
      ge += share
      gAlpha -= share * ofSize * u[i]!
      gBeta -= share * ofTokens * v[i]!
    }
    if (exponentPrior !== undefined) {
      const { mean, weight } = exponentPrior
      value += 0.5 * weight * ((alpha - mean) ** 2 + (beta - mean) ** 2)
      gAlpha += weight * (alpha - mean)
      gBeta += weight * (beta - mean)
    }
    gradient[0] = ga
    gradient[1] = gb
    gradient[2] = ge * irreducible
    if (hasEqualExponents) gradient[3] = gAlpha + gBeta
    else {
      gradient[3] = gAlpha
      gradient[4] = gBeta
    }
    return value
  }
}

function gridStarts(problem: Problem, objective: Objective, count: number): Float64Array[] {
  const gradient = vectorOf(problem, 0, 0, 0, 0, 0)
  const starts: { x: Float64Array; value: number }[] = []
  for (const a of START_GRID.a) {
    for (const b of START_GRID.b) {
      for (const e of START_GRID.e) {
        for (const alpha of START_GRID.alpha) {
          for (const beta of problem.hasEqualExponents ? [alpha] : START_GRID.beta) {
            const x = vectorOf(problem, a, b, e, alpha, beta)
            const value = objective(x, gradient)
            if (Number.isFinite(value)) starts.push({ x, value })
          }
        }
      }
    }
  }
  starts.sort((left, right) => left.value - right.value)
  return starts.slice(0, count).map((start) => start.x)
}

function vectorOf(
  { meanU, meanV, hasEqualExponents }: Problem,
  ...[a, b, e, alpha, beta]: [a: number, b: number, e: number, alpha: number, beta: number]
): Float64Array {
  const shared = [a - alpha * meanU, b - beta * meanV, e, alpha]
  return Float64Array.from(hasEqualExponents ? shared : [...shared, beta])
}

function toVector({ E, A, B, alpha, beta }: ParametricLaw, problem: Problem): Float64Array {
  return vectorOf(problem, Math.log(A), Math.log(B), Math.log(E), alpha, beta)
}

function toLaw(x: Float64Array, { meanU, meanV }: Problem): ParametricLaw {
  const [a, b, e, alpha, beta = alpha] = x as unknown as [number, number, number, number, number?]
  return { E: Math.exp(e), A: Math.exp(a + alpha * meanU), B: Math.exp(b + beta * meanV), alpha, beta }
}

/**
 * The objective in coordinates z about `centre` in which the runs pull about equally in all directions, x = centre + M z:
 * M M^T is the inverse of J^T J, J the derivatives of the logarithms of the predicted losses. Fewer steps to the minimum.
 */
function whiten(
  problem: Problem,
  objective: Objective,
  centre: Float64Array,
): { objective: Objective; toX: (z: Float64Array) => Float64Array } {
  const n = centre.length
  const factor = choleskyOf(gramOf(problem, centre))
  // x - centre = L^-T z by back substitution; the gradient for z is L^-1 that for x.
  const toX = (z: Float64Array): Float64Array => {
    const x = Float64Array.from(z)
    for (let i = n - 1; i >= 0; i--) {
      for (let k = i + 1; k < n; k++) x[i]! -= factor[k * n + i]! * x[k]!
      x[i]! /= factor[i * n + i]!
    }
    for (let i = 0; i < n; i++) x[i]! += centre[i]!
    return x
  }
  return {
    toX,
    objective: (z, gradient) => {
      const value = objective(toX(z), gradient)
      for (let i = 0; i < n; i++) {
        for (let k = 0; k < i; k++) gradient[i]! -= factor[i * n + k]! * gradient[k]!
        gradient[i]! /= factor[i * n + i]!
      }
      return value
    },
  }
}

/** J^T J, with a little more on the diagonal where runs do not determine a direction. */
function gramOf({ count, u, v, hasEqualExponents }: Problem, x: Float64Array): Float64Array {
  const n = x.length
  const gram = new Float64Array(n * n)
  const row = new Float64Array(n)
  const [a, b, e, alpha, beta = alpha] = x as unknown as [number, number, number, number, number?]
  for (let i = 0; i < count; i++) {
    const ofSize = Math.exp(a - alpha * u[i]!)
    const ofTokens = Math.exp(b - beta * v[i]!)
    const loss = ofSize + ofTokens + Math.exp(e)
    const [bySize, byTokens] = [-u[i]! * ofSize, -v[i]! * ofTokens]
    row.set([ofSize, ofTokens, Math.exp(e), ...(hasEqualExponents ? [bySize + byTokens] : [bySize, byTokens])])
    for (let j = 0; j < n; j++) {
      for (let k = 0; k < n; k++) gram[j * n + k]! += (row[j]! * row[k]!) / (loss * loss)
    }
  }
  for (let j = 0; j < n; j++) gram[j * n + j]! += 1e-12 * count
  return gram
}

/** Lower L with L L^T = the matrix, which must be positive definite. */
function choleskyOf(matrix: Float64Array): Float64Array {
  const n = Math.round(Math.sqrt(matrix.length))
  const lower = new Float64Array(n * n)
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i * n + j]!
      for (let k = 0; k < j; k++) sum -= lower[i * n + k]! * lower[j * n + k]!
      lower[i * n + j] = i === j ? Math.sqrt(sum) : sum / lower[j * n + j]!
    }
  }
  return lower
}

/** Resamples of the runs, each with its own fit: the spread of anything that is computed from the law. */
export class ParametricBootstrap {
  readonly laws: ParametricLaw[] = []
  readonly resamples: number
  readonly #problem: Problem
  readonly #start: Float64Array
  readonly #key: RandomKey

  /** @param fit  of all runs, in the same form: where each resample starts */
  constructor(
    points: readonly RunPoint[],
    fit: ParametricFit,
    options: Form & { resamples?: number; seed?: number } = {},
  ) {
    this.resamples = options.resamples ?? 4000
    this.#problem = problemOf(points, options)
    this.#start = toVector(fit.law, this.#problem)
    this.#key = randomKey(options.seed ?? 42, 'scaling bootstrap')
  }

  get isDone(): boolean {
    return this.laws.length >= this.resamples
  }

  /** Fits the next `count` resamples. */
  run(count = this.resamples): this {
    const { count: n } = this.#problem
    const weights = new Float64Array(n)
    const { objective, toX } = whiten(this.#problem, objectiveOf(this.#problem, weights), this.#start)
    const start = new Float64Array(this.#start.length)
    const end = Math.min(this.resamples, this.laws.length + count)
    for (let sample = this.laws.length; sample < end; sample++) {
      weights.fill(0)
      for (let i = 0; i < n; i++) weights[Math.floor(randomUniform(this.#key, sample * n + i) * n)]!++
      this.laws.push(toLaw(toX(minimizeLbfgs(objective, start, RESAMPLED).x), this.#problem))
    }
    return this
  }

  /** Standard error and percentile interval of a number that the law gives. */
  spread(of: (law: ParametricLaw) => number, level = 0.95): { standardError: number; interval: Interval } {
    const values = Float64Array.from(this.laws, of)
    return { standardError: standardDeviation(values), interval: percentileInterval(values, level) }
  }
}
