// Lines of a terminal: visible width, cutting, colours, tables. Knows no terminal: strings in, strings out.
// Every character we draw (letters, box drawing, braille, blocks) is one column wide.
import { stripVTControlCharacters } from 'node:util'

export type Color = 'red' | 'green' | 'yellow' | 'blue' | 'magenta' | 'cyan' | 'gray' | 'bold'

const CODES: Record<Color, [open: number, close: number]> = {
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
  blue: [34, 39],
  magenta: [35, 39],
  cyan: [36, 39],
  gray: [90, 39],
  bold: [1, 22],
}

const ESC = '\u001b['

/** `text` in a colour, or as it is. */
export function paint(text: string, color: Color, enabled: boolean): string {
  if (!enabled || text === '') return text
  const [open, close] = CODES[color]
  return `${ESC}${open}m${text}${ESC}${close}m`
}

/** Columns that `text` takes on a terminal. */
export function visibleWidth(text: string): number {
  const plain = stripVTControlCharacters(text)
  let width = 0
  for (const _ of plain) width++
  return width
}

/** The first `width` columns of `text`; colours are closed. */
export function clip(text: string, width: number): string {
  if (visibleWidth(text) <= width) return text
  let result = ''
  let used = 0
  let at = 0
  let colored = false
  while (at < text.length && used < width) {
    const sequence = text[at] === '\u001b' ? text.slice(at).split('m', 1)[0]! : undefined
    if (sequence !== undefined) {
      result += `${sequence}m`
      at += sequence.length + 1
      colored = true
    } else {
      const character = String.fromCodePoint(text.codePointAt(at)!)
      result += character
      at += character.length
      used++
    }
  }
  return colored ? `${result}${ESC}0m` : result
}

/** Pads to `width` visible columns. */
export function pad(text: string, width: number, align: 'left' | 'right' = 'left'): string {
  const space = ' '.repeat(Math.max(0, width - visibleWidth(text)))
  return align === 'left' ? text + space : space + text
}

export interface TableOptions {
  /** Per column; numbers read best 'right'. Default left. */
  align?: readonly ('left' | 'right')[]
  /** The first row is a heading with a rule under it. */
  hasHeading?: boolean
  /** Columns between columns; default 2. */
  gap?: number
}

/** Rows of cells as aligned lines. Short rows are filled with empty cells. */
export function table(rows: readonly (readonly string[])[], options: TableOptions = {}): string[] {
  const { align = [], hasHeading = false, gap = 2 } = options
  const count = Math.max(0, ...rows.map((row) => row.length))
  const widths = Array.from({ length: count }, (_, column) =>
    Math.max(...rows.map((row) => visibleWidth(row[column] ?? ''))),
  )
  const line = (row: readonly string[]): string =>
    widths
      .map((width, column) => pad(row[column] ?? '', width, align[column]))
      .join(' '.repeat(gap))
      .trimEnd()
  const lines = rows.map(line)
  if (hasHeading && lines.length > 0)
    lines.splice(1, 0, widths.map((width) => '\u2500'.repeat(width)).join(' '.repeat(gap)))
  return lines
}
