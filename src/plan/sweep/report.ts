// A sweep's report: lines for a terminal, and one HTML page with its pictures, which stand beside it as SVG files.
import { type Point, renderCurve } from '../../display/chart.ts'
import { formatCount } from '../../display/format.ts'
import { escapeXml, type PlotSeries, renderSvgPlot } from '../../display/svg-plot.ts'
import { table } from '../../display/text.ts'
import { describeFit } from '../scaling/fit-report.ts'
import { computeOptimal, lossOf, type ParametricLaw, TRAINING_FLOPS } from '../scaling/parametric-law.ts'
import type { Recommendation, SweepReport } from './analysis.ts'
import type { SweepGrid } from './grid.ts'
import { tokensOf } from './run-spec.ts'
import { pointsOf, type SweepResults } from './sweep.ts'

/** A model that was trained outside of the budget to see whether the law holds. */
export interface TargetCheck {
  readonly parameters: number
  readonly tokens: number
  readonly predicted: number
  readonly measured: number
  /** Lowest loss of the runs in the fit: what "nothing changes" predicts. */
  readonly lowest: number
}

export function checkErrors(check: TargetCheck): { error: number; trivialError: number } {
  return { error: check.predicted / check.measured - 1, trivialError: check.lowest / check.measured - 1 }
}

const percent = (value: number, digits = 2): string => `${(100 * value).toFixed(digits)} %`

export function describeSweep(
  report: SweepReport,
  results: SweepResults,
  { columns, color }: { columns: number; color: boolean },
): string[] {
  const lines = [...frontierPlot(report, results, columns, color), '', ...describeFit(report.fit)]
  if (report.envelope !== undefined) {
    const { parameters } = report.envelope
    lines.push(`envelope of the training losses: N grows as C^${parameters.exponent.toFixed(3)}`)
  }
  lines.push('', 'learning rate and batch, as searched:', ...searchTable(results))
  lines.push('', 'sample efficiency: validation loss at equal tokens, by parameters', ...efficiencyTable(report))
  if (report.shapes.length > 1) lines.push('', 'width against depth, at equal size and tokens:', ...shapeTable(report))
  lines.push('', ...describeRecommendation(report.recommendation))
  return lines
}

/** Loss against compute: runs as marks, the law's optimum as the curve. */
function frontierPlot(report: SweepReport, results: SweepResults, columns: number, color: boolean): string[] {
  const points = pointsOf(results.grid)
  const { law } = report.fit.fit
  const logs = points.map((point) => Math.log10(point.flops))
  const [low, high] = [Math.min(...logs), Math.max(...logs)]
  const curve: Point[] = Array.from({ length: 60 }, (_, i) => {
    const x = low + ((high - low) * i) / 59
    return { x, y: computeOptimal(law, 10 ** x).loss }
  })
  const marks = points.map((point) => ({ x: Math.log10(point.flops), y: point.loss }))
  const width = Math.max(40, Math.min(columns, 100))
  const yLabel = "loss (nats per token): o runs, the line is the law's optimum"
  return renderCurve(curve, { width, height: 16, xLabel: 'log10 FLOPs (6 N D)', yLabel, marks, color })
}

function searchTable({ tuning }: SweepResults): string[] {
  const rows = tuning.searches.map(({ what, parameters, tokens, batchTokens, valley }) => {
    const show = (x: number): string => (what === 'lr' ? (2 ** x).toPrecision(2) : formatCount(Math.round(2 ** x)))
    const flat = valley.flat === undefined ? '-' : `${show(valley.flat.low)} to ${show(valley.flat.high)}`
    const tried = valley.trials.map((trial) => `${show(trial.x)}: ${trial.loss.toFixed(3)}`).join('  ')
    const where = what === 'lr' ? `batch ${formatCount(Math.round(batchTokens))}` : ''
    return [what, formatCount(parameters), formatCount(tokens), where, show(valley.x), flat, tried]
  })
  const { sizeExponent, tokensExponent, batchExponent } = tuning.law
  return [
    ...table([['', 'parameters', 'tokens', '', 'best', 'within 0.5 %', 'tried: loss'], ...rows]),
    `carried by: lr as N^${sizeExponent.toFixed(2)} D^${tokensExponent.toFixed(2)} batch^0.5, batch as D^${batchExponent.toFixed(2)}`,
  ]
}

