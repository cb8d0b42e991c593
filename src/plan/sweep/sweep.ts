// A sweep from its grid to its results: learning rate and batch first, then the grid with them, then other shapes of one
// size. Every run is a pure function of those before it, so that a sweep that goes on makes the same runs.

import { TRAINING_FLOPS } from '../scaling/parametric-law.ts'
import type { RunPoint } from '../scaling/points.ts'
import { type RunPool, type RunResult, runFlops } from './execute.ts'
import { type GridCell, OTHER_DEPTHS, type SweepBudget, type SweepGrid } from './grid.ts'
import { type RunSpec, runSpec, type SweepSetting, tokensOf } from './run-spec.ts'
import { type ModelShape, shapeOf } from './shapes.ts'
import { type Anchor, type Tuning, tune, tunedFor } from './tuning.ts'

export interface SweepResults {
  readonly tuning: Tuning
  readonly grid: readonly GridResult[]
  /** Models of one size and horizon with other depths, the usual one among them. */
  readonly shapes: readonly RunResult[]
  /** Cells that the searches before left no budget for. */
  readonly dropped: readonly GridCell[]
  /** FLOPs of all runs, attention and validation included, and their processor time. */
  readonly spentFlops: number
  readonly cpuSeconds: number
  readonly runs: number
}

export interface GridResult extends RunResult {
  readonly cell: GridCell
}

/** @returns undefined when the sweep was told to stop */
export async function runSweep(
  pool: Pick<RunPool, 'runAll' | 'specs'>,
  grid: SweepGrid,
  budget: SweepBudget,
  setting: SweepSetting,
  onStage: (what: string) => void = () => {},
): Promise<SweepResults | undefined> {
  const anchorOf = ({ size, horizon }: GridCell): Anchor => ({
    shape: grid.sizes[size]!.shape,
    tokens: grid.horizons[horizon]!,
  })
  const { small, long, large } = grid.anchors
  onStage('learning rate and batch')
  const tuning = await tune(pool, setting, {
    small: anchorOf(small),
    long: anchorOf(long),
    large: anchorOf(large),
  })
  if (tuning === undefined) return undefined

  const specOf = (role: 'grid' | 'shape', shape: ModelShape, cell: GridCell): RunSpec => {
    const tokens = grid.horizons[cell.horizon]!
    const tuned = tunedFor(tuning.law, grid.sizes[cell.size]!.parameters, tokens, setting.seqLen)
    return runSpec(role, shape, { tokens, ...tuned }, setting)
  }
  const cost = (spec: RunSpec): number => runFlops(spec, setting, budget.evaluationTokens) + budget.startFlops
  const shapeSpecs = shapesOf(grid, setting.vocabSize).map((shape) => specOf('shape', shape, grid.shapeCell))
  const planned = grid.cells.map((cell) => ({ cell, spec: specOf('grid', grid.sizes[cell.size]!.shape, cell) }))
  // What the searches took more than expected is taken from the dearest cells.
  planned.sort((a, b) => cost(b.spec) - cost(a.spec))
  const dropped: GridCell[] = []
  const asked = [...pool.specs.values()]
  const others = [...asked, ...shapeSpecs].reduce((sum, spec) => sum + cost(spec), 0)
  let total = others + planned.reduce((sum, { spec }) => sum + cost(spec), 0)
  while (total > budget.flops * 1.02 && planned.length > 8) {
    const [dearest] = planned.splice(0, 1)
    dropped.push(dearest!.cell)
    total -= cost(dearest!.spec)
  }
  onStage('grid and shapes')
  const [results, shapes] = await Promise.all([pool.runAll(planned.map(({ spec }) => spec)), pool.runAll(shapeSpecs)])
  if (results === undefined || shapes === undefined) return undefined
  const gridResults = results.map((result, i) => ({ ...result, cell: planned[i]!.cell }))
  const all = (await pool.runAll([...pool.specs.values()])) ?? []
  return {
    tuning,
    grid: gridResults.sort((a, b) => a.cell.size - b.cell.size || a.cell.horizon - b.cell.horizon),
    shapes,
    dropped,
    spentFlops: all.reduce((sum, { spec }) => sum + runFlops(spec, setting, budget.evaluationTokens), 0),
    cpuSeconds: all.reduce((sum, result) => sum + result.cpuSeconds, 0),
    runs: all.length,
  }
}

/** The usual shape of the size, and deeper and wider ones of as many parameters where there are any. */
function shapesOf({ family, sizes, shapeCell }: SweepGrid, vocabSize: number): ModelShape[] {
  const { shape, parameters } = sizes[shapeCell.size]!
  const others = OTHER_DEPTHS.flatMap((factor) => {
    const numHiddenLayers = Math.max(1, Math.round(shape.numHiddenLayers * factor))
    if (numHiddenLayers === shape.numHiddenLayers) return []
    const other = shapeOf(parameters, vocabSize, { ...family, numHiddenLayers })
    return other === undefined ? [] : [other]
  })
  return [shape, ...others].sort((a, b) => a.numHiddenLayers - b.numHiddenLayers)
}

/** A run as a point of the laws: C = 6 N D. Runs that diverged are none. */
export function pointsOf(results: readonly RunResult[]): RunPoint[] {
  return results
    .filter((result) => Number.isFinite(result.loss))
    .map(({ spec, loss }) => {
      const tokens = tokensOf(spec)
      return { parameters: spec.parameters, tokens, flops: TRAINING_FLOPS * spec.parameters * tokens, loss }
    })
}
