// Curves and bars drawn with characters: braille dots (2 x 4 a character) and eighth blocks. Pure: points in, lines out.
import { formatCount } from './format.ts'
import { pad, paint, visibleWidth } from './text.ts'

export interface Point {
  x: number
  y: number
}

export interface CurveOptions {
  /** Columns and lines of the whole drawing, axes and labels included. */
  width: number
  height: number
  xLabel?: string
  yLabel?: string
  /** A few points drawn as 'o' over the curve, such as validation losses. */
  marks?: readonly Point[]
  color?: boolean
}

const BRAILLE = 0x2800
/** Bit of the dot in column 0/1, row 0..3 of a braille character. */
const DOTS = [
  [0x01, 0x02, 0x04, 0x40],
  [0x08, 0x10, 0x20, 0x80],
] as const
/** Below this, numbers lose digits: drawn as 0. */
const TINY = 1e-290
const VERTICAL = '\u2502'
const TICK_LEFT = '\u2524'
const CORNER = '\u2514'
const HORIZONTAL = '\u2500'
const TICK_DOWN = '\u252c'

/**
 * A curve through the mean of the points under each dot column, with axes. Points that are not finite are left out.
 * Lines: a title with the labels (if any), the plot, the x axis, its numbers.
 */
export function renderCurve(points: readonly Point[], options: CurveOptions): string[] {
  const { xLabel = '', yLabel = '', color = false } = options
  const finite = (point: Point): boolean => Number.isFinite(point.x) && Number.isFinite(point.y)
  const curve = points.filter(finite)
  const marks = (options.marks ?? []).filter(finite)
  const everything = [...curve, ...marks]
  const titleLines = yLabel === '' ? 0 : 1
  const rows = Math.max(2, options.height - 2 - titleLines)
  if (everything.length === 0) return pad2(['(nothing to draw yet)'], options.height)

  const [yLow, yHigh] = range(everything.map((point) => point.y))
  const [xLow, xHigh] = range(everything.map((point) => point.x))
  const yTicks = ticks(yLow, yHigh, Math.max(2, Math.floor(rows / 3)))
  const gutter = Math.max(...yTicks.labels.map((label) => label.length)) + 1
  const columns = Math.max(4, options.width - gutter - 1)
  const xTicks = ticks(xLow, xHigh, Math.max(2, Math.floor(columns / 14)))

  const canvas = new Canvas(columns, rows)
  const toX = (x: number): number => Math.round(((x - xLow) / (xHigh - xLow)) * (columns * 2 - 1))
  const toY = (y: number): number => Math.round(((yHigh - y) / (yHigh - yLow)) * (rows * 4 - 1))
  canvas.polyline(bucketMeans(curve, toX).map(([x, y]) => [x, toY(y)]))
  for (const mark of marks) canvas.mark(Math.floor(toX(mark.x) / 2), Math.floor(toY(mark.y) / 4))

  const tickRows = new Map(yTicks.values.map((value, index) => [Math.floor(toY(value) / 4), yTicks.labels[index]!]))
  const lines: string[] = titleLines === 0 ? [] : [paint(`${' '.repeat(gutter)}${yLabel}`, 'gray', color)]
  for (let row = 0; row < rows; row++) {
    const label = tickRows.get(row)
    const axis = `${(label ?? '').padStart(gutter - 1)} ${label === undefined ? VERTICAL : TICK_LEFT}`
    lines.push(paint(axis, 'gray', color) + canvas.line(row, color))
  }
  const tickColumns = new Map(xTicks.values.map((value, index) => [Math.floor(toX(value) / 2), xTicks.labels[index]!]))
  const rule = Array.from({ length: columns }, (_, column) => (tickColumns.has(column) ? TICK_DOWN : HORIZONTAL)).join(
    '',
  )
  lines.push(paint(' '.repeat(gutter) + CORNER + rule, 'gray', color))
  lines.push(paint(' '.repeat(gutter + 1) + axisNumbers(tickColumns, columns, xLabel), 'gray', color))
  return lines
}

function pad2(lines: string[], height: number): string[] {
  return [...lines, ...Array.from({ length: Math.max(0, height - lines.length) }, () => '')]
}

/** Lowest and highest, a little apart when they are equal but for rounding: no scale could tell them apart. */
function range(values: readonly number[]): [number, number] {
  let low = Number.POSITIVE_INFINITY
  let high = Number.NEGATIVE_INFINITY
  for (const value of values) {
    low = Math.min(low, value)
    high = Math.max(high, value)
  }
  const magnitude = Math.max(Math.abs(low), Math.abs(high))
  if (high - low > Math.max(magnitude * 1e-12, TINY)) return [low, high]
  const around = magnitude > TINY ? magnitude * 0.05 : 0.5
  return [low - around, high + around]
}

/** Round numbers inside [low, high], about `count` of them, written with the digits that their distance needs. */
export function ticks(low: number, high: number, count: number): { values: number[]; labels: string[] } {
  const rough = (high - low) / count
  const power = 10 ** Math.floor(Math.log10(rough))
  const steps = [0.5, 1, 2, 5, 10].map((factor) => factor * power)
  const inside = (step: number): number => Math.floor(high / step + 1e-9) - Math.ceil(low / step - 1e-9) + 1
  const wide = steps.findIndex((candidate) => candidate >= rough * 0.999)
  // One number is no scale: take the next finer step.
  const step = inside(steps[wide]!) >= 2 ? steps[wide]! : steps[wide - 1]!
  const values: number[] = []
  // Multiples by index: a sum would gather rounding errors.
  // `|| 0`: Math.ceil gives -0 for what lies just below 0.
  const first = Math.ceil(low / step - 1e-9) || 0
  for (let index = first; index * step <= high + step * 1e-9; index++) values.push(index * step)
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9))
  const large = step >= 1000 || Math.abs(high) >= 1e5
  const label = (value: number): string => (large ? formatCount(value) : value.toFixed(digits))
  return { values, labels: values.map((value) => (digits > 6 ? value.toExponential(1) : label(value))) }
}

