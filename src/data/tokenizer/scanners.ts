// The published splitting patterns by hand: where the piece that starts at a position ends. Each does what its pattern
// in pretokenize.ts says (a test compares them), several times as fast as the regular expression, without making
// strings. Text must be well-formed UTF-16.
import {
  CASELESS,
  classAt,
  LAST_LETTER,
  LOWER,
  MARK,
  NEWLINE,
  NUMBER,
  OTHER,
  SPACE,
  UPPER,
} from './character-classes.ts'

/** End of the piece of `text` that starts at `start`, in UTF-16 units; pieces follow each other without a gap. */
export type PieceScanner = (text: string, start: number) => number

const BLANK = 0x20
const APOSTROPHE = 0x27
const SLASH = 0x2f

/** GPT-2's pattern. */
export function scanGpt2(text: string, start: number): number {
  const unit = text.charCodeAt(start)
  if (unit === APOSTROPHE) {
    const end = contractionEnd(text, start, false)
    if (end > start) return end
  }
  const isBlankBefore = unit === BLANK && start + 1 < text.length && !isSpace(classAt(text, start + 1))
  const first = isBlankBefore ? start + 1 : start
  const kind = classAt(text, first)
  if (kind <= LAST_LETTER) return letterEnd(text, first)
  if (kind === NUMBER) return numberEnd(text, first, Number.POSITIVE_INFINITY)
  if (!isSpace(kind)) return otherEnd(text, first)
  const end = spaceEnd(text, start)
  return end === text.length || end - start === 1 ? end : end - 1
}

/** The pattern of Llama 3 and cl100k (numbers of up to three digits) and of Qwen 2 and 3 (of one). */
export function scanLlama3(maxDigits: number): PieceScanner {
  return (text, start) => {
    const kind = classAt(text, start)
    if (kind <= LAST_LETTER) return letterEnd(text, start)
    if (kind === NUMBER) return numberEnd(text, start, maxDigits)
    if (text.charCodeAt(start) === APOSTROPHE) {
      const end = contractionEnd(text, start, true)
      if (end > start) return end
    }
    const next = start + widthAt(text, start)
    if (kind !== NEWLINE && next < text.length && classAt(text, next) <= LAST_LETTER) return letterEnd(text, next)
    return punctuationOrSpaceEnd(text, start, kind, false)
  }
}

/** o200k's pattern: its two kinds of words, each first with a leading character and then without, then the rest. */
export function scanO200k(text: string, start: number): number {
  const kind = classAt(text, start)
  if (kind === NUMBER) return numberEnd(text, start, 3)
  const next = start + widthAt(text, start)
  const mayLead = kind > LAST_LETTER && kind !== NEWLINE
  let end = mayLead ? lowerWordEnd(text, next) : -1
  if (end < 0) end = lowerWordEnd(text, start)
  if (end < 0 && mayLead) end = upperWordEnd(text, next)
  if (end < 0) end = upperWordEnd(text, start)
  if (end >= 0) return text.charCodeAt(end) === APOSTROPHE ? contractionEnd(text, end, true) : end
  return punctuationOrSpaceEnd(text, start, kind, true)
}

/** [Lu Lt Lm Lo M]*[Ll Lm Lo M]+ from `start`, or -1. */
function lowerWordEnd(text: string, start: number): number {
  let end = start
  // Where the upper run must give back characters, the lower part is the last of them that is neither.
  let afterShared = -1
  for (; end < text.length; end++) {
    const kind = classAt(text, end)
    if (kind === CASELESS || kind === MARK) afterShared = end + 1
    else if (kind !== UPPER) break
  }
  const upperEnd = end
  for (; end < text.length; end++) {
    const kind = classAt(text, end)
    if (kind !== LOWER && kind !== CASELESS && kind !== MARK) break
  }
  return end > upperEnd ? end : afterShared
}

/** [Lu Lt Lm Lo M]+ from `start` where no lower word is, or -1. */
function upperWordEnd(text: string, start: number): number {
  let end = start
  while (end < text.length && classAt(text, end) === UPPER) end++
  return end > start ? end : -1
}

/** What is left after words and numbers: punctuation with line breaks after it, or white space. */
function punctuationOrSpaceEnd(text: string, start: number, kind: number, takesSlash: boolean): number {
  const isBlank = text.charCodeAt(start) === BLANK
  if (!isSpace(kind) || (isBlank && start + 1 < text.length && isOther(classAt(text, start + 1)))) {
    let end = otherEnd(text, isBlank ? start + 1 : start)
    for (; end < text.length; end++) {
      if (classAt(text, end) !== NEWLINE && !(takesSlash && text.charCodeAt(end) === SLASH)) break
    }
    return end
  }
  let end = start
  let afterNewline = -1
  for (; end < text.length; end++) {
    const kindHere = classAt(text, end)
    if (!isSpace(kindHere)) break
    if (kindHere === NEWLINE) afterNewline = end + 1
  }
  if (afterNewline >= 0) return afterNewline
  return end === text.length || end - start === 1 ? end : end - 1
}

/** Units of the character at `i`. */
function widthAt(text: string, i: number): number {
  const unit = text.charCodeAt(i)
  return unit >= 0xd800 && unit <= 0xdbff ? 2 : 1
}

function isSpace(kind: number): boolean {
  return kind === SPACE || kind === NEWLINE
}

function isOther(kind: number): boolean {
  return kind === OTHER || kind === MARK
}

function letterEnd(text: string, start: number): number {
  let end = start
  while (end < text.length && classAt(text, end) <= LAST_LETTER) end++
  return end
}

function otherEnd(text: string, start: number): number {
  let end = start
  while (end < text.length && isOther(classAt(text, end))) end++
  return end
}

function spaceEnd(text: string, start: number): number {
  let end = start
  while (end < text.length && isSpace(classAt(text, end))) end++
  return end
}

function numberEnd(text: string, start: number, most: number): number {
  let end = start
  for (let n = 0; n < most && end < text.length && classAt(text, end) === NUMBER; n++) end += widthAt(text, end)
  return end
}

/** End of 's 't 'm 'd 're 've 'll at the apostrophe at `start`, or `start`. */
function contractionEnd(text: string, start: number, ignoresCase: boolean): number {
  const first = letterAt(text, start + 1, ignoresCase)
  if (first === 's' || first === 't' || first === 'm' || first === 'd') return start + 2
  const second = letterAt(text, start + 2, ignoresCase)
  const isPair =
    (first === 'r' && second === 'e') || (first === 'v' && second === 'e') || (first === 'l' && second === 'l')
  return isPair ? start + 3 : start
}

function letterAt(text: string, i: number, ignoresCase: boolean): string {
  const letter = text.charAt(i)
  if (!ignoresCase) return letter
  // The long s, which Unicode folds to s.
  return letter === '\u017f' ? 's' : letter.toLowerCase()
}
