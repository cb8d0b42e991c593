// What a number becomes in the formats of machine learning: its bits, the value that is stored, what lies beside it, and
// whether it overflowed or underflowed. Rounding is to nearest, halves to even, from the exact decimal number.
import { invariant } from '../core/errors.ts'
import {
  absolute,
  binaryExponent,
  compare,
  parseRational,
  type Rational,
  rationalOf,
  roundedUnits,
  subtract,
} from './rational.ts'

/** A binary floating-point format with a sign. */
export interface FloatFormat {
  readonly name: string
  readonly exponentBits: number
  readonly mantissaBits: number
  /** ieee: the largest exponent is for infinities and NaN. nan: only its largest mantissa, for NaN; there are no infinities. */
  readonly special: 'ieee' | 'nan'
}

/** Widths of IEEE 754; bf16 and TF32 of their makers; the 8-bit ones of Micikevicius et al. 2022 (arXiv:2209.05433). */
export const FLOAT_FORMATS: readonly FloatFormat[] = [
  { name: 'fp64', exponentBits: 11, mantissaBits: 52, special: 'ieee' },
  { name: 'fp32', exponentBits: 8, mantissaBits: 23, special: 'ieee' },
  { name: 'tf32', exponentBits: 8, mantissaBits: 10, special: 'ieee' },
  { name: 'fp16', exponentBits: 5, mantissaBits: 10, special: 'ieee' },
  { name: 'bf16', exponentBits: 8, mantissaBits: 7, special: 'ieee' },
  { name: 'fp8 e4m3', exponentBits: 4, mantissaBits: 3, special: 'nan' },
  { name: 'fp8 e5m2', exponentBits: 5, mantissaBits: 2, special: 'ieee' },
]

/** Values of a block of weights share a scale, its largest magnitude; each is one of these shares of it. */
export interface BlockFormat {
  readonly name: string
  readonly bits: number
  /** Rising; index = code, unless `isSigned`. */
  readonly levels: readonly number[]
  /** Codes are two's complement whole numbers. */
  readonly isSigned: boolean
}

/** Dettmers et al. 2023 (arXiv:2305.14314), appendix E: quantiles of the normal distribution, with a 0. */
const NF4 = [
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
]

const symmetric = (most: number): number[] => Array.from({ length: 2 * most + 1 }, (_, index) => (index - most) / most)

export const BLOCK_FORMATS: readonly BlockFormat[] = [
  { name: 'int8', bits: 8, levels: symmetric(127), isSigned: true },
  { name: 'int4', bits: 4, levels: symmetric(7), isSigned: true },
  { name: 'nf4', bits: 4, levels: NF4, isSigned: false },
]

/** A number as it was typed: finite, or not. */
export type Typed =
  | { readonly kind: 'finite'; readonly value: Rational; readonly isNegative: boolean }
  | { readonly kind: 'nan' }
  | { readonly kind: 'infinite'; readonly isNegative: boolean }

/** @throws ConfigError for what is no number */
export function parseTyped(text: string): Typed {
  const word = text.trim().toLowerCase()
  const special = /^([+-]?)(inf|infinity|nan)$/.exec(word)
  if (special?.[2] === 'nan') return { kind: 'nan' }
  if (special !== null) return { kind: 'infinite', isNegative: special[1] === '-' }
  return { kind: 'finite', value: parseRational(word), isNegative: word.startsWith('-') }
}

export type Outcome = 'exact' | 'rounded' | 'subnormal' | 'underflow to 0' | 'overflow' | 'special'

export interface Stored {
  readonly name: string
  /** As '0', '01111011', '10011001'; one string for block formats. */
  readonly bits: readonly string[]
  readonly stored: number
  readonly outcome: Outcome
  /** Stored minus typed; undefined where either is not finite. */
  readonly error: Rational | undefined
  /** error / typed, undefined where the typed number is 0. */
  readonly relativeError: number | undefined
  /** The next smaller and the next larger stored number; NaN beyond the last. */
  readonly neighbours: readonly [number, number]
  readonly largest: number
  /** Smallest positive with all digits; undefined for block formats, which have no exponent. */
  readonly smallestNormal: number | undefined
  /** Smallest positive. */
  readonly smallest: number
  /** Distance from 1 to the next larger number; undefined for block formats, which may have no 1. */
  readonly epsilon: number | undefined
}

function bias({ exponentBits }: FloatFormat): number {
  return 2 ** (exponentBits - 1) - 1
}

/** Value of a magnitude's code (exponent and mantissa as one whole number). */
function decode(format: FloatFormat, code: bigint): number {
  const { exponentBits, mantissaBits, special } = format
  const exponent = Number(code >> BigInt(mantissaBits))
  const mantissa = Number(code & ((1n << BigInt(mantissaBits)) - 1n))
  const top = 2 ** exponentBits - 1
  if (special === 'ieee' && exponent === top) return mantissa === 0 ? Infinity : Number.NaN
  if (special === 'nan' && exponent === top && mantissa === 2 ** mantissaBits - 1) return Number.NaN
  const unit = 2 ** (Math.max(exponent, 1) - bias(format) - mantissaBits)
  return exponent === 0 ? mantissa * unit : (mantissa + 2 ** mantissaBits) * unit
}

/** Code of the largest finite magnitude. */
function largestCode({ exponentBits, mantissaBits, special }: FloatFormat): bigint {
  const all = 1n << BigInt(exponentBits + mantissaBits)
  return special === 'nan' ? all - 2n : all - (1n << BigInt(mantissaBits)) - 1n
}

