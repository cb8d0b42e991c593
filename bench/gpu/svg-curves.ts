// Curves over a linear x and a linear y axis as SVG text. Plain: no library, no styles but its own, readable on white and
// on black.

export interface Curve {
  readonly name: string
  readonly color: string
  readonly isDashed?: boolean
  /** Values at x = 1, 2 ... */
  readonly values: readonly number[]
}

const [WIDTH, HEIGHT] = [720, 400]
const AREA = { left: 56, right: 210, top: 36, bottom: 44 }
const TICKS = 6

/** Round numbers from below the least to above the largest value. */
function ticks(low: number, high: number): number[] {
  const raw = (high - low || 1) / TICKS
  const power = 10 ** Math.floor(Math.log10(raw))
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= raw)!
  const from = Math.floor(low / step)
  return Array.from({ length: Math.ceil(high / step) - from + 1 }, (_, i) => (from + i) * step)
}

/** Points of a curve at most: more cannot be told apart. */
const MOST_POINTS = 150

/** Values above `yMost`, and those that are no numbers, are left out. */
export function curvesSvg(
  title: string,
  xLabel: string,
  curves: readonly Curve[],
  yMost = Number.POSITIVE_INFINITY,
): string {
  const points = curves.map(({ values }) => {
    const every = Math.ceil(values.length / MOST_POINTS)
    const all = values.map((y, i) => [i + 1, y] as const)
    return all.filter(([x, y]) => Number.isFinite(y) && y <= yMost && (x % every === 0 || x === 1))
  })
  const ys = points.flat().map(([, y]) => y)
  const xTicks = ticks(0, Math.max(...curves.map(({ values }) => values.length)))
  const yTicks = ticks(Math.min(...ys), Math.max(...ys))
  const scale = (value: number, all: readonly number[], from: number, to: number): number =>
    from + ((value - all[0]!) / (all.at(-1)! - all[0]!)) * (to - from)
  const toX = (x: number): number => scale(x, xTicks, AREA.left, WIDTH - AREA.right)
  const toY = (y: number): number => scale(y, yTicks, HEIGHT - AREA.bottom, AREA.top)
  const text = (x: number, y: number, words: string, more = ''): string =>
    `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" fill="#888" ${more}>${words}</text>`
  const line = (x1: number, y1: number, x2: number, y2: number): string =>
    `<line x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}" stroke="#8884"/>`
  const left = WIDTH - AREA.right + 14
  const parts = [
    text(AREA.left, 20, title, 'font-size="14"'),
    text((AREA.left + WIDTH - AREA.right) / 2, HEIGHT - 10, xLabel, 'text-anchor="middle"'),
    ...xTicks.flatMap((x) => [
      line(toX(x), AREA.top, toX(x), HEIGHT - AREA.bottom),
      text(toX(x), HEIGHT - AREA.bottom + 16, String(x), 'text-anchor="middle"'),
    ]),
    ...yTicks.flatMap((y) => [
      line(AREA.left, toY(y), WIDTH - AREA.right, toY(y)),
      text(AREA.left - 6, toY(y) + 4, String(Number(y.toPrecision(3))), 'text-anchor="end"'),
    ]),
    ...curves.flatMap(({ name, color, isDashed }, i) => {
      const path = points[i]!.map(([x, y]) => `${toX(x).toFixed(1)},${toY(y).toFixed(1)}`).join(' ')
      const at = AREA.top + 8 + 18 * i
      const dash = isDashed ? ' stroke-dasharray="5 3"' : ''
      return [
        `<polyline points="${path}" fill="none" stroke="${color}" stroke-width="1.4"${dash}/>`,
        `<line x1="${left}" y1="${at}" x2="${left + 22}" y2="${at}" stroke="${color}" stroke-width="2"${dash}/>`,
        text(left + 27, at + 4, name),
      ]
    }),
  ]
  const open = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`
  return `${[open, ...parts, '</svg>'].join('\n')}\n`
}
