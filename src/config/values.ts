// Text into configuration values, and plain JSON objects laid over each other. Whether a value is right is zod's to say:
// text that does not look like what the field wants is passed on as text.
import { alternatives, type SchemaNode } from './field.ts'

export type JsonObject = { [key: string]: unknown }

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

const NUMBER = /^[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?$/i

/** The value that `text`, typed on a command line, means for this field. Lists are split at commas; `\,` is a comma. */
export function parseText(text: string, node: SchemaNode): unknown {
  for (const branch of alternatives(node)) {
    const value = parseOne(text, branch)
    if (value !== undefined) return value
  }
  return text
}

function parseOne(text: string, node: SchemaNode): unknown {
  const listed = node.const !== undefined ? [node.const] : node.enum
  if (listed !== undefined) return listed.find((choice) => String(choice) === text)
  switch (node.type) {
    case 'integer':
    case 'number':
      return NUMBER.test(text) ? Number(text.replaceAll('_', '')) : undefined
    case 'boolean':
      return text === 'true' ? true : text === 'false' ? false : undefined
    case 'null':
      return text === 'null' || text === 'none' ? null : undefined
    case 'array':
      return splitList(text).map((part) => parseText(part, node.items ?? {}))
    case 'object':
      return parseJson(text)
    default:
      return text
  }
}

function splitList(text: string): string[] {
  if (text === '') return []
  return text.split(/(?<!\\),/).map((part) => part.replaceAll('\\,', ','))
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Sets a dotted key, making the objects on the way. */
export function setKey(target: JsonObject, key: string, value: unknown): void {
  const names = key.split('.')
  const leaf = names.pop()!
  let at = target
  for (const name of names) {
    if (!isObject(at[name])) at[name] = {}
    at = at[name] as JsonObject
  }
  at[leaf] = value
}

/** The value under a path, or undefined. */
export function getKey(source: unknown, path: readonly PropertyKey[]): unknown {
  let at = source
  for (const name of path) at = (at as Record<PropertyKey, unknown> | null | undefined)?.[name]
  return at
}

/** `over` laid on `under`: objects are merged key by key, everything else is replaced. Neither is changed. */
export function overlay(under: JsonObject, over: JsonObject): JsonObject {
  const result: JsonObject = { ...under }
  for (const [key, value] of Object.entries(over)) {
    const below = result[key]
    result[key] = isObject(value) ? overlay(isObject(below) ? below : {}, value) : value
  }
  return result
}
