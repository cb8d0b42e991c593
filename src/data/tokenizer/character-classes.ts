// The Unicode classes that the splitting patterns ask for, one byte per code point, found out on first sight.
// Text must be well-formed UTF-16.

/** Lu, Lt. */
export const UPPER = 1
/** Ll. */
export const LOWER = 2
/** Lm, Lo: neither upper nor lower. */
export const CASELESS = 3
/** Classes up to this one are letters. */
export const LAST_LETTER = CASELESS
export const MARK = 4
export const NUMBER = 5
/** White_Space but for CR and LF. */
export const SPACE = 6
/** CR, LF. */
export const NEWLINE = 7
/** Everything else: punctuation, symbols, control and unassigned characters. */
export const OTHER = 8

const classes = new Uint8Array(0x110000)

/** Class of the character that the UTF-16 unit at `i` belongs to; both halves of a pair have their character's. */
export function classAt(text: string, i: number): number {
  const unit = text.charCodeAt(i)
  const known = classes[unit]!
  // Surrogate units stay 0 in the table, so that they come this way.
  return known !== 0 ? known : lookUp(text, unit, i)
}

function lookUp(text: string, unit: number, i: number): number {
  const isLowHalf = unit >= 0xdc00 && unit <= 0xdfff
  const codePoint = text.codePointAt(isLowHalf ? i - 1 : i)!
  const known = classes[codePoint]!
  if (known !== 0) return known
  const found = classify(String.fromCodePoint(codePoint))
  if (codePoint < 0xd800 || codePoint > 0xdfff) classes[codePoint] = found
  return found
}

function classify(character: string): number {
  if (/^[\p{Lu}\p{Lt}]/u.test(character)) return UPPER
  if (/^\p{Ll}/u.test(character)) return LOWER
  if (/^\p{L}/u.test(character)) return CASELESS
  if (/^\p{M}/u.test(character)) return MARK
  if (/^\p{N}/u.test(character)) return NUMBER
  if (character === '\r' || character === '\n') return NEWLINE
  return /^\p{White_Space}/u.test(character) ? SPACE : OTHER
}
