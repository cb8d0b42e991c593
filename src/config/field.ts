// The fields of a configuration: how a recipe describes one, and the flat list of them that flags, help, messages and
// documents are made from. Reads the JSON schema of the zod object, so what has no JSON form is no configuration.
import { z } from 'zod'
import { invariant } from '../core/errors.ts'

/** What a reader must know about a field besides its type and default. */
export interface FieldAbout {
  /** One line, no full stop: what the value does. */
  describe: string
  /** What it counts: 'tokens', 'steps', 'bytes', 'seconds' ... */
  unit?: string
  /** A good value, for messages, when the default is none. */
  example?: string | number | boolean
}

/** `schema` with its description: `lr: field(z.number().positive().default(3e-4), { describe: 'peak learning rate' })`. */
export function field<T extends z.ZodType>(schema: T, about: FieldAbout): T {
  const { describe, unit, example } = about
  return schema.meta({
    description: describe,
    ...(unit === undefined ? {} : { unit }),
    ...(example === undefined ? {} : { examples: [example] }),
  })
}

/** The parts of JSON schema (2020-12) that zod writes and we read. */
export interface SchemaNode {
  type?: string | string[]
  properties?: Record<string, SchemaNode>
  required?: string[]
  items?: SchemaNode
  anyOf?: SchemaNode[]
  oneOf?: SchemaNode[]
  enum?: (string | number | boolean | null)[]
  const?: string | number | boolean | null
  minimum?: number
  maximum?: number
  exclusiveMinimum?: number
  exclusiveMaximum?: number
  minLength?: number
  minItems?: number
  maxItems?: number
  default?: unknown
  description?: string
  unit?: string
  examples?: unknown[]
}

/** One leaf of a configuration. */
export interface Field {
  /** Dotted name: 'lr', 'model.hiddenSize'. */
  key: string
  node: SchemaNode
  description: string
  unit: string | undefined
  /** undefined when there is none. */
  default: unknown
  isRequired: boolean
}

/** The JSON schema (2020-12) of what may be written in a configuration file. */
export function inputSchema(config: z.ZodObject): SchemaNode {
  return z.toJSONSchema(config, { io: 'input' }) as SchemaNode
}

/** Every leaf of `config`, in the order written; nested objects are entered. */
export function listFields(config: z.ZodObject): Field[] {
  const fields: Field[] = []
  const visit = (node: SchemaNode, prefix: string, inherited: unknown): void => {
    for (const [name, child] of Object.entries(node.properties ?? {})) {
      const key = prefix + name
      const fallback = child.default ?? (inherited as Record<string, unknown> | undefined)?.[name]
      if (child.properties !== undefined) {
        visit(child, `${key}.`, fallback)
        continue
      }
      invariant(child.description !== undefined, `configuration field ${key} has no description: wrap it in field()`)
      fields.push({
        key,
        node: child,
        description: child.description,
        unit: child.unit,
        default: fallback,
        isRequired: fallback === undefined && node.required?.includes(name) === true,
      })
    }
  }
  visit(inputSchema(config), '', undefined)
  return fields
}

/** The alternatives of a node: itself, or the branches of its union, or one per type of a type list. */
export function alternatives(node: SchemaNode): SchemaNode[] {
  const branches = node.anyOf ?? node.oneOf
  if (branches !== undefined) return branches.flatMap(alternatives)
  if (Array.isArray(node.type)) return node.type.map((type) => ({ ...node, type }))
  return [node]
}

/** Whether the field is on or off, so that its flag stands alone. */
export function isBoolean(node: SchemaNode): boolean {
  return node.type === 'boolean'
}

/** What a value must be, in words: 'a whole number, at least 1', 'one of cpu, cuda'. */
export function expectation(node: SchemaNode): string {
  const choices = alternatives(node)
  if (choices.length > 1) return choices.map(expectation).join(' or ')
  const [only] = choices as [SchemaNode]
  if (only.const !== undefined) return JSON.stringify(only.const)
  if (only.enum !== undefined) return only.enum.length === 1 ? String(only.enum[0]) : `one of ${only.enum.join(', ')}`
  switch (only.type) {
    case 'integer':
      return `a whole number${bounds(only)}`
    case 'number':
      return `a number${bounds(only)}`
    case 'boolean':
      return 'true or false'
    case 'string':
      return only.minLength === undefined ? 'text' : 'text that is not empty'
    case 'array':
      return `a list${only.minItems === undefined ? '' : ` of at least ${only.minItems}`}, each ${expectation(only.items ?? {})}`
    case 'object':
      return 'a mapping'
    default:
      return only.type === undefined ? 'a value' : String(only.type)
  }
}

function bounds(node: SchemaNode): string {
  const most = node.maximum === Number.MAX_SAFE_INTEGER ? undefined : node.maximum
  const least = node.minimum === Number.MIN_SAFE_INTEGER ? undefined : node.minimum
  if (least !== undefined && most !== undefined) return ` from ${least} to ${most}`
  const parts: string[] = []
  if (least !== undefined) parts.push(`at least ${least}`)
  if (node.exclusiveMinimum !== undefined) parts.push(`above ${node.exclusiveMinimum}`)
  if (most !== undefined) parts.push(`at most ${most}`)
  if (node.exclusiveMaximum !== undefined) parts.push(`below ${node.exclusiveMaximum}`)
  return parts.length === 0 ? '' : `, ${parts.join(' and ')}`
}

/** A value that the field accepts, as text for a message. */
export function exampleOf(field: Field): string | undefined {
  const { node } = field
  const example =
    node.examples?.[0] ?? field.default ?? alternatives(node).find((n) => n.enum)?.enum?.[0] ?? node.minimum
  if (example === undefined || example === null) return undefined
  return Array.isArray(example) ? example.join(',') || undefined : String(example)
}
