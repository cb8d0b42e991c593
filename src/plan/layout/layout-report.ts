// The result of a search as lines of a terminal: the winner and where its time goes, what would be worse, the runners-up,
// and what failures leave of a run.

import { type Bar, renderBarChart } from '../../display/chart.ts'
import { formatBytes, formatCount, formatDuration, formatPercent } from '../../display/format.ts'
import { table } from '../../display/text.ts'
import type { Architecture } from '../architecture.ts'
import { peakFlops } from '../devices.ts'
import { trainingFlopsPerToken } from '../flops.ts'
import type { Alternative } from './explain.ts'
import type { Goodput } from './goodput.ts'
import { type Layout, microBatches } from './layout.ts'
import { memoryLimit } from './layout-memory.ts'
import type { Cluster } from './machine.ts'
import type { Candidate, SearchResult } from './search.ts'
import type { StepParts } from './step.ts'

/** 'tensor 8, pipeline 16 x 8 chunks, data 128, ZeRO 1, micro-batch 1'. */
export function describeLayout(layout: Layout): string {
  const { tensorParallel, contextParallel, pipelineParallel, expertParallel, dataParallel, chunks, schedule } = layout
  const parts = [
    `tensor ${tensorParallel}`,
    ...(contextParallel > 1 ? [`context ${contextParallel}`] : []),
    ...(pipelineParallel > 1
      ? [`pipeline ${pipelineParallel}${chunks > 1 ? ` x ${chunks} chunks` : ` ${schedule}`}`]
      : []),
    ...(expertParallel > 1 ? [`expert ${expertParallel}`] : []),
    `data ${dataParallel}`,
    `ZeRO ${layout.zeroStage}`,
    `micro-batch ${layout.microBatchSize} x ${microBatches(layout)}`,
    `recompute ${layout.recompute}`,
  ]
  return parts.join(', ')
}

export interface Utilization {
  /** FLOP/s for each device that the mathematics needs, attention under its causal mask. */
  readonly flops: number
  /** The same as a share of the device's bf16 peak. */
  readonly mfu: number
}

export function utilization(model: Architecture, { layout, estimate }: Candidate, on: Cluster): Utilization {
  const flops = trainingFlopsPerToken(model, layout.seqLen).model * estimate.tokensPerSecondPerDevice
  return { flops, mfu: flops / peakFlops(on.device, 'bf16') }
}

const PARTS: readonly (readonly [keyof StepParts, string])[] = [
  ['products', 'products and attention'],
  ['memory', 'memory traffic'],
  ['communication', 'tensor, context, expert'],
  ['transfers', 'stage to stage'],
  ['bubble', 'waiting for stages'],
  ['data', 'gradients, parameters'],
  ['optimizer', 'optimizer'],
]

export function winnerLines(
  model: Architecture,
  on: Cluster,
  found: SearchResult,
  columns: number,
  color: boolean,
): string[] {
  const best = found.best[0]!
  const { estimate, layout, bytes } = best
  const { flops, mfu } = utilization(model, best, on)
  const bars: Bar[] = PARTS.filter(([part]) => estimate.parts[part] > 0).map(([part, label]) => ({
    label,
    value: estimate.parts[part],
    note: formatPercent(estimate.parts[part] / estimate.seconds),
  }))
  return [
    `${model.name} on ${formatCount(on.devices)} x ${on.device.name}: ${formatCount(found.possible)} layouts possible, ${formatCount(found.fitting)} fit`,
    ...(on.isCompared
      ? []
      : [`no published run on ${on.device.name} was compared with these estimates: take them as an order`]),
    '',
    `best: ${describeLayout(layout)}`,
    `  ${formatDuration(estimate.seconds)} a step, ${formatCount(estimate.tokensPerSecond)} tokens/s (${formatCount(estimate.tokensPerSecondPerDevice)} a device), ${(flops / 1e12).toFixed(0)} TFLOP/s a device (MFU ${formatPercent(mfu)})`,
    `  memory ${formatBytes(bytes)} of ${formatBytes(memoryLimit(on))} a device`,
    '',
    'where the step of the busiest rank goes:',
    ...renderBarChart(bars, { width: Math.min(columns, 100), format: formatDuration, full: estimate.seconds, color }),
  ]
}

export function alternativeLines(alternatives: readonly Alternative[]): string[] {
  if (alternatives.length === 0) return []
  return ['', 'one thing different:', ...table(alternatives.map(({ change, verdict }) => [`  ${change}`, verdict]))]
}

export function runnerUpLines({ best }: SearchResult): string[] {
  const [first, ...rest] = best
  if (rest.length === 0) return []
  const rows = rest.map(({ layout, estimate, bytes }) => [
    `  +${formatPercent(estimate.seconds / first!.estimate.seconds - 1)}`,
    formatDuration(estimate.seconds),
    formatBytes(bytes),
    describeLayout(layout),
  ])
  return ['', 'runners-up:', ...table(rows, { align: ['right', 'right', 'right'] })]
}

/** @param mtbfSeconds  of the whole cluster */
export function goodputLines(
  { share, intervalSeconds, checkpoints, restarts, lost }: Goodput,
  mtbfSeconds: number,
): string[] {
  return [
    `failures: one every ${formatDuration(mtbfSeconds)} on these devices; a checkpoint every ${formatDuration(intervalSeconds)} is best`,
    `  ${formatPercent(share)} of the time is progress; checkpoints ${formatPercent(checkpoints)}, work done again ${formatPercent(lost)}, restarts ${formatPercent(restarts)}`,
  ]
}
