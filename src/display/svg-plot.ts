// Points and curves as an SVG picture: axes that may be logarithmic, a legend, colours that print. Pure: data in, text out.
import { formatCount, threeDigits } from './format.ts'

export interface PlotSeries {
  readonly name: string
  readonly points: readonly { x: number; y: number }[]
  /** dots: a mark at each point; line: joined; dashed: joined by dashes. */
  readonly style: 'dots' | 'line' | 'dashed'
  /** Index of its colour; series that belong together share one. */
  readonly color: number
  /** Left out of the legend. */
  readonly isQuiet?: boolean
}

export interface PlotOptions {
  readonly title: string
  readonly xLabel: string
  readonly yLabel: string
  readonly width?: number
  readonly height?: number
  /** Logarithmic x; default true. */
  readonly hasLogX?: boolean
  /** Logarithmic y; default false. */
  readonly hasLogY?: boolean
  /** Where x has its ticks, written as they are; default round numbers. */
  readonly xTicks?: readonly number[]
}

/** Okabe and Ito's colours, told apart by the colour-blind too; then grey. */
const COLORS = ['#0072b2', '#e69f00', '#009e73', '#d55e00', '#cc79a7', '#56b4e9', '#8a7f00', '#555555']
const MARGIN = { left: 62, right: 14, top: 34, bottom: 46 }
/** Of a legend's mark and margins, and of one letter, about. */
const [LEGEND_MARK, LETTER] = [40, 6.4]

/** @returns a whole <svg> element */
export function renderSvgPlot(series: readonly PlotSeries[], options: PlotOptions): string {
  const { title, xLabel, yLabel, width = 760, height = 420, hasLogX = true, hasLogY = false } = options
  const named = series.filter((one) => one.isQuiet !== true)
  const legendWidth = LEGEND_MARK + LETTER * Math.max(...named.map(({ name }) => name.length))
  const right = MARGIN.right + (named.length > 0 ? legendWidth : 0)
  const [plotWidth, plotHeight] = [width - MARGIN.left - right, height - MARGIN.top - MARGIN.bottom]
  const points = series.flatMap((one) => one.points).filter(isDrawable)
  const along = (value: number, isLog: boolean): number => (isLog ? Math.log10(value) : value)
  const [xLow, xHigh] = spread(points.map((point) => along(point.x, hasLogX)))
  const [yLow, yHigh] = spread(points.map((point) => along(point.y, hasLogY)))
  const toX = (x: number): number => MARGIN.left + ((along(x, hasLogX) - xLow) / (xHigh - xLow)) * plotWidth
  const toY = (y: number): number => MARGIN.top + ((yHigh - along(y, hasLogY)) / (yHigh - yLow)) * plotHeight
  const body: string[] = []
  for (const x of options.xTicks ?? (hasLogX ? logTicks(xLow, xHigh) : linearTicks(xLow, xHigh))) {
    const at = fixed(toX(x))
    body.push(line(at, MARGIN.top, at, MARGIN.top + plotHeight, '#e4e4e4'))
    body.push(text(at, MARGIN.top + plotHeight + 16, options.xTicks ? String(x) : tickText(x), 'middle'))
  }
  for (const y of hasLogY ? logTicks(yLow, yHigh) : linearTicks(yLow, yHigh)) {
    const at = fixed(toY(y))
    body.push(line(MARGIN.left, at, MARGIN.left + plotWidth, at, '#e4e4e4'))
    body.push(text(MARGIN.left - 6, at + 4, threeDigits(y), 'end'))
  }
  for (const one of series) body.push(drawSeries(one, toX, toY))
  for (const [index, one] of named.entries())
    body.push(legendEntry(one, width - legendWidth, MARGIN.top + 8 + 18 * index))
  body.push(text(MARGIN.left, 20, title, 'start', 'font-weight="bold" font-size="14"'))
  body.push(text(MARGIN.left + plotWidth / 2, height - 8, xLabel, 'middle'))
  body.push(
    `<text transform="translate(14 ${MARGIN.top + plotHeight / 2}) rotate(-90)" text-anchor="middle">${escapeXml(yLabel)}</text>`,
  )
  const frame = `<rect x="${MARGIN.left}" y="${MARGIN.top}" width="${plotWidth}" height="${plotHeight}" fill="none" stroke="#777"/>`
  const style = 'font-family="system-ui, sans-serif" font-size="12" fill="#222"'
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" ${style}>\n<rect width="${width}" height="${height}" fill="white"/>\n${body.join('\n')}\n${frame}\n</svg>\n`
}

