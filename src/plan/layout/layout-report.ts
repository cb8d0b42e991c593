// The result of a search as lines of a terminal: the winner and where its time goes, what would be worse, the runners-up,
// and what failures leave of a run.
import { type Bar, renderBarChart } from '../../display/chart.ts'
import { formatBytes, formatCount, formatDuration, formatFlops, formatPercent } from '../../display/format.ts'
import { table } from '../../display/text.ts'
import { peakFlops } from '../devices.ts'
import { trainingFlopsPerToken } from '../flops.ts'
import type { Alternative, Ground } from './explain.ts'
import type { Goodput } from './goodput.ts'
import { type Layout, microBatches } from './layout.ts'
import { memoryLimit } from './layout-memory.ts'
import type { Candidate, SearchResult } from './search.ts'
import { PART_NAMES, type StepParts } from './step.ts'

/** 'tensor 8, pipeline 16 x 8 chunks, data 128, ZeRO 1, micro-batch 1'. */
export function describeLayout(layout: Layout): string {
  const { tensorParallel, contextParallel, pipelineParallel, expertParallel, dataParallel, chunks, schedule } = layout
  const parts = [
    `tensor ${tensorParallel}`,
    ...(contextParallel > 1 ? [`context ${contextParallel}`] : []),
    ...(pipelineParallel > 1
      ? [`pipeline ${pipelineParallel}${chunks > 1 ? ` x ${chunks} chunks` : ` (${schedule})`}`]
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
  /** The same as a share of `peak`. */
  readonly mfu: number
  /** Of the device, in the format of the linear layers' products. */
  readonly peak: number
}

export function utilization({ layout, estimate }: Candidate, { model, on, software }: Ground): Utilization {
  const flops = trainingFlopsPerToken(model, layout.seqLen).model * estimate.tokensPerSecondPerDevice
  const peak = peakFlops(on.device, software.linearPrecision)
  return { flops, mfu: flops / peak, peak }
}

export function winnerLines(found: SearchResult, ground: Ground, columns: number, color: boolean): string[] {
  const { model, on } = ground
  const best = found.best[0]!
  const { estimate, layout, bytes } = best
  const { flops, mfu, peak } = utilization(best, ground)
  const parts = (Object.keys(PART_NAMES) as (keyof StepParts)[]).filter((part) => estimate.parts[part] > 0)
  const bars = parts.map(
    (part): Bar => ({
      label: PART_NAMES[part],
      value: estimate.parts[part],
      note: formatPercent(estimate.parts[part] / estimate.seconds),
    }),
  )
  return [
    `${model.name} on ${exactCount(on.devices)} x ${on.device.name}: ${formatCount(found.possible)} layouts possible, ${formatCount(found.fitting)} fit`,
    ...(on.isCompared
      ? []
      : [
          `no published run on ${on.device.name} was compared with these estimates: the order of layouts says more than the times`,
        ]),
    '',
    `best: ${describeLayout(layout)}`,
    `  ${formatDuration(estimate.seconds)} a step, ${formatCount(estimate.tokensPerSecond)} tokens/s (${formatCount(estimate.tokensPerSecondPerDevice)} a device), ${(flops / 1e12).toFixed(0)} TFLOP/s a device (MFU ${formatPercent(mfu)} of ${formatFlops(peak)})`,
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

/** 16384 -> '16,384'. */
function exactCount(count: number): string {
  return count.toLocaleString('en-US')
}
