// The scanner that checks read source through: what is code, what is a comment, a string, an import.

// biome-ignore-all lint/suspicious/noTemplateCurlyInString: source text with templates is what is tested
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { codeOnly, listImports, listNames, wordsOf } from '../../tools/source-text.ts'

/** Runs of blanks as one, so that cases can be read. */
const squeezed = (text: string): string => codeOnly(text).replaceAll(/ +/g, ' ').trim()

const CASES: readonly [text: string, code: string][] = [
  ['a // b\nc', 'a \nc'],
  ['a /* b\n c */ d', 'a \n d'],
  ["f('a // b', \"it's\")", `f(' ', " ")`],
  ["f('it\\'s') + a", "f(' ') + a"],
  ["f('\\\\') + a", "f(' ') + a"],
  ['f(`a ${b + `c ${d}`} e`) + g', 'f(` ${b + ` ${d}`} `) + g'],
  ['`${{ a: `}` }.a} b`', '`${{ a: ` ` }.a} `'],
  ['`a \\${b} \\` c` + d', '` ` + d'],
  ['x.replace(/[\'"`/]/g, y)', 'x.replace(/ /g, y)'],
  ['return /a[/]b/.test(c)', 'return / /.test(c)'],
  ['a! / b / c // d', 'a! / b / c'],
  ['(a + b) / c / d', '(a + b) / c / d'],
  ['if (!/x/.test(y)) z', 'if (!/ /.test(y)) z'],
]

for (const [text, code] of CASES) {
  test(`code of ${JSON.stringify(text)}`, () => {
    assert.equal(squeezed(text), code)
    assert.equal(codeOnly(text).length, text.length)
    assert.equal(codeOnly(text).split('\n').length, text.split('\n').length)
  })
}

test('imports of every form, and none from comments and strings', () => {
  const text = [
    "import a, { b } from './a.ts'",
    "import type { C } from './c.ts'",
    "import { type D } from './d.ts'",
    "import type from './e.ts'",
    "import './f.ts'",
    "export * as g from 'g'",
    "export type { H } from './h.ts'",
    'export {',
    '  i,',
    "} from './i.ts'",
    "// import './no.ts'",
    'const text = "import \'./no.ts\'"',
    "const load = () => import('./j.ts')",
    "const path = import.meta.url + './no.ts'",
    "export const from = './no.ts'",
  ].join('\n')
  const brief = listImports(text).map(({ specifier, isTypeOnly, isDynamic, line }) => {
    const kinds = [isTypeOnly && 'type', isDynamic && 'dynamic'].filter(Boolean)
    return [line, specifier, ...kinds].join(' ')
  })
  assert.deepEqual(brief, [
    '1 ./a.ts',
    '2 ./c.ts type',
    '3 ./d.ts',
    '4 ./e.ts',
    '5 ./f.ts',
    '6 g',
    '7 ./h.ts type',
    '8 ./i.ts',
    '13 ./j.ts dynamic',
  ])
})

test('names and the words in them', () => {
  assert.deepEqual(listNames('a.b\n  #c$ = 12e3'), [
    { name: 'a', line: 1 },
    { name: 'b', line: 1 },
    { name: 'c$', line: 2 },
    { name: 'e3', line: 2 },
  ])
  assert.deepEqual(wordsOf('deviceNames'), ['device', 'names'])
  assert.deepEqual(wordsOf('KV_CACHE'), ['kv', 'cache'])
  assert.deepEqual(wordsOf('loadHFConfig2'), ['load', 'hf', 'config'])
  assert.deepEqual(wordsOf('#private'), ['private'])
})
