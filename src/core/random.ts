// Counter-based randomness: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
// A value depends only on (seed, stream name, index), so initialisation, dropout and data order are the same bits
// on every backend, thread count and layout. Normals use Wichura's AS241 (PPND16, 1988) with a logarithm of our own:
// plain double additions, products, quotients and square roots in a written order, which C++ and CUDA repeat
// bit for bit when contraction into FMA is off.

// biome-ignore-all lint/correctness/noPrecisionLoss: constants stand with the digits of the paper, as in the C++ twin
// biome-ignore-all lint/suspicious/noApproximativeNumericConstant: the C++ twin has the same digits, not a library's
import type { RandomKey } from './kernels.ts'

const M0 = 0xd2511f53
const M1 = 0xcd9e8d57
const W0 = 0x9e3779b9
const W1 = 0xbb67ae85

/** High 32 bits of the 64-bit product of two unsigned 32-bit numbers. */
function mulHigh(a: number, b: number): number {
  const aLow = a & 0xffff
  const aHigh = a >>> 16
  const bLow = b & 0xffff
  const bHigh = b >>> 16
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16)
  const carry = (middle & 0xffff) + aLow * bHigh
  return (aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(carry / 65536)) >>> 0
}

/**
 * One Philox4x32-10 block: four random 32-bit words into `out`.
 * Counter = (c0, c1, c2, c3), key = (k0, k1), all unsigned 32-bit.
 */
export function philox(
  out: Uint32Array,
  c0: number,
  c1: number,
  c2: number,
  c3: number,
  keyLow: number,
  keyHigh: number,
): void {
  let k0 = keyLow >>> 0
  let k1 = keyHigh >>> 0
  c0 >>>= 0
  c1 >>>= 0
  c2 >>>= 0
  c3 >>>= 0
  for (let round = 0; round < 10; round++) {
    const high0 = mulHigh(M0, c0)
    const low0 = Math.imul(M0, c0) >>> 0
    const high1 = mulHigh(M1, c2)
    const low1 = Math.imul(M1, c2) >>> 0
    c0 = (high1 ^ c1 ^ k0) >>> 0
    c1 = low1
    c2 = (high0 ^ c3 ^ k1) >>> 0
    c3 = low0
    k0 = (k0 + W0) >>> 0
    k1 = (k1 + W1) >>> 0
  }
  out[0] = c0
  out[1] = c1
  out[2] = c2
  out[3] = c3
}

/**
 * The key of a named stream: the name's 64-bit FNV-1a hash is the counter of one Philox block whose key is the seed;
 * its first two words are the key.
 * @param seed  integer in [0, 2^53)
 */
export function randomKey(seed: number, stream: string): RandomKey {
  let hash = 0xcbf29ce484222325n
  for (const byte of new TextEncoder().encode(stream)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n)
  }
  const words = new Uint32Array(4)
  const low = Number(hash & 0xffffffffn)
  const high = Number(hash >> 32n)
  philox(words, low, high, 0, 0, seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0)
  return { keyLow: words[0]!, keyHigh: words[1]! }
}

const words = new Uint32Array(4)

/** Word `index` of a stream: word index % 4 of the block with counter floor(index / 4). Index below 2^53. */
export function randomWord(key: RandomKey, index: number): number {
  const block = Math.floor(index / 4)
  philox(words, block >>> 0, Math.floor(block / 2 ** 32), 0, 0, key.keyLow, key.keyHigh)
  return words[index % 4]!
}

/** Uniform in (0, 1), never 0 or 1: (word + 0.5) / 2^32. */
export function randomUniform(key: RandomKey, index: number): number {
  return (randomWord(key, index) + 0.5) * 2 ** -32
}

/** Standard normal number `index` of a stream, in float64. */
export function randomNormalAt(key: RandomKey, index: number): number {
  return normalFromUniform(randomUniform(key, index))
}

/** An element is dropped when its word is below this: p of all words, rounded to the nearest. */
export function dropThreshold(p: number): number {
  return Math.round(p * 2 ** 32)
}

