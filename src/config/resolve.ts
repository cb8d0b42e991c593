// Defaults, configuration files and flags into one checked configuration. Every refusal names the field as the user
// wrote it, the value, what was expected, and an example.
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { parseDocument } from 'yaml'
import type { z } from 'zod'
import { ConfigError } from '../core/errors.ts'
import { nestsTooDeep, shown } from '../core/json.ts'
import { exampleOf, expectation, type Field, inputSchema, listFields, type SchemaNode } from './field.ts'
import { flagName, refuseUnknownKeys } from './flags.ts'
import { getKey, isObject, type JsonObject, overlay } from './values.ts'

/** Values from one place. A later layer wins over an earlier one. */
export interface ConfigLayer {
  /** 'flags', or the name of the file: how messages spell its keys. */
  source: 'flags' | (string & {})
  values: JsonObject
}

/** Options take a few hundred bytes; megabytes of YAML would keep the machine busy for a long time. */
const MAX_FILE_BYTES = 2 ** 20

/**
 * Reads a YAML or JSON file (JSON is YAML) of options.
 * @throws ConfigError when it cannot be read or is not a mapping
 */
export function readConfigFile(path: string, cwd: string): ConfigLayer {
  let text: string
  try {
    const bytes = readFileSync(resolve(cwd, path))
    if (bytes.length > MAX_FILE_BYTES) throw new Error(`${bytes.length} bytes are no file of options`)
    text = bytes.toString('utf8')
  } catch (cause) {
    throw new ConfigError(`--config ${path}: the file could not be read (${(cause as Error).message})`, { cause })
  }
  const values = parseYaml(text, path) ?? {}
  if (!isObject(values)) {
    throw new ConfigError(`${path}: expected a mapping such as "lr: 3e-4", got ${shown(values)}`)
  }
  return { source: path, values }
}

/** The value of a YAML document of bounded depth, without tags and aliases that mean something else elsewhere. */
function parseYaml(text: string, path: string): unknown {
  let value: unknown
  try {
    // Collections as keys would be turned into text with a warning of the library's own; no option has such a name.
    const document = parseDocument(text, { logLevel: 'error' })
    const [error] = [...document.errors, ...document.warnings]
    if (error !== undefined) throw error
    value = document.toJS()
  } catch (cause) {
    const problem = (cause as Error).message.split('\n')[0]!.replace(/:$/, '')
    const isDeep = problem.startsWith('Maximum call stack')
    throw new ConfigError(`${path}: not valid YAML: ${isDeep ? 'it nests too deep' : problem}`, { cause })
  }
  if (nestsTooDeep(value)) throw new ConfigError(`${path}: not valid here: it nests too deep, or contains itself`)
  return value
}

/**
 * The configuration of recipe `name`: defaults of `config` under `layers`.
 * @throws ConfigError naming unknown keys, missing and wrong values, one line each
 */
export function resolveConfig<C extends z.ZodObject>(
  name: string,
  config: C,
  layers: readonly ConfigLayer[],
): z.output<C> {
  const fields = listFields(config)
  let merged: JsonObject = {}
  for (const layer of layers) {
    refuseUnknownKeys(name, layer.source, layer.values, fields)
    merged = overlay(merged, layer.values)
  }
  const result = config.safeParse(withGroups(merged, inputSchema(config)))
  if (result.success) return result.data
  const sentences = result.error.issues.map((issue) => refusal(name, issue, merged, fields, layers))
  throw new ConfigError([...new Set(sentences)], { cause: result.error })
}

/** Adds the groups that nobody wrote a key of, so that their own defaults apply and missing keys are named. */
function withGroups(values: JsonObject, node: SchemaNode): JsonObject {
  const result = { ...values }
  for (const [name, child] of Object.entries(node.properties ?? {})) {
    if (child.properties === undefined) continue
    const isWanted = node.required?.includes(name) === true || isObject(result[name])
    if (isWanted) result[name] = withGroups(isObject(result[name]) ? result[name] : {}, child)
  }
  return result
}

function refusal(
  recipe: string,
  issue: z.core.$ZodIssue,
  merged: JsonObject,
  fields: readonly Field[],
  layers: readonly ConfigLayer[],
): string {
  const path = issue.path.map(String)
  const field = fields.find(({ key }) => key === path.slice(0, key.split('.').length).join('.'))
  const value = field === undefined ? getKey(merged, issue.path) : getKey(merged, field.key.split('.'))
  const spelled = spell(recipe, field?.key ?? path.join('.'), layers)
  if (field === undefined || issue.code === 'custom') {
    const got = value === undefined || isObject(value) ? '' : `, got ${shown(value)}`
    return `${spelled}: ${issue.message}${got}`
  }
  const unit = field.unit === undefined ? '' : ` (${field.unit})`
  // Text of a form of its own, such as a pattern, is described by the recipe: expectation() would only say that it is text.
  const isInOwnWords = (field.node.enum ?? []).length > 8 || (issue.code === 'invalid_format' && value !== undefined)
  const expected = isInOwnWords ? issue.message : expectation(field.node)
  const example = exampleOf(field)
  const exampleText = example === undefined ? '' : `; for example ${flagName(field.key)} ${example}`
  if (value === undefined)
    return `${recipe} needs ${flagName(field.key)}, ${field.description}: ${expected}${unit}${exampleText}`
  return `${spelled} must be ${expected}${unit}, got ${shown(value)}${exampleText}`
}

/** The name of a key as the user gave it: '--lr', or 'run.yaml: lr'. */
function spell(recipe: string, key: string, layers: readonly ConfigLayer[]): string {
  const source = layers.findLast((layer) => getKey(layer.values, key.split('.')) !== undefined)?.source
  if (key === '') return recipe
  if (source === undefined || source === 'flags') return `${recipe}: ${flagName(key)}`
  return `${source}: ${key}`
}