/** The typed number in a floating-point format. Overflow gives infinity, or NaN where there is none. */
export function storeFloat(format: FloatFormat, typed: Typed): Stored {
  const most = largestCode(format)
  const nanCode = (1n << BigInt(format.exponentBits + format.mantissaBits)) - 1n
  const overflowCode = format.special === 'ieee' ? most + 1n : nanCode
  const isNegative = typed.kind !== 'nan' && typed.isNegative
  let code = typed.kind === 'nan' ? nanCode : overflowCode
  if (typed.kind === 'finite') code = roundToCode(format, absolute(typed.value), most, overflowCode)
  const magnitude = decode(format, code)
  const stored = isNegative ? -magnitude : magnitude
  const width = format.exponentBits + format.mantissaBits
  const digits = code.toString(2).padStart(width, '0')
  const beyond = (other: bigint): number =>
    other > most ? (format.special === 'ieee' ? Infinity : Number.NaN) : decode(format, other)
  const up = code > most ? Number.NaN : beyond(code + 1n)
  const down =
    typed.kind === 'nan'
      ? Number.NaN
      : code > most
        ? decode(format, most)
        : code === 0n
          ? -decode(format, 1n)
          : decode(format, code - 1n)
  const smallestNormal = decode(format, 1n << BigInt(format.mantissaBits))
  return {
    name: format.name,
    bits: [isNegative ? '1' : '0', digits.slice(0, format.exponentBits), digits.slice(format.exponentBits)],
    stored,
    outcome: outcomeOf(typed, stored, smallestNormal),
    ...errorsOf(typed, stored),
    neighbours: isNegative ? [-up, -down] : [down, up],
    largest: decode(format, most),
    smallestNormal,
    smallest: decode(format, 1n),
    epsilon: 2 ** -format.mantissaBits,
  }
}

function roundToCode(format: FloatFormat, value: Rational, most: bigint, overflowCode: bigint): bigint {
  if (value.numerator === 0n) return 0n
  const { mantissaBits } = format
  const lowest = 1 - bias(format)
  const exponent = Math.max(binaryExponent(value), lowest)
  const units = roundedUnits(value, exponent - mantissaBits)
  // A mantissa that is rounded up to the next power of two moves on to the next exponent by itself.
  const code = (BigInt(exponent - lowest) << BigInt(mantissaBits)) + units
  return code > most ? overflowCode : code
}

function outcomeOf(typed: Typed, stored: number, smallestNormal: number): Outcome {
  if (typed.kind === 'nan') return 'special'
  // An infinity in a format that has none overflows as a large number does.
  if (typed.kind === 'infinite') return Number.isNaN(stored) ? 'overflow' : 'special'
  if (!Number.isFinite(stored)) return 'overflow'
  if (stored === 0) return typed.value.numerator === 0n ? 'exact' : 'underflow to 0'
  if (Math.abs(stored) < smallestNormal) return 'subnormal'
  return compare(typed.value, rationalOf(stored)) === 0 ? 'exact' : 'rounded'
}

function errorsOf(typed: Typed, stored: number): Pick<Stored, 'error' | 'relativeError'> {
  if (typed.kind !== 'finite' || !Number.isFinite(stored)) return { error: undefined, relativeError: undefined }
  const error = subtract(rationalOf(stored), typed.value)
  const { numerator, denominator } = typed.value
  if (numerator === 0n) return { error, relativeError: undefined }
  // To 17 digits: enough for a double.
  const scaled = (error.numerator * denominator * 10n ** 320n) / (error.denominator * numerator)
  return { error, relativeError: Number(`${scaled}e-320`) }
}

/**
 * The typed number in a block of weights whose largest magnitude is `absmax`: the nearest level, in exact arithmetic up to
 * the rounding of `absmax` times a level.
 */
export function storeInBlock(format: BlockFormat, typed: Typed, absmax: number): Stored {
  const { levels, bits, isSigned } = format
  const values = levels.map((level) => level * absmax)
  const index =
    typed.kind === 'finite'
      ? nearest(values, typed.value)
      : typed.kind === 'infinite'
        ? typed.isNegative
          ? 0
          : values.length - 1
        : -1
  const stored = index < 0 ? Number.NaN : values[index]!
  const zero = levels.indexOf(0)
  invariant(zero > 0, `${format.name} has no 0`)
  const code = index < 0 ? 0 : isSigned ? (index - zero + 2 ** bits) % 2 ** bits : index
  const isOutside =
    typed.kind === 'infinite' || (typed.kind === 'finite' && compare(absolute(typed.value), rationalOf(absmax)) > 0)
  return {
    name: format.name,
    bits: [index < 0 ? '-' : code.toString(2).padStart(bits, '0')],
    stored,
    outcome: isOutside ? 'overflow' : outcomeOf(typed, stored, 0),
    ...errorsOf(typed, stored),
    neighbours:
      index < 0 ? [Number.NaN, Number.NaN] : [values[index - 1] ?? Number.NaN, values[index + 1] ?? Number.NaN],
    largest: values.at(-1)!,
    smallestNormal: undefined,
    smallest: values[zero + 1]!,
    epsilon: undefined,
  }
}

/** Ties go to the even index from 0, as rounding to even does. */
function nearest(values: readonly number[], value: Rational): number {
  const zero = values.indexOf(0)
  let best = 0
  let distance: Rational | undefined
  for (const [index, level] of values.entries()) {
    const away = absolute(subtract(value, rationalOf(level)))
    const order = distance === undefined ? -1 : compare(away, distance)
    if (order < 0 || (order === 0 && (index - zero) % 2 === 0)) [best, distance] = [index, away]
  }
  return best
}
