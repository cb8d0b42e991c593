// What runs say when the parametric law is fitted to them: constants with their uncertainty, the compute-optimal model
// of a budget, and how well the fit of the smaller runs predicts the largest. As data (JSON) and as lines.
import { ConfigError, DataError } from '../../core/errors.ts'
import { table } from '../../display/text.ts'
import { fitIsoflops, type IsoflopFit, type IsoflopMethod, isoflopGroups } from './isoflop.ts'
import {
  type FitOptions,
  fitParametric,
  HUBER_DELTA,
  PARAMETER_NAMES,
  ParametricBootstrap,
  type ParametricFit,
} from './parametric-fit.ts'
import {
  BESIROGLU_2024,
  computeOptimal,
  HOFFMANN_2022,
  lossOf,
  optimalExponents,
  type ParametricLaw,
  type PublishedLaw,
} from './parametric-law.ts'
import type { RunPoint } from './points.ts'
import type { Interval } from './statistics.ts'

export interface Estimate {
  value: number
  standardError: number
  /** 95 %. */
  interval: Interval
}

/** Predictions for runs that took no part in the fit. */
export interface HeldOut {
  runs: number
  /** Compute of the smallest of them, and of the largest run in the fit. */
  fromFlops: number
  fittedToFlops: number
  /** Mean and largest of |predicted / measured - 1|. */
  meanError: number
  worstError: number
  /** The same of predicting that nothing changes: the lowest loss of the runs in the fit. */
  trivialMeanError: number
  trivialWorstError: number
}

export interface OptimumEstimate {
  flops: number
  parameters: Estimate
  tokens: Estimate
  loss: Estimate
}

export interface FitReport {
  runs: number
  fit: ParametricFit
  /** E, A, B, alpha, beta. */
  estimates: Record<(typeof PARAMETER_NAMES)[number], Estimate>
  /** Exponent of parameters in the optimum, beta / (alpha + beta). */
  exponent: Estimate
  optima: OptimumEstimate[]
  /** undefined where none were asked for, or the others are too few for a fit. */
  heldOut: HeldOut | undefined
  /** Approach 2, where enough runs share their compute. */
  isoflops: Partial<Record<IsoflopMethod, IsoflopFit>>
  /** Root mean square of log residuals of published laws on these runs. */
  published: { law: PublishedLaw; residual: number }[]
  resamples: number
  form: FitForm
}

export type FitForm = Pick<FitOptions, 'delta' | 'hasEqualExponents' | 'exponentPrior'>

export interface ReportOptions extends FitForm {
  resamples?: number
  seed?: number
  /** Part of the runs, those of the most compute, that a second fit leaves out and predicts; 0 for none. */
  holdOut?: number
  /** Budgets to divide, FLOPs. */
  budgets?: readonly number[]
}

/** A published law that misses by more is of another text or tokenizer: no line about it. */
const COMPARABLE = 0.1
/** Resamples between two looks at the clock. */
const AT_ONCE = 50

/** @param turn  called now and then with the resamples done */
export async function reportFit(
  points: readonly RunPoint[],
  options: ReportOptions = {},
  turn: (done: number, all: number) => Promise<void> = async () => {},
): Promise<FitReport> {
  const { delta = HUBER_DELTA, hasEqualExponents = false, exponentPrior } = options
  const { resamples = 4000, seed = 42, holdOut = 0 } = options
  const form: FitForm = { delta, hasEqualExponents, ...(exponentPrior && { exponentPrior }) }
  const fit = fitParametric(points, form)
  const bootstrap = new ParametricBootstrap(points, fit, { ...form, resamples, seed })
  while (!bootstrap.isDone) {
    bootstrap.run(AT_ONCE)
    await turn(bootstrap.laws.length, resamples)
  }
  const estimate = (of: (law: ParametricLaw) => number): Estimate => ({ value: of(fit.law), ...bootstrap.spread(of) })
  const estimates = Object.fromEntries(
    PARAMETER_NAMES.map((name) => [name, estimate((law) => law[name])]),
  ) as FitReport['estimates']
  return {
    runs: points.length,
    fit,
    estimates,
    exponent: estimate((law) => optimalExponents(law).a),
    optima: (options.budgets ?? []).map((flops) => ({
      flops,
      parameters: estimate((law) => computeOptimal(law, flops).parameters),
      tokens: estimate((law) => computeOptimal(law, flops).tokens),
      loss: estimate((law) => computeOptimal(law, flops).loss),
    })),
    heldOut: holdOut > 0 ? unlessTooFew(() => predictLargest(points, holdOut, form)) : undefined,
    isoflops: isoflopFits(points),
    published: [BESIROGLU_2024, HOFFMANN_2022].map((law) => ({ law, residual: residualOf(law, points) })),
    resamples,
    form,
  }
}

function residualOf(law: ParametricLaw, points: readonly RunPoint[]): number {
  const squares = points.map((point) => Math.log(point.loss / lossOf(law, point.parameters, point.tokens)) ** 2)
  return Math.sqrt(squares.reduce((sum, square) => sum + square, 0) / points.length)
}

