// Command-line arguments of one recipe into configuration values. Accepts --micro-batch-size=8, --microBatchSize 8,
// --flag/--no-flag, dotted keys (--model.hiddenSize 256), repeated or comma-separated lists. Values are checked elsewhere.
import { ConfigError } from '../core/errors.ts'
import { shown } from '../core/json.ts'
import { type Field, isBoolean } from './field.ts'
import { didYouMean, suggest } from './suggest.ts'
import { isObject, type JsonObject, parseText, setKey } from './values.ts'

/** Flags that every recipe has: name -> [placeholder, what it does]. No field may take one of these names. */
export const COMMON_FLAGS: Readonly<Record<string, readonly [placeholder: string, describe: string]>> = {
  config: ['<file>', 'YAML or JSON file with options under the same names; flags win over it; may be repeated'],
  printConfig: ['', 'print the resolved options as JSON, which --config reads, and stop'],
  debug: ['', 'print where an error came from'],
  help: ['', 'this text'],
}

export interface ParsedFlags {
  values: JsonObject
  configFiles: string[]
  printConfig: boolean
  help: boolean
}

interface Argument {
  name: string
  value: string | undefined
}

/**
 * Reads `argv` (what follows the verb) against the fields of recipe `name`.
 * @param positional  keys that plain words fill in order; a list at the end takes all that remain
 * @throws ConfigError for an unknown option (with a suggestion), a missing value, a word too many
 */
export function parseFlags(
  name: string,
  fields: readonly Field[],
  positional: readonly string[],
  argv: readonly string[],
): ParsedFlags {
  const parsed: ParsedFlags = { values: {}, configFiles: [], printConfig: false, help: false }
  const byKey = new Map(fields.map((field) => [field.key, field]))
  const given = new Map<string, string[]>()
  const words: string[] = []
  const rest = [...argv]
  for (let token = rest.shift(); token !== undefined; token = rest.shift()) {
    if (token === '--') {
      words.push(...rest.splice(0))
    } else if (token === '-h') {
      parsed.help = true
    } else if (!token.startsWith('--')) {
      if (/^-[a-zA-Z]/.test(token)) throw unknownOption(name, token, token.slice(1), fields)
      words.push(token)
    } else {
      readFlag(name, splitFlag(token), token, rest, { parsed, byKey, fields, given })
    }
  }
  if (parsed.help) return parsed
  assignWords(name, words, positional, byKey, given)
  for (const [key, texts] of given) setKey(parsed.values, key, fieldValue(name, byKey.get(key)!, texts))
  return parsed
}

interface Reading {
  parsed: ParsedFlags
  byKey: ReadonlyMap<string, Field>
  fields: readonly Field[]
  given: Map<string, string[]>
}

function readFlag(recipe: string, { name, value }: Argument, token: string, rest: string[], reading: Reading): void {
  const { parsed, byKey, fields, given } = reading
  const key = camelKey(name)
  if (key === 'help') parsed.help = true
  else if (key === 'debug') return
  else if (key === 'printConfig') parsed.printConfig = true
  else if (key === 'config') parsed.configFiles.push(value ?? takeValue(recipe, token, rest, '<file>'))
  else if (byKey.has(key)) {
    const field = byKey.get(key)!
    const bare = isBoolean(field.node)
    let text = value
    if (bare && text === undefined) text = rest[0] === 'true' || rest[0] === 'false' ? rest.shift()! : 'true'
    text ??= takeValue(recipe, token, rest, placeholder(field))
    given.set(key, [...(given.get(key) ?? []), text])
  } else if (name.startsWith('no-') && isBooleanKey(byKey, camelKey(name.slice(3)))) {
    if (value !== undefined) throw new ConfigError(`${recipe}: --${name} takes no value, got "${value}"`)
    const positive = camelKey(name.slice(3))
    given.set(positive, [...(given.get(positive) ?? []), 'false'])
  } else throw unknownOption(recipe, token, name, fields)
}

function isBooleanKey(byKey: ReadonlyMap<string, Field>, key: string): boolean {
  const field = byKey.get(key)
  return field !== undefined && isBoolean(field.node)
}

function splitFlag(token: string): Argument {
  const equals = token.indexOf('=')
  if (equals < 0) return { name: token.slice(2), value: undefined }
  return { name: token.slice(2, equals), value: token.slice(equals + 1) }
}

