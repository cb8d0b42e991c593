// The splitting patterns of byte-level BPE: text is cut into pieces that merges never cross. Published patterns are
// scanned by hand (scanners.ts), any other by its regular expression.
import { TokenizerError } from '../../core/errors.ts'
import { type PieceScanner, scanGpt2, scanLlama3, scanO200k } from './scanners.ts'

/** GPT-2's pattern (Radford et al. 2019). */
export const GPT2_PATTERN = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/** Llama 3's and cl100k's: contractions in any case, numbers of at most three digits, line breaks kept together. */
export const LLAMA3_PATTERN =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/** Qwen 2's and 3's: every digit alone. */
export const QWEN2_PATTERN = LLAMA3_PATTERN.replace('\\p{N}{1,3}', '\\p{N}')

/** o200k_base: words split where lower case turns to upper. */
export const O200K_PATTERN = [
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
  '\\p{N}{1,3}',
  ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*',
  '\\s*[\\r\\n]+',
  '\\s+(?!\\S)',
  '\\s+',
].join('|')

/** Patterns with a scanner; the second spellings are those of older files and mean the same. */
const SCANNERS: ReadonlyMap<string, PieceScanner> = new Map([
  [GPT2_PATTERN, scanGpt2],
  [GPT2_PATTERN.replace("'(?:[sdmt]|ll|ve|re)", "'s|'t|'re|'ve|'m|'ll|'d"), scanGpt2],
  [LLAMA3_PATTERN, scanLlama3(3)],
  [LLAMA3_PATTERN.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)"), scanLlama3(3)],
  [QWEN2_PATTERN, scanLlama3(1)],
  [O200K_PATTERN, scanO200k],
])

/** Escapes whose meaning is Unicode's in the originals and not in JavaScript: \s differs in U+0085 and U+FEFF. */
const UNICODE_ESCAPES: Readonly<Record<string, string>> = {
  s: '\\p{White_Space}',
  S: '\\P{White_Space}',
  d: '\\p{Nd}',
  D: '\\P{Nd}',
}

/**
 * A pattern as a regular expression.
 * @throws TokenizerError if JavaScript cannot say the same
 */
export function compilePattern(source: string): RegExp {
  const differs = /(?:^|[^\\])(?:\\\\)*(\\[wWbB])/.exec(source)?.[1]
  if (differs !== undefined) {
    throw new TokenizerError(
      `tokenizer: the splitting pattern ${source} has ${differs}, whose meaning differs in JavaScript; write its Unicode classes out`,
    )
  }
  const unicode = source.replace(/\\(.)/gs, (written, letter: string) => UNICODE_ESCAPES[letter] ?? written)
  try {
    return new RegExp(unicode, 'gu')
  } catch (cause) {
    throw new TokenizerError(
      `tokenizer: the splitting pattern ${source} is no regular expression that JavaScript knows (${(cause as Error).message})`,
      { cause },
    )
  }
}

/** The scanner of a pattern; '' makes the whole text one piece. @throws TokenizerError as `compilePattern` */
export function scannerOf(pattern: string): PieceScanner {
  if (pattern === '') return (text) => text.length
  return SCANNERS.get(pattern) ?? scanByExpression(compilePattern(pattern))
}

/** What a regular expression skips is a piece of its own ("isolated" in Hugging Face's words). */
export function scanByExpression(expression: RegExp): PieceScanner {
  return (text, start) => {
    expression.lastIndex = start
    const match = expression.exec(text)
    if (match === null) return text.length
    if (match.index > start) return match.index
    return start + (match[0].length || String.fromCodePoint(text.codePointAt(start)!).length)
  }
}
