// Damage to JSON that stays JSON: values of other types and sizes, keys gone, renamed, doubled or added, parts swapped,
// nesting far too deep. What it gives is text, because doubled keys and 1e999 have no JavaScript value.
import type { FuzzRandom } from './fuzz-random.ts'

/** Text that stands in the output as it is. */
class Raw {
  readonly text: string

  constructor(text: string) {
    this.text = text
  }
}

const nested = (open: string, close: string, depth: number): Raw => new Raw(open.repeat(depth) + close.repeat(depth))

const ODD_VALUES: readonly unknown[] = [
  null,
  true,
  false,
  0,
  -1,
  1,
  2,
  1.5,
  new Raw('-0'),
  255,
  65537,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32,
  2 ** 53 - 1,
  2 ** 53,
  1e308,
  new Raw('1e999'),
  new Raw('-1e999'),
  5e-324,
  '',
  'x',
  'NaN',
  'two\nlines\u001b[31m',
  new Raw('"half a \\ud800 pair"'),
  new Raw('"\\u0000"'),
  'x'.repeat(5000),
  [],
  {},
  [0],
  [[]],
  [null],
  { toString: 5, valueOf: 5 },
  new Raw('{"__proto__":{"length":3},"length":3}'),
  new Raw(`[${Array(3000).fill('0').join(',')}]`),
  nested('[', ']', 20_000),
  new Raw(`${'{"a":'.repeat(20_000)}1${'}'.repeat(20_000)}`),
]
const ODD_KEYS = ['__proto__', 'constructor', 'toString', 'length', '', 'two\nlines', '\u001b[2J', 'k'.repeat(3000)]

type Container = Record<string, unknown> | unknown[]
interface Spot {
  readonly parent: Container
  readonly key: string
}

const isContainer = (value: unknown): value is Container =>
  typeof value === 'object' && value !== null && !(value instanceof Raw)

/** A place in the tree: each step down goes to any child, so that what is near the top is met as often as long lists. */
function pickSpot(root: Container, random: FuzzRandom): Spot | undefined {
  let parent = root
  for (;;) {
    const keys = Object.keys(parent)
    if (keys.length === 0) return undefined
    const key = random.pick(keys)
    const child = (parent as Record<string, unknown>)[key]
    if (!isContainer(child) || Object.keys(child).length === 0 || random.chance(0.3)) return { parent, key }
    parent = child
  }
}

/** A copy, since later changes may go into it. */
function oddValue(random: FuzzRandom): unknown {
  return copyOf(random.pick(ODD_VALUES))
}

function mutateOnce(root: Container, random: FuzzRandom): void {
  const spot = pickSpot(root, random)
  if (spot === undefined) return
  const { parent, key } = spot
  const record = parent as Record<string, unknown>
  const value = record[key]
  const place = (name: string, what: unknown): void =>
    void Object.defineProperty(parent, name, { value: what, enumerable: true, configurable: true, writable: true })
  switch (random.below(9)) {
    case 0:
    case 1:
    case 2:
      place(key, oddValue(random))
      break
    case 3:
      if (Array.isArray(parent)) parent.splice(Number(key), 1)
      else delete record[key]
      break
    case 4:
      if (Array.isArray(parent)) parent.splice(Number(key), 0, value)
      else
        place(random.pick([...ODD_KEYS, `${key}2`, key.toUpperCase()]), random.chance(0.1) ? value : oddValue(random))
      break
    case 5: {
      const other = pickSpot(root, random)
      // A part put inside itself would never end.
      if (other !== undefined && !isContainer(value)) place(key, structuredCloneOf(other))
      break
    }
    case 6:
      if (typeof value === 'number')
        place(key, random.pick([value + 1, value - 1, -value, value * 2, value + 0.5, value * 1e6, String(value)]))
      else if (typeof value === 'string')
        place(key, random.pick([value + value, value.slice(1), `${value}\n`, [value], { [value]: value }]))
      else place(key, [value])
      break
    case 7:
      if (!Array.isArray(parent)) place(key, new Doubled(value, oddValue(random)))
      break
    default:
      if (typeof value === 'string' && value !== '') {
        const at = random.below(value.length)
        place(
          key,
          value.slice(0, at) + random.pick(['\u0000', '\u2581', ' ', '"', '\ud83d', 'Z']) + value.slice(at + 1),
        )
      } else place(key, oddValue(random))
  }
}

/** A key that is there twice. */
class Doubled extends Raw {
  readonly first: unknown
  readonly second: unknown

  constructor(first: unknown, second: unknown) {
    super('')
    this.first = first
    this.second = second
  }
}

function structuredCloneOf({ parent, key }: Spot): unknown {
  return copyOf((parent as Record<string, unknown>)[key])
}

/** A deep copy that keeps raw text and keys such as __proto__. */
function copyOf(value: unknown): unknown {
  if (!isContainer(value)) return value
  if (Array.isArray(value)) return value.map(copyOf)
  return Object.fromEntries(Object.entries(value).map(([key, child]) => [key, copyOf(child)]))
}

function textOf(value: unknown): string {
  if (value instanceof Raw) return value.text
  if (Array.isArray(value)) return `[${value.map(textOf).join(',')}]`
  if (!isContainer(value)) return JSON.stringify(value)
  const members = Object.entries(value).flatMap(([key, child]) => {
    const name = JSON.stringify(key)
    if (child instanceof Doubled) return [`${name}:${textOf(child.first)}`, `${name}:${textOf(child.second)}`]
    return [`${name}:${textOf(child)}`]
  })
  return `{${members.join(',')}}`
}

/** JSON text of `value` with one to three changes; now and then something else than an object altogether. */
export function mutateJson(value: unknown, random: FuzzRandom): string {
  if (!isContainer(value) || random.chance(0.02)) return textOf(oddValue(random))
  const root = copyOf(value) as Container
  for (let left = 1 + random.below(3); left > 0; left--) mutateOnce(root, random)
  return textOf(root)
}
