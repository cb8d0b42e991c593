// 16-bit floats as raw bits: exact widening to float32 and round-to-nearest-even narrowing from it. Works on 32-bit
// words rather than JavaScript numbers, so that NaN payloads and signs survive. Knows nothing about files.
import type { Dtype, HostArray } from '../core/dtype.ts'

const word = new Uint32Array(1)
const float = new Float32Array(word.buffer)

let halfTable: Uint32Array | undefined

/** Bits of the float32 that an IEEE binary16 stands for. */
function widenHalf(half: number): number {
  const sign = (half & 0x8000) << 16
  const exponent = (half >>> 10) & 0x1f
  const fraction = half & 0x3ff
  if (exponent === 0x1f) return (sign | 0x7f800000 | (fraction << 13)) >>> 0
  if (exponent !== 0) return (sign | ((exponent + 112) << 23) | (fraction << 13)) >>> 0
  if (fraction === 0) return sign >>> 0
  // Subnormal: fraction * 2^-24; shift its leading one into the implicit place.
  const shift = Math.clz32(fraction) - 21
  return (sign | ((113 - shift) << 23) | (((fraction << shift) & 0x3ff) << 13)) >>> 0
}

/** Bits of the binary16 nearest to a float32 given as bits; ties to even, overflow to infinity, NaN stays NaN. */
function narrowToHalf(bits: number): number {
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff)
  if (magnitude >= 0x477ff000) return sign | 0x7c00 // 65520 and above round to infinity
  if (magnitude >= 0x38800000) {
    const rebased = magnitude - 0x38000000
    return sign | ((rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13)
  }
  if (magnitude <= 0x33000000) return sign // 2^-25, half of the smallest subnormal: the tie goes to even zero
  const exponent = magnitude >>> 23
  const fraction = (magnitude & 0x7fffff) | 0x800000
  const shift = 126 - exponent // value = fraction * 2^(exponent - 150); subnormal unit is 2^-24
  const kept = fraction >>> shift
  const rest = fraction & ((1 << shift) - 1)
  const half = 1 << (shift - 1)
  return sign | (kept + (rest > half || (rest === half && (kept & 1) === 1) ? 1 : 0))
}

/** Widens binary16 words into float32 words, bit by bit exact. `out` and `halves` have the same length. */
export function halfToFloat(out: Float32Array, halves: Uint16Array): void {
  halfTable ??= Uint32Array.from({ length: 65536 }, (_, half) => widenHalf(half))
  const words = new Uint32Array(out.buffer, out.byteOffset, out.length)
  for (let i = 0; i < halves.length; i++) words[i] = halfTable[halves[i]!]!
}

/** Widens bfloat16 words into float32 words: they are the upper halves. */
export function bfloatToFloat(out: Float32Array, bfloats: Uint16Array): void {
  const words = new Uint32Array(out.buffer, out.byteOffset, out.length)
  for (let i = 0; i < bfloats.length; i++) words[i] = bfloats[i]! << 16
}

/** Numbers as a device gives them, those of 16 bits widened: they come as raw bits. */
export function widened(values: HostArray, dtype: Dtype): ArrayLike<number> {
  if (dtype !== 'bf16' && dtype !== 'f16') return values
  const floats = new Float32Array(values.length)
  const widen = dtype === 'bf16' ? bfloatToFloat : halfToFloat
  widen(floats, values as Uint16Array)
  return floats
}

/** Nearest binary16 of each value, ties to even. float64 values round to float32 first, as PyTorch does. */
export function floatToHalf(values: ArrayLike<number>): Uint16Array {
  const out = new Uint16Array(values.length)
  eachWord(values, (bits, i) => {
    out[i] = narrowToHalf(bits)
  })
  return out
}

/** Nearest bfloat16 of each value, ties to even; NaN stays a quiet NaN. float64 values round to float32 first. */
export function floatToBfloat(values: ArrayLike<number>): Uint16Array {
  const out = new Uint16Array(values.length)
  eachWord(values, (bits, i) => {
    const isNan = (bits & 0x7fffffff) > 0x7f800000
    out[i] = isNan ? (bits >>> 16) | 0x40 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16
  })
  return out
}

function eachWord(values: ArrayLike<number>, visit: (bits: number, i: number) => void): void {
  if (values instanceof Float32Array) {
    const words = new Uint32Array(values.buffer, values.byteOffset, values.length)
    for (let i = 0; i < words.length; i++) visit(words[i]!, i)
    return
  }
  for (let i = 0; i < values.length; i++) {
    float[0] = values[i]!
    visit(word[0]!, i)
  }
}