function efficiencyTable({ sampleEfficiency }: SweepReport): string[] {
  const sizes = [...new Set(sampleEfficiency.flatMap((row) => row.losses.map((one) => one.parameters)))].sort(
    (a, b) => a - b,
  )
  const rows = sampleEfficiency.map(({ tokens, losses }) => [
    formatCount(tokens),
    ...sizes.map((size) => losses.find((one) => one.parameters === size)?.loss.toFixed(4) ?? ''),
  ])
  return table([['tokens', ...sizes.map(formatCount)], ...rows])
}

function shapeTable({ shapes }: SweepReport): string[] {
  const lowest = Math.min(...shapes.map((shape) => shape.loss))
  const rows = shapes.map(({ layers, hiddenSize, parameters, loss }) => [
    `${layers}`,
    `${hiddenSize}`,
    formatCount(parameters),
    loss.toFixed(4),
    loss === lowest ? 'lowest' : `+${percent(loss / lowest - 1)}`,
  ])
  return table([['layers', 'width', 'parameters', 'loss', ''], ...rows])
}

function describeRecommendation(recommendation: Recommendation | undefined): string[] {
  if (recommendation === undefined) return ['no recommendation: no model of that size has the same layers']
  const { spec, parameters, tokens, optimalTokens, loss, lrRange, batchRange } = recommendation
  const { shape } = spec
  const short =
    tokens < 0.9 * optimalTokens.value
      ? ` (the law would give ${formatCount(optimalTokens.value)}, ${formatCount(optimalTokens.interval.low)} to ${formatCount(optimalTokens.interval.high)}: the text has no more)`
      : ` (${formatCount(optimalTokens.interval.low)} to ${formatCount(optimalTokens.interval.high)})`
  const lr = lrRange === undefined ? '' : ` (${lrRange.low.toPrecision(2)} to ${lrRange.high.toPrecision(2)})`
  const batch = batchRange === undefined ? '' : ` (${formatCount(batchRange.low)} to ${formatCount(batchRange.high)})`
  return [
    `next: ${formatCount(parameters)} parameters (${shape.numHiddenLayers} layers, width ${shape.hiddenSize}, MLP ${shape.intermediateSize}) on ${formatCount(tokens)} tokens${short}`,
    `      learning rate ${spec.lr.toPrecision(2)}${lr}, batch ${formatCount(spec.batchTokens)} tokens${batch}`,
    `      expected loss ${loss.value.toFixed(4)} (${loss.interval.low.toFixed(4)} to ${loss.interval.high.toFixed(4)}, as the fitted runs scatter)`,
  ]
}

export function describeCheck(check: TargetCheck): string {
  const { error, trivialError } = checkErrors(check)
  return `check: ${formatCount(check.parameters)} parameters on ${formatCount(check.tokens)} tokens: loss ${check.measured.toFixed(4)}, predicted ${check.predicted.toFixed(4)} (${percent(error)}); predicting the lowest of the sweep, ${check.lowest.toFixed(4)}: ${percent(trivialError)}`
}

export interface SweepPictures {
  /** Loss against compute by size, and the optimum of the law. */
  compute: string
  /** Loss against tokens by size. */
  tokens: string
}

/** @param check  drawn as a dot beyond the runs */
export function drawSweep(
  report: SweepReport,
  results: SweepResults,
  grid: SweepGrid,
  check?: TargetCheck,
): SweepPictures {
  const { law } = report.fit.fit
  const extra = check === undefined ? [] : [check]
  return {
    compute: renderSvgPlot(computeSeries(results, grid, law, extra), {
      title: 'Loss by compute and size',
      xLabel: 'training compute, 6 N D (FLOPs)',
      yLabel: 'validation loss (nats per token)',
    }),
    tokens: renderSvgPlot(tokenSeries(results, grid, law, extra), {
      title: 'Loss by tokens and size',
      xLabel: 'training tokens',
      yLabel: 'validation loss (nats per token)',
    }),
  }
}

