// The help text of a recipe: usage, examples, and a table of options with units and defaults, at most 100 columns wide.
import { type Field, isBoolean } from './field.ts'
import { COMMON_FLAGS, flagName, placeholder } from './flags.ts'
import type { Recipe } from './recipe.ts'

const WIDTH = 100
/** Descriptions narrower than this are hard to read: then they stand below their flag, this far in. */
const MIN_TEXT_WIDTH = 28
const NARROW_INDENT = 6

/** Help of `recipe` for a terminal of `columns`. */
export function recipeHelp(recipe: Recipe, columns = WIDTH): string {
  const width = Math.max(40, Math.min(WIDTH, columns))
  const words = recipe.positional.map((key) => {
    const field = recipe.fields.find((f) => f.key === key)!
    const word = field.node.type === 'array' ? `${key} ...` : key
    return field.isRequired ? ` <${word}>` : ` [${word}]`
  })
  const lines = [...wrap(`trainyard ${recipe.name}: ${recipe.summary}`, width), '']
  lines.push(`Usage: trainyard ${recipe.name}${words.join('')} [options]`, '')
  for (const paragraph of (recipe.description ?? '').split(/\n\s*\n/).filter((text) => text.trim() !== '')) {
    lines.push(...wrap(paragraph.replaceAll(/\s+/g, ' ').trim(), width), '')
  }
  lines.push(recipe.examples.length > 1 ? 'Examples' : 'Example')
  const commands = recipe.examples.map(({ command }) => `  trainyard ${command}`)
  const column = Math.max(...commands.map((command) => command.length)) + 3
  const fits = recipe.examples.every(({ does }) => column + 2 + does.length <= width)
  for (const [index, { does }] of recipe.examples.entries()) {
    const command = commands[index]!
    if (fits) lines.push(`${command.padEnd(column)}# ${does}`)
    else lines.push(...wrap(`  # ${does}`, width), ...foldCommand(command, width))
  }
  lines.push('', ...optionTable(recipe, width))
  return lines.join('\n')
}

/** A command line as a shell takes it: lines of at most `width`, broken before options by a backslash. */
function foldCommand(command: string, width: number): string[] {
  const lines: string[] = []
  let line = ''
  for (const part of command.split(/ (?=--)/)) {
    if (line === '') line = part
    else if (line.length + 1 + part.length + 2 <= width) line += ` ${part}`
    else {
      lines.push(`${line} \\`)
      line = `    ${part}`
    }
  }
  return [...lines, line]
}

interface Row {
  flag: string
  preset: string
  describe: string
}

function optionTable(recipe: Recipe, width: number): string[] {
  const groups = Map.groupBy(recipe.fields, (field) => field.key.split('.').slice(0, -1).join('.'))
  const common = Object.entries(COMMON_FLAGS).map(([name, [value, describe]]) =>
    row(`${flagName(name)} ${value}`, '', describe),
  )
  const tables: [string, Row[]][] = [...groups].map(([group, fields]) => [
    group === '' ? 'Options' : `Options of ${group} (in a file: keys under "${group}:")`,
    fields.map((field) => row(flagText(field, recipe), defaultText(field), field.description)),
  ])
  tables.push(['Every verb has', common])
  const rows = tables.flatMap(([, some]) => some)
  const flagWidth = Math.min(36, Math.max(...rows.map(({ flag }) => flag.length)))
  const presetWidth = Math.min(20, Math.max('default'.length, ...rows.map(({ preset }) => preset.length)))
  const indent = 2 + flagWidth + 2 + presetWidth + 2
  const textIndent = width - indent < MIN_TEXT_WIDTH ? NARROW_INDENT : indent
  const lines: string[] = []
  for (const [title, some] of tables) {
    const heading = some === common || lines.length > 0 ? title : `${title.padEnd(flagWidth + 4)}default`
    lines.push(heading)
    for (const { flag, preset, describe } of some) {
      const left = `  ${flag.padEnd(flagWidth)}  ${preset.padEnd(presetWidth)}  `
      const text = wrap(describe, width - textIndent)
      // Too narrow for columns, or a flag or default too long for its own: the description goes below.
      if (textIndent < indent || left.length > indent) lines.push(left.trimEnd())
      else lines.push((left + text.shift()!).trimEnd())
      lines.push(...text.map((line) => ' '.repeat(textIndent) + line))
    }
    lines.push('')
  }
  lines.push(...wrap(footnote(recipe), width))
  return lines
}

function row(flag: string, preset: string, describe: string): Row {
  return { flag: flag.trimEnd(), preset, describe }
}

function flagText(field: Field, recipe: Recipe): string {
  if (isBoolean(field.node))
    return field.default === true ? flagName(field.key).replace('--', '--no-') : flagName(field.key)
  const flag = `${flagName(field.key)} ${placeholder(field)}`
  return (recipe.positional as readonly string[]).includes(field.key)
    ? `[${flagName(field.key)}] ${placeholder(field)}`
    : flag
}

function defaultText(field: Field): string {
  if (field.isRequired) return '(required)'
  if (field.default === undefined || field.default === null) return '-'
  if (isBoolean(field.node)) return field.default === true ? 'on' : 'off'
  const value = Array.isArray(field.default) ? field.default.join(',') || '-' : String(field.default)
  const unit = field.unit !== undefined && value !== '-' && field.unit.length <= 12 ? ` ${field.unit}` : ''
  return value + (typeof field.default === 'string' ? '' : unit)
}

function footnote(recipe: Recipe): string {
  const notes = ['In files the names have no dashes: microBatchSize for --micro-batch-size; here both are good.']
  if (recipe.fields.some((field) => field.node.type === 'array')) {
    notes.push('A list is separated by commas, or its option repeated.')
  }
  notes.push(`"trainyard schema ${recipe.name}" prints a JSON schema of the file for your editor.`)
  return notes.join(' ')
}

/** Words of `text` in lines of at most `width`. */
export function wrap(text: string, width: number): string[] {
  const indent = /^ */.exec(text)![0]
  const lines: string[] = []
  let line = ''
  for (const word of text.trim().split(' ')) {
    if (line !== '' && indent.length + line.length + 1 + word.length > width) {
      lines.push(indent + line)
      line = word
    } else {
      line = line === '' ? word : `${line} ${word}`
    }
  }
  lines.push(indent + line)
  return lines
}
