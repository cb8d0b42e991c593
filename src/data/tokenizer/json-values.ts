// Checked access to parsed JSON of tokenizer files: every refusal is a TokenizerError that names the file and the place
// in it. Unknown keys are refused, so that nothing that changes ids is passed over.
import { readFileSync } from 'node:fs'
import { TokenizerError } from '../../core/errors.ts'
import { parseJson, shown } from '../../core/json.ts'

export type JsonObject = Readonly<Record<string, unknown>>

/** A value with its place, as messages write it: `path/tokenizer.json: model.merges[3]`. */
export class Place {
  readonly value: unknown
  readonly #name: string

  constructor(value: unknown, name: string) {
    this.value = value
    this.#name = name
  }

  fail(problem: string): never {
    throw new TokenizerError(`${this.#name} ${problem}`)
  }

  /** Whether it is absent or null. */
  get isNothing(): boolean {
    return this.value === undefined || this.value === null
  }

  get(key: string): Place {
    const { value } = this
    return new Place(isObject(value) && Object.hasOwn(value, key) ? value[key] : undefined, this.#under(key))
  }

  /** @param known  the keys it may have; any when left out */
  object(known?: readonly string[]): JsonObject {
    const { value } = this
    if (!isObject(value)) return this.#expected('an object')
    const unknown = known === undefined ? undefined : Object.keys(value).find((key) => !known.includes(key))
    if (unknown !== undefined) this.fail(`has ${JSON.stringify(clip(unknown))}, which is not supported`)
    return value
  }

  list(): Place[] {
    const { value } = this
    if (!Array.isArray(value)) return this.#expected('a list')
    return value.map((item: unknown, i) => new Place(item, `${this.#name}[${i}]`))
  }

  string(): string {
    return typeof this.value === 'string' ? this.value : this.#expected('text')
  }

  /** @param fallback  what an absent value means */
  boolean(fallback: boolean): boolean {
    if (this.value === undefined) return fallback
    return typeof this.value === 'boolean' ? this.value : this.#expected('true or false')
  }

  /** Refuses every value but these. */
  oneOf(...allowed: unknown[]): void {
    if (allowed.includes(this.value)) return
    const choices = allowed.filter((choice) => choice !== undefined).map((choice) => JSON.stringify(choice))
    this.#expected(choices.join(' or '))
  }

  #expected(what: string): never {
    return this.fail(`must be ${what}, got ${shown(this.value)}`)
  }

  #under(key: string): string {
    return this.#name.endsWith(':') ? `${this.#name} ${key}` : `${this.#name}.${key}`
  }
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function clip(text: string): string {
  return text.length > 60 ? `${text.slice(0, 60)}...` : text
}

/** @throws TokenizerError if the file cannot be read or is no JSON */
export function readJson(path: string): Place {
  let value: unknown
  try {
    value = parseJson(readFileSync(path, 'utf8'))
  } catch (cause) {
    const isAbsent = (cause as NodeJS.ErrnoException).code === 'ENOENT'
    const why = isAbsent ? 'there is no such file' : `it is no readable JSON (${clip((cause as Error).message)})`
    throw new TokenizerError(`${path}: expected a file of a tokenizer, but ${why}`, { cause })
  }
  return new Place(value, `${path}:`)
}
