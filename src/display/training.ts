// The live picture of a training run: loss curve, progress, speed, memory. Pure: a status in, lines out; the recipe
// measures, the terminal draws.
import { type Point, renderBar, renderCurve } from './chart.ts'
import { formatBytes, formatCount, formatDuration, formatPercent } from './format.ts'
import { paint } from './text.ts'

/** What is known about a run now. Missing values are not shown. */
export interface TrainingStatus {
  title: string
  /** Optimizer steps done, of maxSteps. */
  step: number
  maxSteps: number
  /** Training loss by step, nats per token. */
  losses: readonly Point[]
  /** Validation loss by step, nats per token. */
  valLosses?: readonly Point[]
  lr?: number
  gradNorm?: number
  /** Tokens trained so far, and per second lately. */
  tokens: number
  tokensPerSecond: number
  /** Model FLOP/s over the measured peak of this machine, 0..1. */
  peakShare?: number
  memoryBytes?: number
  memoryTotalBytes?: number
  elapsedSeconds: number
  etaSeconds?: number
  /** A last line, such as how to stop. */
  hint?: string
}

const MIN_CURVE_ROWS = 6
const MAX_CURVE_ROWS = 16

/** The picture in at most `rows` lines of `columns`; the curve is left out where there is no room. */
export function renderTraining(
  status: TrainingStatus,
  size: { columns: number; rows: number; color?: boolean },
): string[] {
  const color = size.color === true
  const width = Math.max(20, Math.min(size.columns, 100))
  const facts = wrapFacts(factList(status), width, color)
  const head = paint(status.title, 'bold', color)
  const foot = status.hint === undefined ? [] : [paint(status.hint, 'gray', color)]
  const lines = [head, progressLine(status, width, color), ...facts]
  const room = size.rows - lines.length - foot.length - 1
  if (room < MIN_CURVE_ROWS) return [...lines, ...foot].slice(0, size.rows)
  const curve = renderCurve(status.losses, {
    width,
    height: Math.min(room, MAX_CURVE_ROWS),
    xLabel: 'step',
    yLabel: `loss (nats per token)${status.valLosses?.length ? '   o validation' : ''}`,
    marks: status.valLosses ?? [],
    color,
  })
  return [head, ...curve, progressLine(status, width, color), ...facts, ...foot]
}

/** The same in one line for a log: 'step 120/600 (20.0%) loss 3.214 ...'. */
export function trainingLine(status: TrainingStatus): string {
  const progress = `step ${status.step}/${status.maxSteps} (${formatPercent(doneShare(status))})`
  return [progress, ...factList(status).map(([name, value]) => `${name} ${value}`)].join('  ')
}

function doneShare({ step, maxSteps }: TrainingStatus): number {
  return maxSteps > 0 ? Math.min(1, step / maxSteps) : 1
}

function progressLine(status: TrainingStatus, width: number, color: boolean): string {
  const share = doneShare(status)
  const left = `step ${formatCount(status.step)}/${formatCount(status.maxSteps)} `
  const right = ` ${formatPercent(share)}`
  const room = Math.max(4, width - left.length - right.length)
  const bar = renderBar(share, room)
  return (
    left + paint(bar, 'green', color) + paint('\u00b7'.repeat(Math.max(0, room - bar.length)), 'gray', color) + right
  )
}

type Fact = readonly [name: string, value: string]

function factList(status: TrainingStatus): Fact[] {
  const { lr, gradNorm, peakShare, memoryBytes, memoryTotalBytes, etaSeconds } = status
  const facts: Fact[] = []
  const loss = status.losses.at(-1)
  const valLoss = status.valLosses?.at(-1)
  if (loss !== undefined) facts.push(['loss', loss.y.toFixed(4)])
  if (valLoss !== undefined) facts.push(['val', valLoss.y.toFixed(4)])
  if (lr !== undefined) facts.push(['lr', lr.toExponential(2)])
  if (gradNorm !== undefined) facts.push(['grad', gradNorm.toFixed(3)])
  facts.push(['tokens', formatCount(status.tokens)])
  if (status.tokensPerSecond > 0) facts.push(['speed', `${formatCount(status.tokensPerSecond)} tok/s`])
  if (peakShare !== undefined) facts.push(['of peak', formatPercent(peakShare)])
  if (memoryBytes !== undefined) {
    const total = memoryTotalBytes === undefined ? '' : ` of ${formatBytes(memoryTotalBytes)}`
    facts.push(['memory', formatBytes(memoryBytes) + total])
  }
  facts.push(['elapsed', formatDuration(status.elapsedSeconds)])
  if (etaSeconds !== undefined) facts.push(['left', formatDuration(etaSeconds)])
  return facts
}

function wrapFacts(facts: readonly Fact[], width: number, color: boolean): string[] {
  const lines: string[] = []
  let line = ''
  let used = 0
  for (const [name, value] of facts) {
    const length = name.length + 1 + value.length
    if (used > 0 && used + 3 + length > width) {
      lines.push(line)
      line = ''
      used = 0
    }
    line += `${used > 0 ? '   ' : ''}${paint(name, 'gray', color)} ${value}`
    used += length + (used > 0 ? 3 : 0)
  }
  return [...lines, line]
}