const view = new DataView(new ArrayBuffer(8))

/**
 * Natural logarithm for normal x > 0 by x = m * 2^e, m in [sqrt(1/2), sqrt(2)), and the series of
 * 2 artanh((m - 1) / (m + 1)). Within 2 ulp; only +, *, / in this order, so other languages can repeat it exactly.
 */
export function exactLog(x: number): number {
  view.setFloat64(0, x)
  let exponent = ((view.getUint32(0) >>> 20) & 0x7ff) - 1023
  view.setUint32(0, (view.getUint32(0) & 0x000fffff) | 0x3ff00000)
  let m = view.getFloat64(0) // [1, 2)
  if (m > 1.4142135623730951) {
    m = m * 0.5
    exponent = exponent + 1
  }
  const s = (m - 1) / (m + 1)
  const z = s * s
  let series = 1 / 23
  series = series * z + 1 / 21
  series = series * z + 1 / 19
  series = series * z + 1 / 17
  series = series * z + 1 / 15
  series = series * z + 1 / 13
  series = series * z + 1 / 11
  series = series * z + 1 / 9
  series = series * z + 1 / 7
  series = series * z + 1 / 5
  series = series * z + 1 / 3
  series = series * z + 1
  return exponent * 0.6931471805599453 + 2 * s * series
}

/** Quantile of the standard normal (AS241 PPND16): relative accuracy about 1e-16. p in (0, 1). */
export function normalFromUniform(p: number): number {
  const q = p - 0.5
  if (Math.abs(q) <= 0.425) {
    const r = 0.180625 - q * q
    const numerator =
      ((((((r * 2509.0809287301226727 + 33430.575583588128105) * r + 67265.770927008700853) * r +
        45921.953931549871457) *
        r +
        13731.693765509461125) *
        r +
        1971.5909503065514427) *
        r +
        133.14166789178437745) *
        r +
      3.387132872796366608
    const denominator =
      ((((((r * 5226.495278852545925 + 28729.085735721942674) * r + 39307.89580009271061) * r + 21213.794301586595867) *
        r +
        5394.1960214247511077) *
        r +
        687.1870074920579083) *
        r +
        42.313330701600911252) *
        r +
      1
    return (q * numerator) / denominator
  }
  const tail = q < 0 ? p : 1 - p
  let r = Math.sqrt(-exactLog(tail))
  let value: number
  if (r <= 5) {
    r = r - 1.6
    const numerator =
      ((((((r * 7.7454501427834140764e-4 + 0.0227238449892691845833) * r + 0.24178072517745061177) * r +
        1.27045825245236838258) *
        r +
        3.64784832476320460504) *
        r +
        5.7694972214606914055) *
        r +
        4.6303378461565452959) *
        r +
      1.42343711074968357734
    const denominator =
      ((((((r * 1.05075007164441684324e-9 + 5.475938084995344946e-4) * r + 0.0151986665636164571966) * r +
        0.14810397642748007459) *
        r +
        0.68976733498510000455) *
        r +
        1.6763848301838038494) *
        r +
        2.05319162663775882187) *
        r +
      1
    value = numerator / denominator
  } else {
    r = r - 5
    const numerator =
      ((((((r * 2.01033439929228813265e-7 + 2.71155556874348757815e-5) * r + 0.0012426609473880784386) * r +
        0.026532189526576123093) *
        r +
        0.29656057182850489123) *
        r +
        1.7848265399172913358) *
        r +
        5.4637849111641143699) *
        r +
      6.6579046435011037772
    const denominator =
      ((((((r * 2.04426310338993978564e-15 + 1.4215117583164458887e-7) * r + 1.8463183175100546818e-5) * r +
        7.868691311456132591e-4) *
        r +
        0.0148753612908506148525) *
        r +
        0.13692988092273580531) *
        r +
        0.59983220655588793769) *
        r +
      1
    value = numerator / denominator
  }
  return q < 0 ? -value : value
}
