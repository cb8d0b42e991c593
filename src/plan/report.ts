// The answer of what-if.ts as lines of a terminal: the model, its compute, the verdict, the time, and the memory of one
// device as a stacked bar.
import { formatBytes, formatCount, formatDuration, formatFlops, formatPercent, threeDigits } from '../display/format.ts'
import { pad, paint } from '../display/text.ts'
import type { DeviceSpec } from './devices.ts'
import { memoryPicture } from './memory-picture.ts'
import { PRECISIONS } from './precision.ts'
import type { Answer, TrainingTime } from './what-if.ts'

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
  const amount = `${formatModelCount(tokens)} tokens: ${formatFlopsTotal(flops.exact)} FLOPs of products`
  if (verdict === undefined) return labelled('compute', `${amount}, none for gradients of the frozen weights`)
  const { optimalTokens, sameCompute } = verdict
  const optima = Object.entries(optimalTokens).map(([name, count]) => `${formatModelCount(count)} (${name})`)
  return [
    ...labelled(
      'compute',
      `${amount} (6 N D: ${formatFlopsTotal(flops['6ND']!)}, PaLM's 6 N D + T^2: ${formatFlopsTotal(flops.palm!)})`,
    ),
    ...labelled(
      'verdict',
      `${threeDigits(verdict.tokensPerParameter)} tokens per parameter: ${verdict.sentence}`,
      `optimal tokens for ${formatModelCount(parameters.active)} parameters by Hoffmann et al. 2022: ${optima.join(', ')}`,
      `the same FLOPs at 20 tokens a parameter: ${formatModelCount(sameCompute.parameters)} parameters on ${formatModelCount(sameCompute.tokens)} tokens`,
    ),
  ]
}

function timeLines({ time, setup }: Answer, device: DeviceSpec): string[] {
  const { devices, peak, seconds, tokensPerSecond, deviceHours, secondsPerStep } = time
  const wanted = PRECISIONS[setup.precision].format
  const instead = peak.format === wanted ? '' : ` in ${peak.format} (no units for ${wanted})`
  return labelled(
    'time',
    `${formatDuration(seconds)} on ${devices === 1 ? '' : `${formatCount(devices)} `}${device.name}: ${utilization(time)} of ${formatFlops(peak.flops)}${instead}${devices === 1 ? '' : ' each'}`,
    `${formatCount(tokensPerSecond)} tokens/s, ${formatDuration(secondsPerStep)} a step, ${formatCount(deviceHours)} device-hours`,
  )
}

/** What part of the peak is used, and how that is known. */
function utilization({ mfu, hfu, basis, bubble }: TrainingTime): string {
  const again = hfu === mfu ? '' : `; ${formatPercent(hfu)} HFU, with what is computed again`
  const wait = bubble === 0 ? '' : `; ${formatPercent(bubble)} of the time stages of the pipeline wait`
  const how = {
    given: 'as given',
    measured: 'by measured rates, op by op',
    assumed: `assumed${wait}`,
  }[basis]
  return `${formatPercent(mfu)} MFU (${how}${again})`
}

function memoryLines(result: Answer, { device, columns, color }: ReportOptions): string[] {
  const { memory, limitBytes, fits, fix, own } = result
  const verdict = fits
    ? paint('fits', 'green', color)
    : paint(`does not fit: ${formatBytes(memory.total - limitBytes)} too much`, 'red', color)
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
  else if (result.setup.parallelism.zeroStage > 0) {
    lines.push(...labelled('ZeRO', 'cuts nothing: there is one copy of the model, and it cuts over copies'))
  }
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
