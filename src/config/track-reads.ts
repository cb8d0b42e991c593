// Finds options that nothing reads: a configuration that remembers which of its keys were looked at. For tests (and
// TRAINYARD_TRACK_READS=1); a plain run uses the plain object. Spreading an object counts as reading all of it;
// writing it as JSON does not.
import { isObject, type JsonObject } from './values.ts'

/**
 * `config` with its reads noted. `unread()` lists, dotted, the leaves that nobody has read so far.
 */
export function trackReads<T extends object>(config: T): { config: T; unread(): string[] } {
  const seen = new Set<string>()
  const wrap = <O extends object>(target: O, prefix: string): O =>
    new Proxy(target, {
      get(from, name, receiver) {
        if (name === 'toJSON' && !('toJSON' in from)) return () => from
        const value: unknown = Reflect.get(from, name, receiver)
        if (typeof name !== 'string' || !Object.hasOwn(from, name)) return value
        seen.add(prefix + name)
        return isObject(value) ? wrap(value, `${prefix}${name}.`) : value
      },
    })
  return { config: wrap(config, ''), unread: () => leaves(config as JsonObject, '').filter((key) => !seen.has(key)) }
}

function leaves(values: JsonObject, prefix: string): string[] {
  return Object.entries(values).flatMap(([name, value]) =>
    isObject(value) && Object.keys(value).length > 0 ? leaves(value, `${prefix}${name}.`) : [prefix + name],
  )
}