function computeSeries(
  results: SweepResults,
  grid: SweepGrid,
  law: ParametricLaw,
  checks: readonly TargetCheck[],
): PlotSeries[] {
  const flopsOf = (parameters: number, tokens: number): number => TRAINING_FLOPS * parameters * tokens
  const series: PlotSeries[] = []
  for (const [color, size] of grid.sizes.entries()) {
    const runs = results.grid.filter(({ cell }) => cell.size === color)
    const tokens = runs.map(({ spec }) => tokensOf(spec))
    const points = runs.map(({ spec, loss }) => ({ x: flopsOf(spec.parameters, tokensOf(spec)), y: loss }))
    const curve = ladder(Math.min(...tokens) / 1.2, Math.max(...tokens) * 1.2).map((D) => ({
      x: flopsOf(size.parameters, D),
      y: lossOf(law, size.parameters, D),
    }))
    series.push({ name: `${formatCount(size.parameters)} parameters`, style: 'dots', color, points })
    series.push({ name: 'law', style: 'line', color, isQuiet: true, points: curve })
  }
  const all = pointsOf(results.grid).map((point) => point.flops)
  const last = Math.max(...all, ...checks.map((check) => flopsOf(check.parameters, check.tokens)))
  const frontier = ladder(Math.min(...all), last * 1.2).map((x) => ({ x, y: computeOptimal(law, x).loss }))
  series.push({ name: 'optimum of the law', style: 'dashed', color: CHECK_COLOR, points: frontier })
  return [...series, ...checkSeries(checks, (check) => flopsOf(check.parameters, check.tokens))]
}

function tokenSeries(
  results: SweepResults,
  grid: SweepGrid,
  law: ParametricLaw,
  checks: readonly TargetCheck[],
): PlotSeries[] {
  const horizons = results.grid.map(({ spec }) => tokensOf(spec))
  const last = Math.max(...horizons, ...checks.map((check) => check.tokens)) * 1.2
  const series: PlotSeries[] = []
  for (const [color, size] of grid.sizes.entries()) {
    const runs = results.grid.filter(({ cell }) => cell.size === color)
    const points = runs.map(({ spec, loss }) => ({ x: tokensOf(spec), y: loss }))
    const curve = ladder(Math.min(...horizons) / 1.2, last).map((x) => ({ x, y: lossOf(law, size.parameters, x) }))
    series.push({ name: `${formatCount(size.parameters)} parameters`, style: 'dots', color, points })
    series.push({ name: 'law', style: 'line', color, isQuiet: true, points: curve })
  }
  for (const { parameters } of checks) {
    const curve = ladder(Math.min(...horizons) / 1.2, last).map((x) => ({ x, y: lossOf(law, parameters, x) }))
    series.push({ name: 'law', style: 'dashed', color: CHECK_COLOR, isQuiet: true, points: curve })
  }
  return [...series, ...checkSeries(checks, (check) => check.tokens)]
}

const CHECK_COLOR = 7

function checkSeries(checks: readonly TargetCheck[], x: (check: TargetCheck) => number): PlotSeries[] {
  return checks.map((check) => ({
    name: `${formatCount(check.parameters)}, not fitted`,
    style: 'dots',
    color: CHECK_COLOR,
    points: [{ x: x(check), y: check.measured }],
  }))
}

/** Points evenly spaced in logarithms. */
function ladder(low: number, high: number): number[] {
  return Array.from({ length: 60 }, (_, i) => low * (high / low) ** (i / 59))
}

/** One page: the pictures and the lines of the terminal. */
export function sweepPage(title: string, pictures: SweepPictures, lines: readonly string[]): string {
  const text = escapeXml(lines.join('\n'))
  return `<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>${escapeXml(title)}</title>\n<style>body{font:15px system-ui,sans-serif;margin:2rem;max-width:62rem}svg{max-width:100%;height:auto}pre{overflow:auto;font-size:13px;line-height:1.35}</style>\n<h1>${escapeXml(title)}</h1>\n${pictures.compute}\n${pictures.tokens}\n<pre>${text}</pre>\n</html>\n`
}
