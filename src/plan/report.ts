// The answer of what-if.ts as lines of a terminal: the model, its compute, the verdict, the time, and the memory of one
// device as a stacked bar.
import { formatBytes, formatCount, formatDuration, formatPercent, threeDigits } from '../display/format.ts'
import { type Color, pad, paint, visibleWidth } from '../display/text.ts'
import type { DeviceSpec } from './devices.ts'
import { type DeviceMemory, MEMORY_PARTS } from './memory.ts'
import type { Answer } from './what-if.ts'

export interface ReportOptions {
  readonly device: DeviceSpec
  readonly columns: number
  readonly color: boolean
  /** Of money, energy and carbon; empty where nothing is known. */
  readonly cost: readonly string[]
}

/** Counts of models and tokens are in billions and trillions, not in giga and tera. */
export function formatModelCount(count: number): string {
  return formatCount(count).replace(/G$/, 'B')
}

/** 3.14e+23 -> '3.14e23'. */
export function formatFlopsTotal(flops: number): string {
  return flops.toExponential(2).replace('e+', 'e')
}

export function reportLines(result: Answer, options: ReportOptions): string[] {
  return [
    ...modelLines(result),
    ...computeLines(result),
    ...timeLines(result, options.device),
    ...labelled('cost', ...options.cost),
    '',
    ...memoryLines(result, options),
  ]
}

/** Names stand in a column of their own. */
const LABEL_WIDTH = 9

function labelled(label: string, ...texts: string[]): string[] {
  return texts.map((text, index) => pad(index === 0 ? label : '', LABEL_WIDTH) + text)
}

function modelLines({ model, parameters }: Answer): string[] {
  const { total, active, embedding, head, positions, attention, mlp, experts } = parameters
  const parts = [
    ['attention', attention],
    ['mlp', mlp],
    ['experts', experts],
    ['embeddings and head', embedding + head + positions],
  ] as const
  const shown = parts.filter(([, count]) => count > 0).map(([name, count]) => `${name} ${formatModelCount(count)}`)
  const sent = active === total ? '' : `, of which a token goes through ${formatModelCount(active)}`
  return labelled('model', `${model.name}: ${formatModelCount(total)} parameters${sent}`, shown.join(', '))
}

function computeLines({ tokens, flops, verdict, parameters }: Answer): string[] {
  const { optimalTokens, sameCompute } = verdict
  const optima = Object.entries(optimalTokens).map(([name, count]) => `${name} ${formatModelCount(count)}`)
  return [
    ...labelled(
      'compute',
      `${formatModelCount(tokens)} tokens: ${formatFlopsTotal(flops.exact)} FLOPs of products (6 N D: ${formatFlopsTotal(flops['6ND'])}, PaLM's 6 N D + T^2: ${formatFlopsTotal(flops.palm)})`,
    ),
    ...labelled(
      'verdict',
      `${threeDigits(verdict.tokensPerParameter)} tokens per parameter: ${verdict.sentence}`,
      `optimal tokens for ${formatModelCount(parameters.active)} parameters by Hoffmann et al. 2022: ${optima.join(', ')}`,
      `the same FLOPs at 20 tokens a parameter: ${formatModelCount(sameCompute.parameters)} parameters on ${formatModelCount(sameCompute.tokens)} tokens`,
    ),
  ]
}

function timeLines({ time }: Answer, device: DeviceSpec): string[] {
  const { devices, mfu, hfu, seconds, tokensPerSecond, deviceHours, secondsPerStep } = time
  const again = hfu === mfu ? '' : `, ${formatPercent(hfu)} of it with recomputation (HFU)`
  return labelled(
    'time',
    `${formatDuration(seconds)} on ${devices === 1 ? '' : `${formatCount(devices)} `}${device.name} at ${formatPercent(mfu)} of ${formatCount(time.peakFlops)} FLOP/s each (assumed MFU)${again}`,
    `${formatCount(tokensPerSecond)} tokens/s, ${formatDuration(secondsPerStep)} a step, ${formatCount(deviceHours)} device-hours`,
  )
}

const PART_COLORS: Record<(typeof MEMORY_PARTS)[number], Color> = {
  weights: 'blue',
  masters: 'cyan',
  gradients: 'yellow',
  optimizer: 'magenta',
  activations: 'green',
  logits: 'red',
  gathered: 'gray',
}

