// Which runs a sweep makes for a budget: a ladder of sizes, and for each the horizons (tokens) that its share of compute
// buys. The smallest model sees all of them, which tells how loss falls with tokens; short runs of all sizes tell how it falls
// with size.
import { ConfigError } from '../../core/errors.ts'
import { TRAINING_FLOPS } from '../scaling/parametric-law.ts'
import { flopsPerToken, type SweepSetting } from './run-spec.ts'
import {
  familyOf,
  LARGEST_UNIT,
  LEAST_UNIT,
  ladderOf,
  type ModelFamily,
  type ModelShape,
  shapeParameters,
} from './shapes.ts'

export interface SweepBudget {
  /** FLOPs of all runs, attention included. */
  readonly flops: number
  /** Different tokens to be had: no horizon is longer. */
  readonly uniqueTokens: number
  /** Tokens of the validation at the end of each run. */
  readonly evaluationTokens: number
  /** What the start of a run costs in FLOPs. */
  readonly startFlops: number
}

export interface GridSize {
  readonly parameters: number
  readonly shape: ModelShape
}

export interface GridCell {
  /** Index of the size, and of the horizon. */
  readonly size: number
  readonly horizon: number
}

export interface SweepGrid {
  readonly family: ModelFamily
  readonly sizes: readonly GridSize[]
  /** Tokens, rising. */
  readonly horizons: readonly number[]
  readonly cells: readonly GridCell[]
  /** Where learning rate and batch are looked for: cheap ones that differ in size or in tokens. */
  readonly anchors: { readonly small: GridCell; readonly long: GridCell; readonly large: GridCell }
  /** The size and horizon at which width is tried against depth. */
  readonly shapeCell: GridCell
  /** 6 N D of the dearest cells. */
  readonly largestFlops: number
}

/** Each horizon is so much longer than the one before. */
export const STEP = 1.6
const HORIZONS = 5
/** 6 N D of the dearest run over that of the smallest model at the longest horizon: more where the text is short. */
const DEAREST = [1.32, 1.7, 2.1, 2.7, 3.5, 4.8]
/** Tokens a parameter of the smallest model at the first horizon: wanted, and what is let pass. */
const FIRST_RATIO = { wanted: 40, least: 20, most: 100 }
/** Small models first stand on a plateau, where they know pairs of tokens only, larger ones for more tokens: no law there. */
const [LEAST_TOKENS, LEAST_RATIO] = [500_000, 8]
/**
 * Tokens of the text for each parameter of the largest model: a model four times as large finds 12. With 4 to 8 such models
 * were 3 to 6 % off the law in three sweeps of four.
 */
const LEAST_TEXT_RATIO = 48
/** Runs that the searches make at an anchor, on average. */
const TRIALS = { small: 6, long: 5, large: 4 }
/** Shapes besides the usual one. */
export const OTHER_DEPTHS = [0.5, 2] as const

/** @throws ConfigError when the budget buys no grid, with the least that does */
export function planGrid(budget: SweepBudget, setting: SweepSetting): SweepGrid {
  let best: { grid: SweepGrid; miss: number } | undefined
  let least = Number.POSITIVE_INFINITY
  for (let unit = LEAST_UNIT; unit <= LARGEST_UNIT; unit += unit < 16 ? 8 : unit < 64 ? 16 : 32) {
    const grids = gridsOf(unit, budget, setting)
    for (const grid of grids) {
      const cost = sweepCost(grid, budget, setting)
      least = Math.min(least, cost)
      if (cost > budget.flops) continue
      const ratio = grid.horizons[0]! / grid.sizes[0]!.parameters
      // Compute that is not used is the larger loss.
      const miss = Math.abs(Math.log(ratio / FIRST_RATIO.wanted)) + 3 * Math.log(budget.flops / cost)
      if (best === undefined || miss < best.miss) best = { grid, miss }
    }
  }
  if (best !== undefined) return best.grid
  if (!Number.isFinite(least)) {
    throw new ConfigError(
      `sweep: a text of ${budget.uniqueTokens} tokens is too short for a sweep with a vocabulary of ${setting.vocabSize}: give at least ${leastTokens(setting)} tokens`,
    )
  }
  throw new ConfigError(
    `sweep: a budget of ${budget.flops.toExponential(2)} FLOPs is too small for a text of ${budget.uniqueTokens} tokens: give at least ${(least * 1.05).toExponential(1)}`,
  )
}

