// The same ids as tiktoken for GPT-2, cl100k and o200k, from rank files, and rank files back.
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { get_encoding, type TiktokenEncoding } from 'tiktoken'
import { loadTokenizer, tokenizerFiles } from '../../src/data/tokenizer/load.ts'
import { fromTiktoken, TIKTOKEN_ENCODINGS, writeTiktoken } from '../../src/data/tokenizer/tiktoken.ts'
import { trainTokenizer } from '../../src/data/tokenizer/train.ts'
import { assertSameIds, folderOf, Oracle, rankFile, temporaryFolder } from './oracles.ts'
import { hardTexts, RUNS, realTexts, skipReal } from './texts.ts'

for (const name of ['gpt2', 'cl100k_base', 'o200k_base'] as const satisfies TiktokenEncoding[]) {
  const ours = fromTiktoken(rankFile(name), name)
  const theirs = get_encoding(name)
  const special = Object.keys(TIKTOKEN_ENCODINGS[name]!.specialTokens)

  test(`${name}: ids of made-up texts`, () => {
    const property = fc.property(hardTexts(), (text) => {
      const ids = ours.encode(text)
      assertSameIds(text, ids, [...theirs.encode_ordinary(text)], ours)
      assert.equal(ours.decode(ids), text.toWellFormed())
    })
    fc.assert(property, RUNS)
  })

  test(`${name}: special tokens are recognised or left as text`, () => {
    const property = fc.property(hardTexts(special), (text) => {
      assertSameIds(text, ours.encode(text), [...theirs.encode(text, 'all')], ours)
      assertSameIds(text, ours.encode(text, { parseSpecial: false }), [...theirs.encode_ordinary(text)], ours)
    })
    fc.assert(property, RUNS)
  })

  test(`${name}: ids of real texts`, { skip: skipReal }, () => {
    for (const text of realTexts()) assertSameIds(text, ours.encode(text), [...theirs.encode_ordinary(text)], ours)
  })

  test(`${name}: decoding any ids, whole characters or not`, () => {
    const ids = fc.array(fc.integer({ min: 0, max: 50_000 }), { maxLength: 12 })
    const property = fc.property(ids, (list) => {
      assert.deepEqual(ours.decodeBytes(list), theirs.decode(Uint32Array.from(list)))
    })
    fc.assert(property, { ...RUNS, numRuns: 500 })
  })

  test(`${name}: the rank file comes back byte for byte`, () => {
    assert.equal(writeTiktoken(ours), rankFile(name))
  })
}

test('a rank file named for its encoding is loaded, and keeps its ids as tokenizer.json', async () => {
  const path = join(temporaryFolder(), 'o200k_base.tiktoken')
  writeFileSync(path, rankFile('o200k_base'))
  const ours = loadTokenizer(path)
  const folder = folderOf(tokenizerFiles(ours))
  const again = loadTokenizer(folder)
  assert.equal(again.hash, ours.hash)
  assert.equal(again.vocabSize, 200_019)
  assert.equal(again.eosTokenId, 199_999)
  // Ids 199998 and 200000 to 200017 are nobody's: loaders that number added tokens on their own would go wrong there.
  const oracle = new Oracle(join(folder, 'tokenizer.json'))
  const text = "HTTPServer isn't\r\n<|endofprompt|> one<|endoftext|>"
  assertSameIds(text, again.encode(text), await oracle.encode(text), again)
  assert.deepEqual(again.encode('<|endofprompt|>'), [200_018])
})

test('a trained tokenizer as a rank file gives the same ids', () => {
  const text = 'the theory of the thing that they thought through, then and there; '.repeat(20)
  const trained = trainTokenizer([text, 'banana bandana cabana'.repeat(9)], { vocabSize: 340 })
  const ranks = writeTiktoken(trained)
  const { pattern, addedTokens } = trained.definition
  const specialTokens = Object.fromEntries(addedTokens.map(({ content, id }) => [content, id]))
  const again = fromTiktoken(ranks, { pattern, specialTokens })
  const property = fc.property(hardTexts(['the', 'ban', 'ana', 'they', 'thin']), (sample) => {
    assertSameIds(sample, again.encode(sample), trained.encode(sample), trained)
  })
  fc.assert(property, { ...RUNS, numRuns: 1000 })
})
