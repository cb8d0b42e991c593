// Exact decimal numbers, so that a rounding is that of the number which was typed and not of its nearest double.
import { ConfigError } from '../core/errors.ts'

/** numerator / denominator, the denominator above 0. */
export interface Rational {
  readonly numerator: bigint
  readonly denominator: bigint
}

/** Digits before and after the point, or an exponent, beyond which a number is no longer read. */
const MOST_DIGITS = 2000

/**
 * '0.1', '-3e-5', '1_000', '1/3'.
 * @throws ConfigError
 */
export function parseRational(text: string): Rational {
  const parts = text.trim().replaceAll('_', '').split('/')
  const [first, second] = parts.map(parseDecimal)
  if (
    first === undefined ||
    (parts.length === 2 && (second === undefined || second.numerator === 0n)) ||
    parts.length > 2
  ) {
    throw new ConfigError(
      `numbers: expected a number such as 0.1, -3e-5 or 1/3, or inf or nan, got ${JSON.stringify(text)}`,
    )
  }
  if (second === undefined) return first
  const sign = second.numerator < 0n ? -1n : 1n
  return {
    numerator: sign * first.numerator * second.denominator,
    denominator: sign * second.numerator * first.denominator,
  }
}

function parseDecimal(text: string): Rational | undefined {
  const match = /^([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d+))?$/.exec(text)
  if (match === null) return undefined
  const [, sign, whole = '', fraction = '', exponent = '0'] = match
  if (whole === '' && fraction === '') return undefined
  const shift = Number(exponent) - fraction.length
  if (Math.abs(shift) > MOST_DIGITS || whole.length > MOST_DIGITS) {
    throw new ConfigError(
      `numbers: ${text} is outside of 1e${MOST_DIGITS} and 1e-${MOST_DIGITS}: give a number between them`,
    )
  }
  const digits = BigInt(`${whole}${fraction}`) * (sign === '-' ? -1n : 1n)
  return shift >= 0
    ? { numerator: digits * 10n ** BigInt(shift), denominator: 1n }
    : { numerator: digits, denominator: 10n ** BigInt(-shift) }
}

/** A finite double, exactly. */
export function rationalOf(value: number): Rational {
  if (value === 0) return { numerator: 0n, denominator: 1n }
  const bits = new DataView(new ArrayBuffer(8))
  bits.setFloat64(0, value)
  const word = bits.getBigUint64(0)
  const exponent = Number((word >> 52n) & 0x7ffn)
  const fraction = word & 0xfffffffffffffn
  const mantissa = (exponent === 0 ? fraction : fraction | (1n << 52n)) * (value < 0 ? -1n : 1n)
  const shift = BigInt(Math.max(exponent, 1) - 1075)
  return shift >= 0n
    ? { numerator: mantissa << shift, denominator: 1n }
    : { numerator: mantissa, denominator: 1n << -shift }
}

export function subtract(one: Rational, other: Rational): Rational {
  return {
    numerator: one.numerator * other.denominator - other.numerator * one.denominator,
    denominator: one.denominator * other.denominator,
  }
}

export function compare(one: Rational, other: Rational): number {
  const difference = one.numerator * other.denominator - other.numerator * one.denominator
  return difference === 0n ? 0 : difference > 0n ? 1 : -1
}

export function absolute({ numerator, denominator }: Rational): Rational {
  return { numerator: numerator < 0n ? -numerator : numerator, denominator }
}

/** Division by 2^exponent, rounded to a whole number, halves to even. Not for negative numbers. */
export function roundedUnits({ numerator, denominator }: Rational, exponent: number): bigint {
  const [top, bottom] =
    exponent >= 0 ? [numerator, denominator << BigInt(exponent)] : [numerator << BigInt(-exponent), denominator]
  const whole = top / bottom
  const twice = 2n * (top % bottom)
  return twice > bottom || (twice === bottom && whole % 2n === 1n) ? whole + 1n : whole
}

/** The largest e with 2^e at most the number, which is above 0. */
export function binaryExponent({ numerator, denominator }: Rational): number {
  const bits = (value: bigint): number => value.toString(2).length
  let exponent = bits(numerator) - bits(denominator)
  const isAtLeast = (e: number): boolean =>
    e >= 0 ? numerator >= denominator << BigInt(e) : numerator << BigInt(-e) >= denominator
  if (!isAtLeast(exponent)) exponent--
  return exponent
}

/** To so many significant digits: '0.1000000015', '1.2e-45'. */
export function formatRational(value: Rational, digits = 12): string {
  if (value.numerator === 0n) return '0'
  const sign = value.numerator < 0n ? '-' : ''
  const { numerator, denominator } = absolute(value)
  let exponent = numerator.toString().length - denominator.toString().length
  const scaled = (shift: number): bigint =>
    shift >= 0
      ? (2n * numerator * 10n ** BigInt(shift) + denominator) / (2n * denominator)
      : (2n * numerator + denominator * 10n ** BigInt(-shift)) / (2n * denominator * 10n ** BigInt(-shift))
  let text = scaled(digits - 1 - exponent).toString()
  if (text.length < digits) {
    exponent--
    text = scaled(digits - 1 - exponent).toString()
  }
  if (text.length > digits) {
    exponent++
    text = text.slice(0, digits)
  }
  const trimmed = text.replace(/0+$/, '')
  if (exponent < -4 || exponent >= Math.max(digits, 16)) {
    return `${sign}${trimmed[0]}${trimmed.length > 1 ? `.${trimmed.slice(1)}` : ''}e${exponent}`
  }
  if (exponent < 0) return `${sign}0.${'0'.repeat(-exponent - 1)}${trimmed}`
  if (trimmed.length <= exponent + 1) return `${sign}${trimmed.padEnd(exponent + 1, '0')}`
  return `${sign}${trimmed.slice(0, exponent + 1)}.${trimmed.slice(exponent + 1)}`
}
