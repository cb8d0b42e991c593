// Memory of one device as a stacked bar with its key: text as wide as asked.
import { formatBytes } from '../display/format.ts'
import { type Color, paint, visibleWidth } from '../display/text.ts'
import { type DeviceMemory, MEMORY_PARTS } from './memory.ts'

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
