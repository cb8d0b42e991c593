// A pipeline's timeline as an SVG picture: a row a rank, forwards blue, backwards green, gradients of weights violet,
// lighter for later chunks; what stays grey is the bubble. One file, no script, readable in every browser.
import { formatDuration, formatPercent } from '../../display/format.ts'
import type { Kind } from './schedule.ts'
import type { Timeline } from './timeline.ts'

/** Hue and saturation of each kind of work. */
const COLORS: Readonly<Record<Kind, string>> = { forward: '212, 68%', backward: '146, 45%', weight: '276, 38%' }
const NAMES: Readonly<Record<Kind, string>> = {
  forward: 'forward',
  backward: 'backward',
  weight: 'gradients of weights',
}

const ROW = 22
const GAP = 4
const LEFT = 64
const TOP = 58
const FOOT = 34
/** Pixels of a digit. Numbers of micro-batches are written where they have room. */
const DIGIT_WIDTH = 6
/** Pixels of the time axis: so many for each work of a rank, within these bounds. */
const WORK_WIDTH = 4
const [LEAST_WIDTH, MOST_WIDTH] = [1200, 4000]
/** Times written under the axis. */
const TICKS = 4
const GREY = '#e4e4e4'

export interface SvgOptions {
  readonly title: string
  /** Chunks of the model on a rank, for the shades. Default 1. */
  readonly chunks?: number
}

export function timelineSvg({ ranks, seconds, bubble }: Timeline, { title, chunks = 1 }: SvgOptions): string {
  const most = Math.max(...ranks.map((events) => events.length))
  const width = Math.min(MOST_WIDTH, Math.max(LEAST_WIDTH, WORK_WIDTH * most))
  const height = TOP + ranks.length * (ROW + GAP) + FOOT
  const start = Math.min(...ranks.flatMap((events) => events[0]?.start ?? []))
  const span = Math.max(...ranks.flatMap((events) => events.at(-1)?.end ?? [])) - start
  const scale = width / span
  const out: string[] = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${LEFT + width + 16}" height="${height}" viewBox="0 0 ${LEFT + width + 16} ${height}" font-family="system-ui, sans-serif" font-size="11">`,
    `<title>${escapeXml(title)}</title>`,
    '<rect width="100%" height="100%" fill="#ffffff"/>',
    `<text x="${LEFT}" y="18" font-size="14" fill="#222222">${escapeXml(title)}</text>`,
  ]
  const kinds = new Set(ranks.flat().map(({ kind }) => kind))
  let x = LEFT
  for (const kind of ['forward', 'backward', 'weight'] as const) {
    if (!kinds.has(kind)) continue
    out.push(`<rect x="${x}" y="30" width="12" height="12" fill="${shade(kind, 0, 1)}"/>`)
    out.push(`<text x="${x + 17}" y="40" fill="#444444">${NAMES[kind]}</text>`)
    x += 28 + 7 * NAMES[kind].length
  }
  // Zero-bubble: ranks begin the next step when they are through with this one.
  const overlap = span > seconds * (1 + 1e-9) ? `; steps overlap, one every ${formatDuration(seconds)}` : ''
  out.push(`<rect x="${x}" y="30" width="12" height="12" fill="${GREY}"/>`)
  out.push(
    `<text x="${x + 17}" y="40" fill="#444444">waiting: the busiest rank ${formatPercent(bubble)} of its work${overlap}</text>`,
  )
  for (const [rank, events] of ranks.entries()) {
    const y = TOP + rank * (ROW + GAP)
    out.push(`<text x="${LEFT - 8}" y="${y + 15}" text-anchor="end" fill="#444444">rank ${rank}</text>`)
    out.push(`<rect x="${LEFT}" y="${y}" width="${width}" height="${ROW}" fill="${GREY}"/>`)
    for (const { kind, microBatch, chunk, start: from, end } of events) {
      const part = Math.floor(chunk / ranks.length)
      const left = LEFT + (from - start) * scale
      const wide = (end - from) * scale
      out.push(
        `<rect x="${left.toFixed(2)}" y="${y}" width="${Math.max(0.3, wide).toFixed(2)}" height="${ROW}" fill="${shade(kind, part, chunks)}" stroke="#ffffff" stroke-width="${wide > 3 ? 0.6 : 0}"><title>${NAMES[kind]} of micro-batch ${microBatch}, chunk ${chunk}: ${formatDuration(from)} to ${formatDuration(end)}</title></rect>`,
      )
      if (wide >= 3 + DIGIT_WIDTH * String(microBatch).length) {
        out.push(
          `<text x="${(left + wide / 2).toFixed(2)}" y="${y + 15}" text-anchor="middle" fill="${isLight(part, chunks) ? '#222222' : '#ffffff'}" font-size="10" pointer-events="none">${microBatch}</text>`,
        )
      }
    }
  }
  const foot = TOP + ranks.length * (ROW + GAP) + 14
  for (let tick = 0; tick <= TICKS; tick++) {
    const anchor = tick === 0 ? 'start' : tick === TICKS ? 'end' : 'middle'
    const time = tick === 0 ? '0' : formatDuration((span * tick) / TICKS)
    out.push(
      `<text x="${LEFT + (width * tick) / TICKS}" y="${foot}" text-anchor="${anchor}" fill="#444444">${time}</text>`,
    )
  }
  out.push('</svg>')
  return `${out.join('\n')}\n`
}

function shade(kind: Kind, part: number, chunks: number): string {
  return `hsl(${COLORS[kind]}, ${lightness(part, chunks).toFixed(0)}%)`
}

/** Percent: later chunks are lighter. */
function lightness(part: number, chunks: number): number {
  return 40 + (chunks <= 1 ? 0 : (30 * part) / (chunks - 1))
}

function isLight(part: number, chunks: number): boolean {
  return lightness(part, chunks) > 55
}

function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