/** Fits the runs of less compute and predicts the others. Runs of equal compute stay together. */
export function predictLargest(points: readonly RunPoint[], part: number, form: FitOptions = {}): HeldOut {
  if (!(part > 0 && part < 1))
    throw new ConfigError(`hold out: expected a part of the runs between 0 and 1, got ${part}`)
  const sorted = [...points].sort((a, b) => a.flops - b.flops)
  const wanted = sorted[sorted.length - Math.max(1, Math.round(part * sorted.length))]!.flops
  // 10 %: budgets that whole steps have rounded, and isoFLOP budgets of a figure.
  const isLarge = (point: RunPoint): boolean => point.flops >= wanted * 0.9
  const small = sorted.filter((point) => !isLarge(point))
  const large = sorted.filter(isLarge)
  const { law } = fitParametric(small, form)
  const lowest = Math.min(...small.map((point) => point.loss))
  const errors = large.map((point) => Math.abs(lossOf(law, point.parameters, point.tokens) / point.loss - 1))
  const trivial = large.map((point) => Math.abs(lowest / point.loss - 1))
  const average = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length
  return {
    runs: large.length,
    fromFlops: large[0]!.flops,
    fittedToFlops: small.at(-1)!.flops,
    meanError: average(errors),
    worstError: Math.max(...errors),
    trivialMeanError: average(trivial),
    trivialWorstError: Math.max(...trivial),
  }
}

function isoflopFits(points: readonly RunPoint[]): FitReport['isoflops'] {
  const groups = isoflopGroups(points, 0.05)
  const fits: FitReport['isoflops'] = {}
  if (groups.length < 3) return fits
  for (const method of ['parabola', 'interpolation'] as const) {
    const fit = unlessTooFew(() => fitIsoflops(groups, method))
    if (fit !== undefined) fits[method] = fit
  }
  return fits
}

/** undefined where the runs are too few for it, or their curves have no lowest point. */
function unlessTooFew<T>(fit: () => T): T | undefined {
  try {
    return fit()
  } catch (error) {
    if (error instanceof DataError) return undefined
    throw error
  }
}

const number = (value: number): string =>
  Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3 ? value.toExponential(3) : value.toPrecision(5)
const percent = (value: number): string => `${(100 * value).toFixed(2)} %`
const range = ({ low, high }: Interval): string => `${number(low)} to ${number(high)}`

/** The report for a terminal. */
export function describeFit(report: FitReport): string[] {
  const { fit, estimates, exponent, form, resamples } = report
  const equal = form.hasEqualExponents ? ', alpha = beta' : ''
  const prior = form.exponentPrior === undefined ? '' : `, exponents pulled towards ${form.exponentPrior.mean}`
  const row = (name: string, estimate: Estimate): string[] => [
    name,
    number(estimate.value),
    number(estimate.standardError),
    range(estimate.interval),
  ]
  const lines = [
    `L(N, D) = E + A / N^alpha + B / D^beta fitted to ${report.runs} runs (Huber loss of log residuals, delta ${form.delta}${equal}${prior}; ${resamples} resamples)`,
    ...table([
      ['', 'estimate', 'standard error', '95 % interval'],
      ...PARAMETER_NAMES.map((name) => row(name, estimates[name])),
      // Equal exponents make it 1/2 without asking the runs.
      ...(form.hasEqualExponents ? [] : [row('N grows as C^', exponent)]),
    ]),
    `residuals: ${percent(fit.residual)} of the loss, root mean square${fit.hasConverged ? '' : '; the fit has not converged'}`,
    ...report.published
      .filter(({ residual }) => residual < COMPARABLE)
      .map(({ law, residual }) => `  of ${law.name} on the same runs: ${percent(residual)}`),
  ]
  if (report.heldOut !== undefined) lines.push(...describeHeldOut(report.heldOut))
  for (const [method, isoflops] of Object.entries(report.isoflops)) lines.push(...describeIsoflops(method, isoflops))
  if (report.optima.length > 0) lines.push(...describeOptima(report.optima))
  return lines
}

function describeHeldOut(heldOut: HeldOut): string[] {
  return [
    `held out: the ${heldOut.runs} largest runs (from ${heldOut.fromFlops.toExponential(2)} FLOPs), predicted by a fit of the others (to ${heldOut.fittedToFlops.toExponential(2)})`,
    `  error ${percent(heldOut.meanError)} on average, ${percent(heldOut.worstError)} at most; of predicting the lowest loss seen: ${percent(heldOut.trivialMeanError)} and ${percent(heldOut.trivialWorstError)}`,
  ]
}

function describeIsoflops(method: string, { optima, without, parameters }: IsoflopFit): string[] {
  const interval = parameters.exponentInterval
  const reach = interval === undefined ? '' : ` (${range(interval)})`
  const edge =
    without.length === 0 ? '' : `; ${without.length} budgets have their lowest loss at their smallest or largest size`
  return [
    `isoFLOP curves, ${method}: N grows as C^${parameters.exponent.toFixed(3)}${reach}, from ${optima.length} budgets${edge}`,
  ]
}

function describeOptima(optima: readonly OptimumEstimate[]): string[] {
  const cell = ({ value, interval }: Estimate): string => `${number(value)} (${range(interval)})`
  return [
    'compute-optimal, with 95 % intervals:',
    ...table([
      ['FLOPs', 'parameters', 'tokens', 'loss'],
      ...optima.map(({ flops, parameters, tokens, loss }) => [
        flops.toExponential(2),
        cell(parameters),
        cell(tokens),
        cell(loss),
      ]),
    ]),
  ]
}
