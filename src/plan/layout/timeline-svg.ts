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
/** Numbers of micro-batches are written where a work is at least so wide. */
const NUMBER_WIDTH = 13

export interface SvgOptions {
  readonly title: string
  /** Chunks of the model on a rank, for the shades. Default 1. */
  readonly chunks?: number
  /** Pixels of the time axis. Default 1200. */
  readonly width?: number
}

export function timelineSvg(
  { ranks, seconds, bubble }: Timeline,
  { title, chunks = 1, width = 1200 }: SvgOptions,
): string {
  const height = TOP + ranks.length * (ROW + GAP) + FOOT
  const scale = width / seconds
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
  out.push(`<rect x="${x}" y="30" width="12" height="12" fill="#e4e4e4"/>`)
  out.push(
    `<text x="${x + 17}" y="40" fill="#444444">bubble, ${formatPercent(bubble)} of the work of the busiest rank</text>`,
  )
  const start = Math.min(...ranks.flatMap((events) => events[0]?.start ?? []))
  for (const [rank, events] of ranks.entries()) {
    const y = TOP + rank * (ROW + GAP)
    out.push(`<text x="${LEFT - 8}" y="${y + 15}" text-anchor="end" fill="#444444">rank ${rank}</text>`)
    out.push(`<rect x="${LEFT}" y="${y}" width="${width}" height="${ROW}" fill="#e4e4e4"/>`)
    for (const { kind, microBatch, chunk, start: from, end } of events) {
      const part = Math.floor(chunk / ranks.length)
      const left = LEFT + (from - start) * scale
      const wide = (end - from) * scale
      out.push(
        `<rect x="${left.toFixed(2)}" y="${y}" width="${Math.max(0.3, wide).toFixed(2)}" height="${ROW}" fill="${shade(kind, part, chunks)}" stroke="#ffffff" stroke-width="${wide > 3 ? 0.6 : 0}"><title>${NAMES[kind]} of micro-batch ${microBatch}, chunk ${chunk}: ${formatDuration(from)} to ${formatDuration(end)}</title></rect>`,
      )
      if (wide >= NUMBER_WIDTH) {
        out.push(
          `<text x="${(left + wide / 2).toFixed(2)}" y="${y + 15}" text-anchor="middle" fill="#ffffff" font-size="10" pointer-events="none">${microBatch}</text>`,
        )
      }
    }
  }
  const foot = TOP + ranks.length * (ROW + GAP) + 14
  out.push(`<text x="${LEFT}" y="${foot}" fill="#444444">0</text>`)
  out.push(`<text x="${LEFT + width}" y="${foot}" text-anchor="end" fill="#444444">${formatDuration(seconds)}</text>`)
  out.push('</svg>')
  return `${out.join('\n')}\n`
}

function shade(kind: Kind, part: number, chunks: number): string {
  const lightness = 40 + (chunks <= 1 ? 0 : (30 * part) / (chunks - 1))
  return `hsl(${COLORS[kind]}, ${lightness.toFixed(0)}%)`
}

function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