/** How a key is written on the command line: 'model.hiddenSize' -> '--model.hidden-size'. */
export function flagName(key: string): string {
  return `--${key.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
}

/** 'model.hidden-size' -> 'model.hiddenSize'. */
function camelKey(name: string): string {
  return name.replaceAll(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())
}

function takeValue(recipe: string, token: string, rest: string[], wanted: string): string {
  const next = rest[0]
  if (next === undefined || (next.startsWith('-') && !/^-[\d.]/.test(next) && next !== '-')) {
    const cure = next === undefined ? '' : ` (for a value that starts with a dash write ${token}=${next})`
    throw new ConfigError(`${recipe}: ${token} needs a value, as in ${token} ${wanted}${cure}`)
  }
  return rest.shift()!
}

function assignWords(
  recipe: string,
  words: readonly string[],
  positional: readonly string[],
  byKey: ReadonlyMap<string, Field>,
  given: Map<string, string[]>,
): void {
  const remaining = [...words]
  for (const key of positional) {
    if (remaining.length === 0) return
    const isList = byKey.get(key)!.node.type === 'array'
    // A comma in a word typed alone belongs to it: only --key a,b is a list.
    const taken = isList ? remaining.splice(0).map((word) => word.replaceAll(',', '\\,')) : [remaining.shift()!]
    given.set(key, [...(given.get(key) ?? []), ...taken])
  }
  if (remaining.length === 0) return
  const expects = positional.length === 0 ? 'takes no words' : `takes ${positional.map((key) => `<${key}>`).join(' ')}`
  throw new ConfigError(`${recipe}: unexpected "${remaining[0]}": ${recipe} ${expects}; options start with --`)
}

function fieldValue(recipe: string, field: Field, texts: readonly string[]): unknown {
  if (field.node.type === 'array') return texts.flatMap((text) => parseText(text, field.node) as unknown[])
  if (texts.length > 1) {
    throw new ConfigError(
      `${recipe}: ${flagName(field.key)} was given ${texts.length} times (${texts.join(', ')}); give it once`,
    )
  }
  return parseText(texts[0]!, field.node)
}

function unknownOption(recipe: string, token: string, name: string, fields: readonly Field[]): ConfigError {
  const shown = token.split('=')[0]!
  const group = fields.filter((field) => field.key.startsWith(`${camelKey(name)}.`))
  if (group.length > 0) {
    return new ConfigError(
      `${recipe}: ${shown} is a group of options: set one of its keys, such as ${flagName(group[0]!.key)}`,
    )
  }
  const known = [...fields.map((field) => field.key), ...Object.keys(COMMON_FLAGS)]
  const withoutNo = name.startsWith('no-') ? suggest(camelKey(name.slice(3)), known) : undefined
  const hint = withoutNo !== undefined ? '' : didYouMean(camelKey(name), known, flagName)
  const more =
    withoutNo !== undefined
      ? `; ${flagName(withoutNo)} is not an on/off option, give it a value`
      : hint || `; "trainyard ${recipe} --help" lists the options`
  return new ConfigError(`unknown option ${shown} for ${recipe}${more}`)
}

/** What stands for the value in help: '<tokens>', 'cpu|cuda', '<number>'. */
export function placeholder(field: Field): string {
  const { node, unit } = field
  if (isBoolean(node)) return ''
  const choices = node.enum?.join('|')
  if (choices !== undefined && choices.length <= 24) return choices
  if (unit !== undefined && !/[ /]/.test(unit)) return `<${unit}>`
  if (node.enum !== undefined) return '<choice>'
  if (node.type === 'array') return `<${node.items?.type === 'string' ? 'text' : 'number'},...>`
  if (node.type === 'integer' || node.type === 'number') return '<number>'
  return node.type === 'string' ? '<text>' : '<value>'
}

/** Refuses keys of `values` that no field has. @param where  'run.yaml' */
export function refuseUnknownKeys(recipe: string, where: string, values: JsonObject, fields: readonly Field[]): void {
  const leaves = fields.map((field) => field.key)
  const visit = (at: JsonObject, prefix: string): void => {
    for (const [name, value] of Object.entries(at)) {
      const key = prefix + name
      if (leaves.includes(key)) continue
      if (leaves.some((leaf) => leaf.startsWith(`${key}.`))) {
        if (isObject(value)) visit(value, `${key}.`)
        else if (value !== undefined) throw new ConfigError(`${where}: ${key} must be a mapping, got ${shown(value)}`)
        continue
      }
      const hint = didYouMean(key, leaves)
      throw new ConfigError(
        `${where}: unknown key ${key} for ${recipe}${hint || `; "trainyard ${recipe} --help" lists the options`}`,
      )
    }
  }
  visit(values, '')
}