const isDrawable = ({ x, y }: { x: number; y: number }): boolean => Number.isFinite(x) && Number.isFinite(y)
const fixed = (value: number): number => Number(value.toFixed(1))
const colorOf = (index: number): string => COLORS[index % COLORS.length]!

function drawSeries(
  { points, style, color }: PlotSeries,
  toX: (x: number) => number,
  toY: (y: number) => number,
): string {
  const drawn = points.filter(isDrawable).map(({ x, y }) => [fixed(toX(x)), fixed(toY(y))] as const)
  const stroke = colorOf(color)
  if (style === 'dots')
    return drawn.map(([x, y]) => `<circle cx="${x}" cy="${y}" r="3.6" fill="${stroke}"/>`).join('\n')
  const dash = style === 'dashed' ? ' stroke-dasharray="5 4"' : ''
  return `<polyline fill="none" stroke="${stroke}" stroke-width="1.6"${dash} points="${drawn.map((point) => point.join(',')).join(' ')}"/>`
}

function legendEntry(series: PlotSeries, x: number, y: number): string {
  const mark =
    series.style === 'dots'
      ? `<circle cx="${x + 10}" cy="${y}" r="3.6" fill="${colorOf(series.color)}"/>`
      : `<line x1="${x}" y1="${y}" x2="${x + 20}" y2="${y}" stroke="${colorOf(series.color)}" stroke-width="1.6"${series.style === 'dashed' ? ' stroke-dasharray="5 4"' : ''}/>`
  return `${mark}\n${text(x + 26, y + 4, series.name, 'start')}`
}

function line(x1: number, y1: number, x2: number, y2: number, color: string): string {
  return `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke="${color}"/>`
}

function text(x: number, y: number, content: string, anchor: 'start' | 'middle' | 'end', more = ''): string {
  return `<text x="${x}" y="${y}" text-anchor="${anchor}" ${more}>${escapeXml(content)}</text>`
}

export function escapeXml(content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')
}

/** Lowest and highest with some room. */
function spread(values: readonly number[]): [number, number] {
  const low = values.reduce((least, value) => Math.min(least, value), Number.POSITIVE_INFINITY)
  const high = values.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY)
  if (!Number.isFinite(low)) return [0, 1]
  const room = high > low ? 0.04 * (high - low) : 0.5
  return [low - room, high + room]
}

function logTicks(low: number, high: number): number[] {
  const steps = high - low > 3 ? [1] : high - low > 1 ? [1, 3] : [1, 1.5, 2, 3, 5, 7]
  const ticks: number[] = []
  for (let power = Math.floor(low); power <= high; power++) {
    for (const step of steps) {
      const value = step * 10 ** power
      if (Math.log10(value) >= low && Math.log10(value) <= high) ticks.push(value)
    }
  }
  return ticks
}

function linearTicks(low: number, high: number): number[] {
  const rough = (high - low) / 6
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough)!
  const ticks: number[] = []
  for (let index = Math.ceil(low / step); index * step <= high; index++) ticks.push(index * step)
  return ticks
}

function tickText(value: number): string {
  if (value >= 1e15) return value.toExponential(0).replace('e+', 'e')
  return value >= 1 ? formatCount(value) : threeDigits(value)
}
