// Reads the fields of a config.json one by one: present or defaulted, of the right type, in range. Every refusal is a
// ConfigError that names the file and the key.
import { ConfigError } from '../core/errors.ts'
import { shown } from '../core/json.ts'
import { isJsonObject, type JsonObject } from './files.ts'

export class ConfigReader {
  readonly path: string
  readonly #json: JsonObject

  /** @param path  what messages call this object: a file, or a file and a key */
  constructor(json: JsonObject, path: string) {
    this.#json = json
    this.path = path
  }

  /** The value as written; null counts as absent, as with Hugging Face. */
  raw(key: string): unknown {
    return this.#json[key] ?? undefined
  }

  /** A whole number from 1 to `max`. Without a fallback the key must be there. */
  integer(key: string, fallback?: number, max = 2 ** 31 - 1): number {
    const value = this.raw(key) ?? fallback
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 1 && value <= max) return value
    return this.#refuse(key, `a whole number from 1 to ${max}`, value)
  }

  /** A finite number above zero. */
  positive(key: string, fallback?: number): number {
    const value = this.raw(key) ?? fallback
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value
    return this.#refuse(key, 'a number above 0', value)
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.raw(key) ?? fallback
    if (typeof value === 'boolean') return value
    return this.#refuse(key, 'true or false', value)
  }

  object(key: string): ConfigReader | undefined {
    const value = this.raw(key)
    if (value === undefined) return undefined
    if (isJsonObject(value)) return new ConfigReader(value, `${this.path}: ${key}`)
    return this.#refuse(key, 'an object', value)
  }

  /** One of a few strings. */
  choice<T extends string>(key: string, choices: readonly T[], fallback?: T): T {
    const value = this.raw(key) ?? fallback
    const found = choices.find((choice) => choice === value)
    return found ?? this.#refuse(key, `one of ${choices.join(', ')}`, value)
  }

  /**
   * A token id; a list gives its first (the whole list is in generation_config.json). An absent key gives `fallback`,
   * null gives none: that is how Hugging Face writes "no such token".
   */
  tokenId(key: string, fallback: number | undefined): number | undefined {
    if (!Object.hasOwn(this.#json, key)) return fallback
    const written = this.raw(key)
    const value = Array.isArray(written) ? written[0] : written
    if (value === undefined) return undefined
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value
    return this.#refuse(key, 'a token id, a list of them or null', written)
  }

  /** Refuses options that change the computation and are not there: the key must be absent, null or `value`. */
  demand(key: string, value: boolean | number | string): void {
    const written = this.raw(key)
    if (written !== undefined && written !== value) {
      throw new ConfigError(
        `${this.path}: ${key} ${shown(written)} is not supported, only ${shown(value)} is; this model cannot be loaded`,
      )
    }
  }

  /** Refuses keys that have no supported value at all. */
  forbid(...keys: string[]): void {
    for (const key of keys) {
      if (this.raw(key) !== undefined) {
        throw new ConfigError(`${this.path}: ${key} is not supported; this model cannot be loaded`)
      }
    }
  }

  #refuse(key: string, expected: string, value: unknown): never {
    throw new ConfigError(`${this.path}: ${key} must be ${expected}, got ${shown(value)}`)
  }
}
