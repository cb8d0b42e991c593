// Texts to try tokenizers on: made-up ones full of what splitting patterns trip over, and real ones where ../shared is.
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { gunzipSync } from 'node:zlib'
import fc from 'fast-check'

const WORDS = [
  'the',
  ' hello',
  ' World',
  'HTTPServer',
  'camelCase',
  ' iPhone',
  "don't",
  "WE'LL",
  "'s",
  "'\u017fa",
  "'Re",
  "it'd've",
  ' na\u00efve',
  'e\u0301',
  ' \u0130stanbul',
  '\u01c5',
  '\u65e5\u672c\u8a9e',
  '\ud55c\uad6d\uc5b4',
  '\u0645\u0631\u062d\u0628\u0627',
  '\u0939\u093f\u0928\u094d\u0926\u0940',
  '\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35',
]
const MARKS = [
  '.',
  ', ',
  '...',
  '!?',
  ' (',
  '{\n',
  '});\n\n',
  '//',
  '/*\r\n',
  ' --',
  '\u201c',
  '\u2019t',
  '_',
  '$',
  '\u20ac',
  '\u0301',
]
const DIGITS = ['0', ' 7', '42', '1234567', '3.14', '\u00bd', '\u0663\u0664', '\u2167', '\ud835\udfd8\ud835\udfd9']
const SPACES = [
  ' ',
  '  ',
  '\t',
  '\n',
  '\r\n',
  '\u0085',
  '\ufeff',
  '\u00a0',
  '\u2028',
  '\u3000',
  '\u200b',
  '\u180e',
  '\u2009',
]
const EMOJI = [
  '\u{1f600}',
  '\u{1f468}\u200d\u{1f469}\u200d\u{1f467}',
  '\u{1f1e9}\u{1f1ea}',
  '\u{1f44d}\u{1f3fd}',
  '\u2764\ufe0f',
]
const CODE = [
  'def f(x):\n    return x\n',
  '  if (a!=b) {\n\t\tc+=1;\n',
  '<div class="a">',
  'https://example.org/?q=1&r=a%20b',
  'x\\n',
]
const HALVES = ['\ud800', '\udc00', '\udbffa', 'b\udfff']

/** Letters and marks that are new in Unicode 17: Node 24 knows them, the other programs stand at Unicode 16. */
const NEWEST = /[\u088f\u0c5c\u0cdc\ua7ce\ua7cf\ua7d2\ua7d4\ua7f1]|[\u1acf-\u1add\u1ae0-\u1aeb]/

/** Any character that every version of Unicode in use knows, or none does. */
const settled = fc
  .oneof(
    fc.integer({ min: 0, max: 0x7f }),
    fc.integer({ min: 0x80, max: 0x2fff }),
    fc.integer({ min: 0x3000, max: 0xd7ff }),
    fc.integer({ min: 0xe000, max: 0xffff }),
    fc.integer({ min: 0x1d400, max: 0x1d7ff }),
    fc.integer({ min: 0x1f300, max: 0x1f64f }),
    fc.integer({ min: 0x20000, max: 0x2a6df }),
  )
  .map((codePoint) => String.fromCodePoint(codePoint))
  .filter((character) => !NEWEST.test(character))

const run = (choices: readonly string[]) =>
  fc.tuple(fc.constantFrom(...choices), fc.integer({ min: 1, max: 6 })).map(([text, n]) => text.repeat(n))

/** Short texts of pieces in any order; `extra` are put in among them. */
export function hardTexts(extra: readonly string[] = []): fc.Arbitrary<string> {
  const parts = [
    fc.constantFrom(...WORDS),
    fc.constantFrom(...MARKS),
    fc.constantFrom(...DIGITS),
    fc.constantFrom(...EMOJI),
    fc.constantFrom(...CODE),
    fc.constantFrom(...HALVES),
    run(SPACES),
    run(['a', 'ab', '1', '=', '\u00e9', '!']),
    settled,
    fc.string({ maxLength: 8 }),
    ...(extra.length > 0 ? [fc.constantFrom(...extra)] : []),
  ]
  // Without a size fast-check keeps to short ones, most of which come up again.
  return fc.array(fc.oneof(...parts), { maxLength: 24, size: 'max' }).map((texts) => texts.join(''))
}

/** Short texts come up again: more than 10,000 of these differ. A fixed seed: what fails fails again. */
export const RUNS = { numRuns: 11_000, seed: 20240501 }

const shared = fileURLToPath(new URL('../../../shared/data/', import.meta.url))

/** Why tests on real text are skipped, or false. */
export const skipReal = existsSync(shared) ? false : 'needs ../shared/data'

export const sharedPath = (name: string): string => `${shared}${name}`

/** A file below ../shared/data, unpacked. */
export function sharedText(name: string): string {
  return gunzipSync(readFileSync(`${shared}${name}`)).toString('utf8')
}

/** Real documents: web pages, an encyclopedia, code, a novel; about 1.3 MB. */
export function realTexts(): string[] {
  const rows = (name: string): Record<string, unknown>[] =>
    sharedText(name)
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line))
  return [
    ...rows('text/c4-demo.jsonl.gz').map((row) => String(row.text)),
    sharedText('text/wikitext-2-valid.txt.gz').slice(0, 300_000),
    ...rows('eval/humaneval.jsonl.gz').map((row) => JSON.stringify(row)),
    String(rows('text/english-novels-00.jsonl.gz')[0]!.text).slice(0, 200_000),
  ]
}
