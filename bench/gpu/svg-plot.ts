// A plot of lines over logarithmic axes as SVG text. Plain: no library, no styles but its own, readable on white and on
// black.

export interface Series {
  readonly name: string
  readonly color: string
  readonly isDashed?: boolean
  /** Points alone, without a line through them. */
  readonly isMarks?: boolean
  readonly points: readonly (readonly [x: number, y: number])[]
}

const [WIDTH, HEIGHT] = [720, 420]
const AREA = { left: 74, right: 190, top: 40, bottom: 50 }

/** Powers of `base` from the one below the least value to the one above the largest. */
function decades(values: readonly number[], base: number): number[] {
  const log = (value: number): number => Math.log(value) / Math.log(base)
  const from = Math.floor(log(Math.min(...values)) + 1e-9)
  const to = Math.ceil(log(Math.max(...values)) - 1e-9)
  return Array.from({ length: to - from + 1 }, (_, i) => base ** (from + i))
}

export function plotSvg(title: string, xLabel: string, yLabel: string, series: readonly Series[]): string {
  const points = series.flatMap((line) => line.points)
  const xTicks = decades(
    points.map(([x]) => x),
    2,
  )
  const yTicks = decades(
    points.map(([, y]) => y),
    10,
  )
  const scale = (value: number, ticks: readonly number[], from: number, to: number): number => {
    const [low, high] = [Math.log(ticks[0]!), Math.log(ticks.at(-1)!)]
    return from + ((Math.log(value) - low) / (high - low || 1)) * (to - from)
  }
  const toX = (x: number): number => scale(x, xTicks, AREA.left, WIDTH - AREA.right)
  const toY = (y: number): number => scale(y, yTicks, HEIGHT - AREA.bottom, AREA.top)
  const text = (x: number, y: number, words: string, more = ''): string =>
    `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" fill="#888" ${more}>${words}</text>`
  const line = (x1: number, y1: number, x2: number, y2: number): string =>
    `<line x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}" stroke="#8884"/>`
  const parts = [
    text(AREA.left, 22, title, 'font-size="15"'),
    text((AREA.left + WIDTH - AREA.right) / 2, HEIGHT - 12, xLabel, 'text-anchor="middle"'),
    text(16, HEIGHT / 2, yLabel, `text-anchor="middle" transform="rotate(-90 16 ${HEIGHT / 2})"`),
    ...xTicks.flatMap((x) => [
      line(toX(x), AREA.top, toX(x), HEIGHT - AREA.bottom),
      text(toX(x), HEIGHT - AREA.bottom + 18, String(x), 'text-anchor="middle"'),
    ]),
    ...yTicks.flatMap((y) => [
      line(AREA.left, toY(y), WIDTH - AREA.right, toY(y)),
      text(AREA.left - 8, toY(y) + 4, String(Number(y.toPrecision(3))), 'text-anchor="end"'),
    ]),
    ...series.flatMap(({ name, color, isDashed, isMarks, points: own }, i) => {
      const path = own.map(([x, y]) => `${toX(x).toFixed(1)},${toY(y).toFixed(1)}`).join(' ')
      const at = AREA.top + 10 + 20 * i
      const dash = isDashed ? ' stroke-dasharray="6 4"' : ''
      const left = WIDTH - AREA.right + 16
      if (isMarks) {
        const dot = (x: number, y: number): string =>
          `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="4" fill="none" stroke="${color}" stroke-width="2"/>`
        return [...own.map(([x, y]) => dot(toX(x), toY(y))), dot(left + 12, at), text(left + 30, at + 4, name)]
      }
      return [
        `<polyline points="${path}" fill="none" stroke="${color}" stroke-width="2"${dash}/>`,
        `<line x1="${left}" y1="${at}" x2="${left + 24}" y2="${at}" stroke="${color}" stroke-width="2"${dash}/>`,
        text(left + 30, at + 4, name),
      ]
    }),
  ]
  const open = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`
  return `${[open, ...parts, '</svg>'].join('\n')}\n`
}