/** Of the text, that the smallest models of all take. */
function leastTokens(setting: SweepSetting): number {
  const sizes = sizesOf(LEAST_UNIT, setting)
  const horizon = horizonsFrom(FIRST_RATIO.least * sizes[0]!.parameters).at(-1)!
  return Math.ceil(Math.max(horizon, LEAST_TEXT_RATIO * sizes.at(-1)!.parameters))
}

function sizesOf(unit: number, { vocabSize }: SweepSetting): GridSize[] {
  return ladderOf(unit).map((shape) => ({ shape, parameters: shapeParameters(shape, vocabSize) }))
}

/** @param tokens  of the first that are wanted */
function horizonsFrom(tokens: number): number[] {
  return Array.from({ length: HORIZONS }, (_, k) => Math.max(LEAST_TOKENS, tokens) * STEP ** k)
}

/** The grids of models of this unit that the text allows. */
function gridsOf(unit: number, budget: SweepBudget, setting: SweepSetting): SweepGrid[] {
  const grids: SweepGrid[] = []
  const sizes = sizesOf(unit, setting)
  if (LEAST_TEXT_RATIO * sizes.at(-1)!.parameters > budget.uniqueTokens) return grids
  for (let ratio = FIRST_RATIO.least; ratio <= FIRST_RATIO.most; ratio *= 1.02) {
    const horizons = horizonsFrom(ratio * sizes[0]!.parameters)
    if (horizons.at(-1)! > budget.uniqueTokens) break
    for (const dearest of DEAREST) {
      const grid = latticeOf(familyOf(unit), sizes, horizons, dearest)
      if (grid !== undefined) grids.push(grid)
    }
  }
  return grids
}

/** The cells of sizes and horizons that are worth a run; undefined where a size has none. @param dearest  one of DEAREST */
function latticeOf(
  family: ModelFamily,
  sizes: readonly GridSize[],
  horizons: readonly number[],
  dearest: number,
): SweepGrid | undefined {
  const largestProduct = dearest * sizes[0]!.parameters * horizons.at(-1)!
  const cells = sizes.flatMap(({ parameters }, size) =>
    horizons.flatMap((tokens, horizon) => {
      const isUseful = parameters * tokens <= largestProduct && tokens >= LEAST_RATIO * parameters
      return isUseful ? [{ size, horizon }] : []
    }),
  )
  if (new Set(cells.map((cell) => cell.size)).size < sizes.length) return undefined
  const anchors = { small: { size: 0, horizon: 0 }, long: { size: 0, horizon: 2 }, large: { size: 2, horizon: 0 } }
  const largestFlops = TRAINING_FLOPS * largestProduct
  return { family, sizes, horizons, cells, anchors, shapeCell: { size: 1, horizon: 0 }, largestFlops }
}

/** FLOPs of a run of a cell, its validation and start included. */
export function cellCost(grid: SweepGrid, cell: GridCell, budget: SweepBudget, setting: SweepSetting): number {
  const perToken = flopsPerToken(grid.sizes[cell.size]!.shape, setting)
  // Validation is a forward alone, a third of a step.
  return perToken * (grid.horizons[cell.horizon]! + budget.evaluationTokens / 3) + budget.startFlops
}

/** FLOPs that the whole sweep is expected to take. */
export function sweepCost(grid: SweepGrid, budget: SweepBudget, setting: SweepSetting): number {
  const cost = (cell: GridCell): number => cellCost(grid, cell, budget, setting)
  const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)
  const { small, long, large } = grid.anchors
  const trials = TRIALS.small * cost(small) + TRIALS.long * cost(long) + TRIALS.large * cost(large)
  return sum(grid.cells.map(cost)) + trials + OTHER_DEPTHS.length * cost(grid.shapeCell)
}
