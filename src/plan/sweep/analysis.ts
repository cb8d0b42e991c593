// What a sweep's runs say: the law, how far it can be trusted, what to train next and how, which sizes use tokens best,
// and what another depth would have changed.
import { DataError } from '../../core/errors.ts'
import { type EnvelopeFit, fitEnvelope, type LossCurve, smoothCurve } from '../scaling/envelope.ts'
import { type Estimate, type FitReport, reportFit } from '../scaling/fit-report.ts'
import { ParametricBootstrap } from '../scaling/parametric-fit.ts'
import { lossOf, optimalTokens, type ParametricLaw, TRAINING_FLOPS } from '../scaling/parametric-law.ts'
import type { SweepBudget, SweepGrid } from './grid.ts'
import { type RunSpec, runSpec, type SweepSetting, tokensOf } from './run-spec.ts'
import { shapeOf } from './shapes.ts'
import { pointsOf, type SweepResults } from './sweep.ts'
import { tunedFor } from './tuning.ts'

export interface Recommendation {
  readonly spec: RunSpec
  readonly parameters: number
  readonly tokens: number
  readonly flops: number
  /** Tokens that the law would give this size; more than `tokens` where the text has no more. */
  readonly optimalTokens: Estimate
  readonly loss: Estimate
  /** Rates and batches between which the searches lost less than half a per cent, carried to this run. */
  readonly lrRange: { low: number; high: number } | undefined
  readonly batchRange: { low: number; high: number } | undefined
}

export interface SweepReport {
  readonly fit: FitReport
  readonly recommendation: Recommendation | undefined
  /** Loss at equal tokens by size: rows of the grid. */
  readonly sampleEfficiency: readonly { tokens: number; losses: readonly { parameters: number; loss: number }[] }[]
  /** Approach 1: the lowest training loss at each compute; undefined where one size has it everywhere. */
  readonly envelope: Omit<EnvelopeFit, 'envelope'> | undefined
  readonly shapes: readonly { layers: number; hiddenSize: number; parameters: number; loss: number }[]
}

const RESAMPLES = 1000
/**
 * Standard deviation of a log loss about the law: runs that differ in their seed alone scatter by 0.1 to 0.5 %, and rates carried
 * to cells where none was looked for add to it; 61 runs of three sweeps lay 0.7 % off one law (docs/scaling.md).
 */
const SCATTER = 0.006
/**
 * A dozen runs tell exponents to about 0.1. Published ones, of the same law and larger studies (0.28 to 0.37: Hoffmann et
 * al. 2022, Besiroglu et al. 2024, Muennighoff et al. 2023), count beside them as a measurement of 0.33 +- 0.1: twice
 * their spread, as models of a sweep are far smaller.
 */
export const SWEEP_FORM = { delta: 0.01, exponentPrior: { mean: 0.33, weight: (SCATTER / 0.1) ** 2 } }
const HELD_OUT_PART = 0.25

/**
 * @param options.factor  size of the recommended model over the largest of the grid
 * @param options.curves  training losses of the grid's runs, for approach 1
 */
export async function analyseSweep(
  results: SweepResults,
  grid: SweepGrid,
  budget: SweepBudget,
  setting: SweepSetting,
  options: { factor: number; curves?: readonly LossCurve[]; turn?: () => Promise<void> },
): Promise<SweepReport> {
  const points = pointsOf(results.grid)
  const settings = { ...SWEEP_FORM, resamples: RESAMPLES, seed: setting.seed, holdOut: HELD_OUT_PART }
  const fit = await reportFit(points, settings, options.turn)
  const bootstrap = new ParametricBootstrap(points, fit.fit, {
    ...SWEEP_FORM,
    resamples: RESAMPLES,
    seed: setting.seed,
  })
  bootstrap.run()
  const estimate = (of: (law: ParametricLaw) => number): Estimate => ({
    value: of(fit.fit.law),
    ...bootstrap.spread(of),
  })
  return {
    fit,
    recommendation: recommend(results, grid, budget, setting, options.factor, estimate),
    sampleEfficiency: grid.horizons.flatMap((_, horizon) => {
      const row = results.grid.filter((result) => result.cell.horizon === horizon)
      if (row.length < 2) return []
      const losses = row.map(({ spec, loss }) => ({ parameters: spec.parameters, loss }))
      return [{ tokens: tokensOf(row[0]!.spec), losses }]
    }),
    envelope: envelopeOf(options.curves ?? []),
    shapes: results.shapes.map(({ spec, loss }) => ({
      layers: spec.shape.numHiddenLayers,
      hiddenSize: spec.shape.hiddenSize,
      parameters: spec.parameters,
      loss,
    })),
  }
}

function envelopeOf(curves: readonly LossCurve[]): SweepReport['envelope'] {
  if (curves.length === 0) return undefined
  try {
    const { parameters, tokens } = fitEnvelope(curves.map((curve) => smoothCurve(curve)))
    return { parameters, tokens }
  } catch (error) {
    if (error instanceof DataError) return undefined
    throw error
  }
}

function recommend(
  { tuning }: SweepResults,
  grid: SweepGrid,
  budget: SweepBudget,
  setting: SweepSetting,
  factor: number,
  estimate: (of: (law: ParametricLaw) => number) => Estimate,
): Recommendation | undefined {
  const largest = grid.sizes.at(-1)!
  const shape = shapeOf(factor * largest.parameters, setting.vocabSize, grid.family)
  if (shape === undefined) return undefined
  const wanted = estimate((law) => optimalTokens(law, factor * largest.parameters))
  // No fewer tokens a parameter than any run of the fit: a model that knows pairs of tokens only is on no law.
  const ratios = grid.cells.map(({ size, horizon }) => grid.horizons[horizon]! / grid.sizes[size]!.parameters)
  const least = Math.min(...ratios) * factor * largest.parameters
  const tokens = Math.min(Math.max(wanted.value, least), budget.uniqueTokens)
  const tuned = tunedFor(tuning.law, factor * largest.parameters, tokens, setting.seqLen)
  const spec = runSpec('target', shape, { tokens, ...tuned }, setting)
  return {
    spec,
    parameters: spec.parameters,
    tokens: tokensOf(spec),
    flops: TRAINING_FLOPS * spec.parameters * tokensOf(spec),
    optimalTokens: wanted,
    loss: estimate((law) => lossOf(law, spec.parameters, tokensOf(spec))),
    lrRange: rangeAbout(spec.lr, results(tuning.searches, 'lr')),
    batchRange: rangeAbout(spec.batchTokens, results(tuning.searches, 'batch')),
  }
}

type Search = SweepResults['tuning']['searches'][number]

function results(searches: readonly Search[], what: Search['what']): Search[] {
  return searches.filter((search) => search.what === what && search.valley.flat !== undefined)
}

/** The widest flat part of the valleys, moved to another value. */
function rangeAbout(value: number, searches: readonly Search[]): { low: number; high: number } | undefined {
  const reach = Math.max(...searches.map(({ valley }) => valley.flat!.high - valley.x))
  return Number.isFinite(reach) ? { low: value * 2 ** -reach, high: value * 2 ** reach } : undefined
}
