// Why a layout won: every layout that differs from it in one thing, with what would be worse about it.
import { formatBytes, formatPercent } from '../../display/format.ts'
import type { Architecture } from '../architecture.ts'
import { divisors } from '../parallel.ts'
import { devicesOf, type Layout, layoutOf, problemOf } from './layout.ts'
import { DEFAULT_FORMATS, type Formats, layoutMemory, memoryLimit } from './layout-memory.ts'
import type { Cluster } from './machine.ts'
import { type Candidate, goesWith, recomputePolicies } from './search.ts'
import type { Software } from './software.ts'
import { estimateStep, PART_NAMES, type StepParts } from './step.ts'

export interface Alternative {
  readonly layout: Layout
  /** What is different: 'tensor 4'. */
  readonly change: string
  /** Relative to the winner; undefined where it does not fit or cannot be. */
  readonly slower: number | undefined
  /** 'does not fit: 96 GiB of 75 GiB', '+8.1%, most in waiting for other stages'. */
  readonly verdict: string
}

export interface Ground {
  readonly model: Architecture
  readonly on: Cluster
  readonly software: Software
  readonly formats?: Formats
}

/** Neighbours of the winner, the nearest to it in time first, those that do not fit last. */
export function explain({ layout, estimate }: Candidate, ground: Ground): Alternative[] {
  const { model, on, software, formats = DEFAULT_FORMATS } = ground
  const limit = memoryLimit(on)
  const seen = new Set<string>()
  const alternatives: Alternative[] = []
  for (const { change, layout: other } of neighbours(layout, ground)) {
    const problem = problemOf(model, other)
    if (problem !== undefined || seen.has(change)) continue
    seen.add(change)
    const { total } = layoutMemory(model, other, software, formats)
    if (total > limit) {
      const verdict = `does not fit: ${formatBytes(total)} of ${formatBytes(limit)}`
      alternatives.push({ layout: other, change, slower: undefined, verdict })
      continue
    }
    const found = estimateStep(model, other, on, software)
    const slower = found.seconds / estimate.seconds - 1
    alternatives.push({ layout: other, change, slower, verdict: verdictOf(slower, estimate.parts, found.parts) })
  }
  return alternatives.sort((one, two) => (one.slower ?? Infinity) - (two.slower ?? Infinity))
}

function verdictOf(slower: number, before: StepParts, after: StepParts): string {
  const changes = (Object.keys(PART_NAMES) as (keyof StepParts)[])
    .map((part) => ({ part, more: after[part] - before[part] }))
    .sort((one, two) => two.more - one.more)
  const sign = slower < 0 ? '' : '+'
  return `${sign}${formatPercent(slower)}, most in ${PART_NAMES[changes[0]!.part]}`
}

function* neighbours(layout: Layout, { model, on, software }: Ground): Generator<{ change: string; layout: Layout }> {
  const devices = devicesOf(layout)
  const fill = (change: Partial<Layout>): Layout | undefined => {
    const next = { ...layout, ...change }
    const dataParallel = devices / (next.tensorParallel * next.pipelineParallel * next.contextParallel)
    if (!Number.isInteger(dataParallel) || dataParallel < 1) return undefined
    const { schedule: _, ...rest } = next
    const isPlain = next.chunks === 1
    return layoutOf({ ...rest, dataParallel, ...(isPlain && layout.chunks === 1 && { schedule: layout.schedule }) })
  }
  const near = (values: readonly number[], value: number): number[] => {
    const at = values.indexOf(value)
    return [values[at - 1], values[at + 1]].filter((other) => other !== undefined)
  }
  const powers = [1, 2, 4, 8, 16, 32, 64]
  const changes: [string, Partial<Layout>][] = [
    ...near(divisors(on.devicesPerNode), layout.tensorParallel).map((value): [string, Partial<Layout>] => [
      `tensor ${value}`,
      { tensorParallel: value },
    ]),
    ...near(
      divisors(devices).filter((p) => p <= model.numHiddenLayers),
      layout.pipelineParallel,
    ).map((value): [string, Partial<Layout>] => [
      `pipeline ${value}${value === 1 || layout.chunks === 1 ? '' : ` x ${layout.chunks} chunks`}`,
      { pipelineParallel: value, ...(value === 1 && { chunks: 1 }) },
    ]),
    ...near(powers, layout.contextParallel).map((value): [string, Partial<Layout>] => [
      `context ${value}`,
      { contextParallel: value },
    ]),
    ...near(powers, layout.microBatchSize).map((value): [string, Partial<Layout>] => [
      `micro-batch ${value}`,
      { microBatchSize: value },
    ]),
    ...(layout.pipelineParallel === 1 ? [] : [layout.chunks - 1, layout.chunks + 1, 1])
      .filter((value) => value >= 1 && value !== layout.chunks)
      .map((value): [string, Partial<Layout>] => [`${value} chunk${value === 1 ? '' : 's'} a rank`, { chunks: value }]),
    ...recomputePolicies(software)
      .filter((value) => value !== layout.recompute)
      .map((value): [string, Partial<Layout>] => [`recompute ${value}`, { recompute: value }]),
    ...([0, 1, 2, 3] as const)
      .filter((value) => value !== layout.zeroStage && goesWith(value, layout))
      .map((value): [string, Partial<Layout>] => [`ZeRO ${value}`, { zeroStage: value }]),
  ]
  if (model.experts !== undefined) {
    for (const value of near(divisors(model.experts.count), layout.expertParallel)) {
      changes.push([`expert ${value}`, { expertParallel: value }])
    }
  }
  for (const [change, difference] of changes) {
    const next = fill(difference)
    if (next !== undefined) yield { change, layout: next }
  }
}