/** One letter or shade a part, so that the bar says something without colours. */
const PART_SHADES: Record<(typeof MEMORY_PARTS)[number], string> = {
  weights: '\u2588',
  masters: '\u2593',
  gradients: '\u2592',
  optimizer: '\u2591',
  activations: '#',
  logits: '=',
  gathered: '+',
}

function memoryLines(result: Answer, { device, columns, color }: ReportOptions): string[] {
  const { memory, limitBytes, fits, fix, own } = result
  const verdict = fits
    ? paint('fits', 'green', color)
    : paint(`does not fit: ${formatBytes(memory.total - limitBytes)} too many`, 'red', color)
  const lines = labelled(
    'memory',
    `${formatBytes(memory.total)} on the fullest device, ${formatBytes(limitBytes)} of ${device.name} can be used: ${verdict}`,
  )
  lines.push(
    ...memoryPicture(memory, limitBytes, Math.min(columns, 110) - LABEL_WIDTH, color).map(
      (line) => pad('', LABEL_WIDTH) + line,
    ),
  )
  if (!fits) {
    const advice =
      fix === undefined
        ? 'nothing of micro-batch, ZeRO, recomputation, tensor and pipeline parallelism makes it fit'
        : `the cheapest change that fits: ${fix.options} (${formatBytes(fix.bytes)})`
    lines.push(...labelled('', advice))
  }
  if (result.statesByZeroStage.length > 0) lines.push(...labelled('ZeRO', zeroLine(result.statesByZeroStage)))
  if (own !== undefined) {
    lines.push(
      ...labelled(
        'exactly',
        `this program on one device in ${own.floatDtype}, by a dry run: ${formatBytes(own.totalBytes)} (weights ${formatBytes(own.parameterBytes)}, gradients ${formatBytes(own.gradientBytes)}, optimizer ${formatBytes(own.optimizerBytes)}, activations ${formatBytes(own.arenaBytes)})`,
      ),
    )
  }
  return lines
}

/** What each stage leaves of weights, masters, gradients and states. */
function zeroLine(stages: readonly number[]): string {
  const shown = stages.map(
    (bytes, stage) =>
      `${stage}: ${formatBytes(bytes)}${stage === 0 ? '' : ` (${threeDigits(stages[0]! / bytes)}x less)`}`,
  )
  return `weights, gradients and states by stage: ${shown.join(', ')}`
}

/** A stacked bar as wide as the device's memory, or as what is needed where that is more, and its key. */
export function memoryPicture(memory: DeviceMemory, limitBytes: number, width: number, color: boolean): string[] {
  const full = Math.max(memory.total, limitBytes)
  const inner = Math.max(10, width - 2)
  const limitColumn = Math.round((limitBytes / full) * inner)
  const shownParts = MEMORY_PARTS.filter((part) => memory[part] > 0)
  let bar = ''
  let drawn = 0
  let sum = 0
  for (const part of shownParts) {
    sum += memory[part]
    const end = Math.round((sum / full) * inner)
    bar += paint(PART_SHADES[part].repeat(end - drawn), PART_COLORS[part], color)
    drawn = end
  }
  bar += ' '.repeat(inner - drawn)
  const isOver = memory.total > limitBytes
  const mark = isOver ? [`${' '.repeat(limitColumn + 1)}^ ${formatBytes(limitBytes)}`] : []
  const key = shownParts.map(
    (part) => `${paint(PART_SHADES[part], PART_COLORS[part], color)} ${part} ${formatBytes(memory[part])}`,
  )
  return [`[${bar}]`, ...mark, ...wrapItems(key, width)]
}

/** Items two blanks apart, in as many lines as they need. */
function wrapItems(items: readonly string[], width: number): string[] {
  const lines: string[] = []
  let line = ''
  let used = 0
  for (const item of items) {
    const length = visibleWidth(item)
    if (line !== '' && used + 2 + length > width) {
      lines.push(line)
      line = ''
      used = 0
    }
    line += (line === '' ? '' : '  ') + item
    used += (used === 0 ? 0 : 2) + length
  }
  return line === '' ? lines : [...lines, line]
}
