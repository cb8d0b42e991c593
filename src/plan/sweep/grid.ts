// Which runs a sweep makes for a budget: sizes and horizons on a lattice of powers of two, so that the same runs are isoFLOP
// curves (along its diagonals), loss by size at equal tokens (along its rows) and points of the parametric fit (all).
import { ConfigError } from '../../core/errors.ts'
import { TRAINING_FLOPS } from '../scaling/parametric-law.ts'
import { flopsPerToken, type SweepSetting } from './run-spec.ts'
import { familyOf, type ModelFamily, type ModelShape, shapeOf, shapeParameters } from './shapes.ts'

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

/** Sizes and horizons about the centre, which has this many tokens a parameter: near the optimum of small models. */
const CENTRE_RATIO = 20
const SIZE_STEPS = [-2, -1, 0, 1]
const HORIZON_STEPS = [-2, -1, 0, 1]
/** Budgets of the lattice: the dearest and four halvings. */
const BUDGETS = 5
/** Tokens a parameter that are worth a run. */
const [LEAST_RATIO, MOST_RATIO] = [2, 400]
/** Small models first stand on a plateau, where they know pairs of tokens only: no law holds there. */
const LEAST_TOKENS = 500_000
/** Runs that the searches make at an anchor, on average. */
const TRIALS = { small: 6, long: 5, large: 4 }
/** Shapes besides the usual one. */
export const OTHER_DEPTHS = [0.5, 2] as const

/** @throws ConfigError when the budget buys no grid, with the least that does */
export function planGrid(budget: SweepBudget, setting: SweepSetting): SweepGrid {
  const affordable = (largestFlops: number): SweepGrid | undefined => {
    const grid = latticeOf(largestFlops, budget, setting)
    return grid !== undefined && sweepCost(grid, budget, setting) <= budget.flops ? grid : undefined
  }
  // Fine steps: cost is a staircase, as shapes and cells come in wholes.
  let found: SweepGrid | undefined
  const first = budget.flops / 200
  for (let step = 0; step < 120; step++) found = affordable(first * 2 ** (step / 16)) ?? found
  if (found !== undefined) return found
  let least = budget.flops
  for (let step = 1; step < 200; step++) {
    const grid = latticeOf(budget.flops * 2 ** (step / 8 - 4), budget, setting)
    if (grid !== undefined) {
      least = sweepCost(grid, budget, setting)
      break
    }
  }
  throw new ConfigError(
    `sweep: a budget of ${budget.flops.toExponential(2)} FLOPs is too small for this text and its vocabulary of ${setting.vocabSize}: give at least ${(least * 1.1).toExponential(1)}, or data of a smaller vocabulary`,
  )
}

/** undefined where the budget of a cell leaves fewer than three sizes or horizons. */
function latticeOf(largestFlops: number, budget: SweepBudget, setting: SweepSetting): SweepGrid | undefined {
  const centre = Math.sqrt(largestFlops / (TRAINING_FLOPS * CENTRE_RATIO))
  const wanted = SIZE_STEPS.map((step) => centre * 2 ** step)
  const family = familyOf(wanted, setting.vocabSize)
  if (family === undefined) return undefined
  const sizes = wanted.map((parameters): GridSize => {
    const shape = shapeOf(parameters, setting.vocabSize, family)!
    return { shape, parameters: shapeParameters(shape, setting.vocabSize) }
  })
  const horizons = HORIZON_STEPS.map((step) => CENTRE_RATIO * centre * 2 ** step)
  const cells = sizes.flatMap((_, size) =>
    horizons.flatMap((tokens, horizon) => {
      const diagonal = SIZE_STEPS[size]! + HORIZON_STEPS[horizon]!
      const ratio = tokens / wanted[size]!
      const isWorthwhile = ratio >= LEAST_RATIO && ratio <= MOST_RATIO
      const isPossible = tokens <= budget.uniqueTokens && tokens >= LEAST_TOKENS
      return diagonal <= 0 && diagonal > -BUDGETS && isWorthwhile && isPossible ? [{ size, horizon }] : []
    }),
  )
  const used = new Set(cells.map((cell) => cell.horizon))
  if (used.size < 3 || new Set(cells.map((cell) => cell.size)).size < SIZE_STEPS.length) return undefined
  const last = sizes.length - 1
  const anchors = {
    small: { size: 0, horizon: 0 },
    long: { size: 0, horizon: 2 },
    large: { size: last - 1, horizon: 0 },
  }
  if (horizons[0]! < LEAST_TOKENS) return undefined
  return { family, sizes, horizons, cells, anchors, shapeCell: { size: 1, horizon: 1 }, largestFlops }
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
