// A published figure beside the estimate of the same layout, and scores of many: used by tests and by bench/layout.ts.
import type { Architecture } from '../../src/plan/architecture.ts'
import type { Layout } from '../../src/plan/layout/layout.ts'
import type { Cluster } from '../../src/plan/layout/machine.ts'
import type { Software } from '../../src/plan/layout/software.ts'
import { estimateStep } from '../../src/plan/layout/step.ts'

export interface PublishedRow {
  readonly name: string
  readonly model: Architecture
  readonly layout: Layout
  readonly on: Cluster
  readonly software: Software
  /** In the unit of the table it is from. */
  readonly published: number
  /** Value in that unit for a step of so many seconds. */
  readonly value: (seconds: number) => number
  /** Whether the constants of the machine were set with this row. */
  readonly isFitted?: boolean
}

export function predict({ model, layout, on, software, value }: PublishedRow): number {
  return value(estimateStep(model, layout, on, software).seconds)
}

export interface Score {
  /** Relative errors. */
  readonly mean: number
  readonly worst: number
  /** Spearman's rank correlation; 0 for a constant. */
  readonly rank: number
}

export function score(predicted: readonly number[], published: readonly number[]): Score {
  const errors = predicted.map((value, index) => Math.abs(value / published[index]! - 1))
  return {
    mean: average(errors),
    worst: Math.max(...errors),
    rank: correlation(ranksOf(predicted), ranksOf(published)),
  }
}

export function scoreRows(rows: readonly PublishedRow[]): Score {
  return score(
    rows.map(predict),
    rows.map(({ published }) => published),
  )
}

/** What someone predicts who knows no layout: the average of the published values. */
export function trivialScore(rows: readonly PublishedRow[]): Score {
  const published = rows.map((row) => row.published)
  return score(
    published.map(() => average(published)),
    published,
  )
}

function average(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0) / values.length
}

function ranksOf(values: readonly number[]): number[] {
  return values.map((value) => {
    const below = values.filter((other) => other < value).length
    const equal = values.filter((other) => other === value).length
    return below + (equal - 1) / 2
  })
}

function correlation(one: readonly number[], other: readonly number[]): number {
  const [a, b] = [average(one), average(other)]
  let [cross, first, second] = [0, 0, 0]
  for (const [index, value] of one.entries()) {
    cross += (value - a) * (other[index]! - b)
    first += (value - a) ** 2
    second += (other[index]! - b) ** 2
  }
  return first === 0 || second === 0 ? 0 : cross / Math.sqrt(first * second)
}
