// Which runs a sweep makes for a budget: sizes and horizons on a lattice with one step, so that the same runs are isoFLOP
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

/** Each size and each horizon is this times the one before: three steps are four times. */
export const STEP = 2 ** (2 / 3)
const [SIZES, HORIZONS] = [5, 5]
/** Cells up to this diagonal: size and horizon together so many steps from the first. */
const DEAREST_DIAGONAL = 5
/** Tokens a parameter of the smallest size at the first horizon: puts the optimum of small models inside the diagonals. */
const FIRST_RATIO = 24
/** Small models first stand on a plateau, where they know pairs of tokens only, larger ones for more tokens: no law there. */
const [LEAST_TOKENS, LEAST_RATIO] = [500_000, 5]
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
  const first = Math.sqrt(largestFlops / (TRAINING_FLOPS * FIRST_RATIO * STEP ** DEAREST_DIAGONAL))
  const wanted = Array.from({ length: SIZES }, (_, i) => first * STEP ** i)
  const family = familyOf(wanted, setting.vocabSize)
  if (family === undefined) return undefined
  const sizes = wanted.map((parameters): GridSize => {
    const shape = shapeOf(parameters, setting.vocabSize, family)!
    return { shape, parameters: shapeParameters(shape, setting.vocabSize) }
  })
  const horizons = Array.from({ length: HORIZONS }, (_, k) => FIRST_RATIO * first * STEP ** k)
  if (horizons[0]! < LEAST_TOKENS) return undefined
  const cells = sizes.flatMap((_, size) =>
    horizons.flatMap((tokens, horizon) => {
      const isAffordable = size + horizon <= DEAREST_DIAGONAL
      const isUseful = tokens >= LEAST_RATIO * wanted[size]! && tokens <= budget.uniqueTokens
      return isAffordable && isUseful ? [{ size, horizon }] : []
    }),
  )
  const used = new Set(cells.map((cell) => cell.horizon))
  if (used.size < 3 || new Set(cells.map((cell) => cell.size)).size < SIZES) return undefined
  const anchors = {
    small: { size: 0, horizon: 0 },
    long: { size: 0, horizon: Math.min(3, Math.max(...used)) },
    large: { size: 3, horizon: 0 },
  }
  return { family, sizes, horizons, cells, anchors, shapeCell: { size: 1, horizon: 2 }, largestFlops }
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
