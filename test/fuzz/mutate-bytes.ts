// Damage to bytes and to text: flipped bits, cuts, inserted, deleted, doubled and swapped ranges, numbers that lie,
// invalid UTF-8. Knows no format; what is structured as JSON is mutated by mutate-json.ts.
import type { FuzzRandom } from './fuzz-random.ts'

const EDGE_INTEGERS = [0, 1, 2, 7, 127, 128, 255, 256, 32767, 65535, 65536, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1]
/** Beginnings of UTF-8 sequences that never end, overlong forms, half a surrogate pair, a code point too high. */
const INVALID_UTF8 = [[0xff], [0xc3], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xe2, 0x96], [0x80]]
const EDGE_NUMBERS = [
  '0',
  '-1',
  '1.5',
  '-0',
  '1e308',
  '1e999',
  '5e-324',
  '2147483648',
  '9007199254740993',
  '123456789012345678901234567890',
  '.inf',
  '.nan',
  'NaN',
  '0x10',
  '1_000',
  '',
]

type Mutation = (bytes: Buffer, random: FuzzRandom) => Buffer

const range = (length: number, random: FuzzRandom): [number, number] => {
  const from = random.below(length + 1)
  // Mostly short ranges, now and then all the rest.
  const most = random.chance(0.2) ? length - from : Math.min(16, length - from)
  return [from, from + random.below(most + 1)]
}

const MUTATIONS: readonly Mutation[] = [
  function flipBit(bytes, random) {
    if (bytes.length === 0) return bytes
    const result = Buffer.from(bytes)
    result[random.below(bytes.length)]! ^= 1 << random.below(8)
    return result
  },
  function setByte(bytes, random) {
    if (bytes.length === 0) return bytes
    const result = Buffer.from(bytes)
    result[random.below(bytes.length)] = random.pick([0, 0xff, 0x0a, 0x20, 0x22, 0x7b, 0x5b, random.below(256)])
    return result
  },
  function cut(bytes, random) {
    return bytes.subarray(0, random.chance(0.1) ? 0 : random.below(bytes.length + 1))
  },
  function cutFront(bytes, random) {
    return bytes.subarray(random.below(Math.min(bytes.length, 64) + 1))
  },
  function remove(bytes, random) {
    const [from, to] = range(bytes.length, random)
    return Buffer.concat([bytes.subarray(0, from), bytes.subarray(to)])
  },
  function double(bytes, random) {
    const [from, to] = range(bytes.length, random)
    const times = random.chance(0.05) ? 2000 : 1 + random.below(3)
    return Buffer.concat([
      bytes.subarray(0, from),
      ...Array(times).fill(bytes.subarray(from, to)),
      bytes.subarray(from),
    ])
  },
  function insert(bytes, random) {
    const at = random.below(bytes.length + 1)
    const added = Buffer.from(Array.from({ length: 1 + random.below(24) }, () => random.below(256)))
    return Buffer.concat([bytes.subarray(0, at), added, bytes.subarray(at)])
  },
  function insertInvalidUtf8(bytes, random) {
    const at = random.below(bytes.length + 1)
    return Buffer.concat([bytes.subarray(0, at), Buffer.from(random.pick(INVALID_UTF8)), bytes.subarray(at)])
  },
  function fill(bytes, random) {
    const result = Buffer.from(bytes)
    const [from, to] = range(bytes.length, random)
    return result.fill(random.pick([0, 0xff, 0x7f, 0x80]), from, to)
  },
  function swap(bytes, random) {
    const [from, to] = range(bytes.length, random)
    const [, end] = range(bytes.length - to, random)
    const next = bytes.subarray(to, to + end)
    return Buffer.concat([bytes.subarray(0, from), next, bytes.subarray(from, to), bytes.subarray(to + end)])
  },
  function setInteger(bytes, random) {
    const width = random.pick([4, 8])
    if (bytes.length < width) return bytes
    const result = Buffer.from(bytes)
    const words = Math.floor(bytes.length / width)
    // Headers are at the front.
    const at = width * random.below(random.chance(0.5) ? Math.min(words, 8) : words)
    const value = BigInt(random.pick(EDGE_INTEGERS)) * (random.chance(0.3) ? -1n : 1n)
    if (width === 4) result.writeInt32LE(Number(BigInt.asIntN(32, value)), at)
    else result.writeBigInt64LE(random.chance(0.3) ? BigInt.asIntN(64, value << 31n) : value, at)
    return result
  },
]

/** A copy of the same length, damaged where a reader that looks at sizes sees nothing. */
export function mutateInPlace(bytes: Buffer, random: FuzzRandom): Buffer {
  const kept = MUTATIONS.filter(({ name }) => ['flipBit', 'setByte', 'fill', 'setInteger'].includes(name))
  let result = bytes
  for (let left = 1 + random.below(3); left > 0; left--) result = random.pick(kept)(result, random)
  return result
}

/** A copy with one to three kinds of damage. */
export function mutateBytes(bytes: Buffer, random: FuzzRandom): Buffer {
  let result = bytes
  for (let left = 1 + random.below(3); left > 0; left--) result = random.pick(MUTATIONS)(result, random)
  return result
}

/**
 * A copy of text with damage that a text format notices: other numbers, words of the format in odd places, lines moved,
 * and damaged bytes.
 * @param words  pieces of syntax that mean something to the format
 */
export function mutateText(bytes: Buffer, random: FuzzRandom, words: readonly string[]): Buffer {
  let result = bytes
  for (let left = 1 + random.below(3); left > 0; left--) {
    const text = result.toString('latin1')
    switch (random.below(4)) {
      case 0: {
        const numbers = [...text.matchAll(/-?\d[\d.eE_+-]*/g)]
        if (numbers.length === 0) break
        const { 0: number, index } = random.pick(numbers)
        const replaced = text.slice(0, index) + random.pick(EDGE_NUMBERS) + text.slice(index + number.length)
        result = Buffer.from(replaced, 'latin1')
        break
      }
      case 1: {
        const at = random.below(result.length + 1)
        result = Buffer.concat([result.subarray(0, at), Buffer.from(random.pick(words)), result.subarray(at)])
        break
      }
      case 2: {
        const lines = text.split('\n')
        const [from, to] = [random.below(lines.length), random.below(lines.length)]
        if (random.chance(0.5)) lines.splice(to, 0, lines[from]!)
        else lines.splice(from, 1)
        result = Buffer.from(lines.join('\n'), 'latin1')
        break
      }
      default:
        result = mutateBytes(result, random)
    }
  }
  return result
}
