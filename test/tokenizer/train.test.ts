// Training against the definition of BPE written down naively, on made-up texts; counting that survives growth.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { latin1 } from '../../src/data/tokenizer/definition.ts'
import { PieceCounter } from '../../src/data/tokenizer/piece-counter.ts'
import { LLAMA3_PATTERN, scannerOf } from '../../src/data/tokenizer/pretokenize.ts'
import { trainFromCounts, trainTokenizer } from '../../src/data/tokenizer/train.ts'

/** Counts every pair of every word anew for every merge. */
function naiveMerges(text: string, most: number, minFrequency: number): string[] {
  const scan = scannerOf(LLAMA3_PATTERN)
  const words: string[][] = []
  for (let start = 0; start < text.length; ) {
    const end = scan(text, start)
    words.push([...latin1(Buffer.from(text.slice(start, end)))])
    start = end
  }
  const merges: string[] = []
  while (merges.length < most) {
    const counts = new Map<string, { left: string; right: string; count: number }>()
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) {
        const [left, right] = [word[i]!, word[i + 1]!]
        const pair = counts.get(`${left.length} ${left}${right}`) ?? { left, right, count: 0 }
        pair.count++
        counts.set(`${left.length} ${left}${right}`, pair)
      }
    }
    const order = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)
    const [best] = [...counts.values()].sort(
      (a, b) => b.count - a.count || order(a.left, b.left) || order(a.right, b.right),
    )
    if (best === undefined || best.count < minFrequency) break
    merges.push(`${best.left} ${best.right}`)
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) {
        if (word[i] === best.left && word[i + 1] === best.right) word.splice(i, 2, best.left + best.right)
      }
    }
  }
  return merges
}

function mergesOf(text: string, most: number, minFrequency: number): string[] {
  const { definition } = trainTokenizer([text], { vocabSize: 257 + most, minFrequency })
  return definition.merges.map(([left, right]) =>
    [left, right].map((id) => latin1(definition.vocabulary[id]!)).join(' '),
  )
}

test('merges are those of the definition, ties and repeated letters included', () => {
  const text = fc.array(fc.constantFrom('a', 'b', 'aa', 'ab', ' ', '\n', 'xyz', '\u00e9', '\u4f60', '12'), {
    maxLength: 120,
  })
  const property = fc.property(text, fc.integer({ min: 1, max: 3 }), (parts, minFrequency) => {
    const joined = parts.join('')
    assert.deepEqual(mergesOf(joined, 25, minFrequency), naiveMerges(joined, 25, minFrequency))
  })
  fc.assert(property, { numRuns: 300, seed: 1 })
})

test('merges of a larger text are those of the definition', () => {
  const syllables = ['ba', 'na', 'co', 'ri', 'sto', 'e', 'lu', '\u00e4', 'ttt', 'aa']
  let state = 1
  const next = (most: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * most)
  }
  const word = (): string => Array.from({ length: 1 + next(4) }, () => syllables[next(10)]!).join('')
  const text = Array.from({ length: 1500 }, word).join(' ')
  assert.deepEqual(mergesOf(text, 220, 2), naiveMerges(text, 220, 2))
})

test('a minimum frequency below 1 is refused', () => {
  assert.throws(() => trainTokenizer(['ab'], { vocabSize: 300, minFrequency: 0 }), /minFrequency must be at least 1/)
})

test('pieces are counted exactly while the tables grow, long pieces and all scripts included', () => {
  const counter = new PieceCounter()
  const expected = new Map<string, number>()
  const scan = scannerOf(LLAMA3_PATTERN)
  for (let document = 0; document < 200; document++) {
    const letters = (n: number): string => String(n).replaceAll(/\d/g, (digit) => 'abcdefghij'[Number(digit)]!)
    const words = Array.from({ length: 400 }, (_, i) => `w${letters((document * 367 + i) % 50_021)}x\u00e9`)
    const text = `${words.join(' ')} ${'z'.repeat(3000 + (document % 3))} ${'\u{1F600}'.repeat(700)}`
    counter.add(text)
    for (let start = 0; start < text.length; ) {
      const end = scan(text, start)
      const piece = text.slice(start, end)
      expected.set(piece, (expected.get(piece) ?? 0) + 1)
      start = end
    }
  }
  assert.ok(counter.size > 1 << 15)
  assert.deepEqual(new Map(counter), expected)
  const bytes = [...expected.keys()].reduce((sum, piece) => sum + Buffer.byteLength(piece), 0)
  assert.equal(counter.distinctBytes, bytes)
})

test('bytes per token is that of the text', () => {
  const text = 'the cat sat on the mat, the rat sat on the cat. '.repeat(30)
  const counter = new PieceCounter()
  counter.add(text)
  const { tokenizer, bytesPerToken } = trainFromCounts(counter, { vocabSize: 280 })
  assert.equal(bytesPerToken, Buffer.byteLength(text) / tokenizer.encode(text).length)
})