/** Mean y of the points that share a dot column, in order of columns. */
function bucketMeans(points: readonly Point[], toX: (x: number) => number): [number, number][] {
  const sums = new Map<number, [sum: number, count: number]>()
  for (const point of points) {
    const column = toX(point.x)
    const [sum, count] = sums.get(column) ?? [0, 0]
    sums.set(column, [sum + point.y, count + 1])
  }
  return [...sums].map(([column, [sum, count]]): [number, number] => [column, sum / count]).sort((a, b) => a[0] - b[0])
}

/** The numbers under an x axis, each centred under its tick where there is room; the label stands before the first. */
function axisNumbers(byColumn: ReadonlyMap<number, string>, columns: number, label: string): string {
  let line = ''
  let name = label === '' ? '' : `${label} `
  for (const [column, text] of [...byColumn].sort((a, b) => a[0] - b[0])) {
    const centred = Math.max(0, Math.min(column - Math.floor(text.length / 2), columns - text.length))
    const start = Math.max(0, centred - name.length)
    if ((line !== '' && start < line.length + 1) || start + name.length + text.length > columns) continue
    line = line.padEnd(start) + name + text
    name = ''
  }
  return line
}

class Canvas {
  readonly #columns: number
  readonly #bits: Uint8Array
  readonly #marks = new Set<number>()

  constructor(columns: number, rows: number) {
    this.#columns = columns
    this.#bits = new Uint8Array(columns * rows)
  }

  /** Connects dots given as [x, y] in dot coordinates, x rising. */
  polyline(dots: readonly (readonly [number, number])[]): void {
    const first = dots[0]
    if (first === undefined) return
    let [fromX, fromY] = first
    this.#dot(fromX, fromY)
    for (const [toX, toY] of dots.slice(1)) {
      let y = fromY
      for (let x = fromX + 1; x <= toX; x++) {
        const next = Math.round(fromY + ((toY - fromY) * (x - fromX)) / (toX - fromX))
        // A steep piece is a vertical run, half of it in each column.
        const middle = Math.round((y + next) / 2)
        for (let at = y; at !== middle; at += Math.sign(middle - at)) this.#dot(x - 1, at)
        for (let at = middle; at !== next; at += Math.sign(next - at)) this.#dot(x, at)
        this.#dot(x, next)
        y = next
      }
      fromX = toX
      fromY = toY
    }
  }

  mark(column: number, row: number): void {
    this.#marks.add(row * this.#columns + column)
  }

  #dot(x: number, y: number): void {
    this.#bits[(y >> 2) * this.#columns + (x >> 1)]! |= DOTS[x & 1]![y & 3]!
  }

  line(row: number, color: boolean): string {
    let line = ''
    let run = ''
    for (let column = 0; column < this.#columns; column++) {
      const cell = row * this.#columns + column
      if (this.#marks.has(cell)) {
        line += paint(run, 'cyan', color) + paint('o', 'yellow', color)
        run = ''
      } else run += this.#bits[cell] === 0 ? ' ' : String.fromCharCode(BRAILLE + this.#bits[cell]!)
    }
    return line + paint(run, 'cyan', color)
  }
}

export interface Bar {
  label: string
  value: number
  /** Text after the number. */
  note?: string
}

export interface BarOptions {
  /** Columns of a whole line. */
  width: number
  /** How a value is written; default formatCount. */
  format?: (value: number) => string
  /** The value of a full bar; default the largest. */
  full?: number
  color?: boolean
}

/** Horizontal bars with labels and numbers, one line each. Values below 0 are drawn as 0. */
export function renderBarChart(bars: readonly Bar[], options: BarOptions): string[] {
  const { format = formatCount, color = false } = options
  const full = options.full ?? Math.max(0, ...bars.map((bar) => bar.value))
  const labelWidth = Math.max(0, ...bars.map((bar) => visibleWidth(bar.label)))
  const texts = bars.map((bar) => format(bar.value))
  const textWidth = Math.max(0, ...texts.map((text) => text.length))
  const noteWidth = Math.max(0, ...bars.map((bar) => (bar.note === undefined ? 0 : visibleWidth(bar.note) + 2)))
  const room = Math.max(4, options.width - labelWidth - textWidth - noteWidth - 4)
  return bars.map((bar, index) => {
    const share = full > 0 ? Math.min(1, Math.max(0, bar.value / full)) : 0
    const drawn = pad(renderBar(share, room), room)
    const note = bar.note === undefined ? '' : `  ${bar.note}`
    return `${pad(bar.label, labelWidth)}  ${paint(drawn, 'cyan', color)}  ${texts[index]!.padStart(textWidth)}${note}`
  })
}

/** A solid bar of `share` (0..1) of `width` columns, to an eighth of a column; not padded. */
export function renderBar(share: number, width: number): string {
  const eighths = Math.round(Math.min(1, Math.max(0, share)) * width * 8)
  const rest = eighths % 8
  return '\u2588'.repeat(Math.floor(eighths / 8)) + (rest === 0 ? '' : String.fromCharCode(0x2590 - rest))
}
