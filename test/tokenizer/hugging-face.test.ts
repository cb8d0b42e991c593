// The same ids as npm `tokenizers` with the real files of Llama 3 and Qwen 3, with llama2.c's byte fallback, with every
// flag of added tokens; what is saved is loaded there with equal ids.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { llama2cTokenizerFiles } from '../../src/checkpoint/llama2c-tokenizer.ts'
import { loadTokenizer, tokenizerFiles } from '../../src/data/tokenizer/load.ts'
import { GPT2_PATTERN, O200K_PATTERN, QWEN2_PATTERN } from '../../src/data/tokenizer/pretokenize.ts'
import { Tokenizer } from '../../src/data/tokenizer/tokenizer.ts'
import { trainTokenizer } from '../../src/data/tokenizer/train.ts'
import { assertSameIds, folderOf, Oracle, realTokenizer } from './oracles.ts'
import { hardTexts, RUNS, realTexts, sharedPath, skipReal } from './texts.ts'

const EXTRA = {
  llama3: ['<|begin_of_text|>', '<|eot_id|>', '<|eot_id', '<|reserved_special_token_1|>'],
  qwen3: ['<|im_start|>', '<|im_end|>\n', '<think>', '</think>', '<think'],
}

for (const family of ['llama3', 'qwen3'] as const) {
  const path = realTokenizer(family)
  const ours = loadTokenizer(path)
  const theirs = new Oracle(path)

  test(`${family}: ids and text of made-up texts`, async () => {
    const property = fc.asyncProperty(hardTexts(EXTRA[family]), async (text) => {
      const ids = ours.encode(text)
      assertSameIds(text, ids, await theirs.encode(text), ours)
      const decoded = ours.decode(ids)
      assert.equal(decoded, await theirs.decode(ids))
      if (family === 'llama3') assert.equal(decoded, text.toWellFormed())
    })
    await fc.assert(property, RUNS)
  })

  test(`${family}: ids of real texts`, { skip: skipReal }, async () => {
    for (const text of realTexts()) assertSameIds(text, ours.encode(text), await theirs.encode(text), ours)
  })

  test(`${family}: text of any ids, with and without special tokens`, async () => {
    const ids = fc.array(fc.oneof(fc.nat(ours.vocabSize - 1), fc.nat(300), fc.constant(ours.eosTokenId!)), {
      maxLength: 12,
    })
    const property = fc.asyncProperty(ids, fc.boolean(), async (list, skipSpecialTokens) => {
      assert.equal(ours.decode(list, { skipSpecialTokens }), await theirs.decode(list, skipSpecialTokens))
    })
    await fc.assert(property, { ...RUNS, numRuns: 500 })
  })

  test(`${family}: saved and loaded again it is the same tokenizer`, async () => {
    const folder = folderOf(tokenizerFiles(ours))
    const again = loadTokenizer(folder)
    assert.equal(again.hash, ours.hash)
    assert.equal(again.chatTemplate, ours.chatTemplate)
    assert.match(again.chatTemplate ?? '', /message/)
    const saved = new Oracle(join(folder, 'tokenizer.json'))
    const property = fc.asyncProperty(hardTexts(EXTRA[family]), async (text) => {
      assertSameIds(text, await saved.encode(text), await theirs.encode(text), ours)
    })
    await fc.assert(property, { ...RUNS, numRuns: 300 })
  })
}

test('BOS, EOS and the number of ids are those of the files', () => {
  const llama = loadTokenizer(dirname(realTokenizer('llama3')))
  assert.deepEqual([llama.bosTokenId, llama.eosTokenId, llama.vocabSize], [128_000, 128_001, 128_256])
  const qwen = loadTokenizer(dirname(realTokenizer('qwen3')))
  assert.deepEqual([qwen.bosTokenId, qwen.eosTokenId, qwen.vocabSize], [undefined, 151_645, 151_669])
  assert.equal(qwen.isSpecial(151_645), true)
  assert.equal(qwen.isSpecial(qwen.tokenToId('<think>')!), false)
})

test('Llama 3 with the template that adds BOS, as its newer files have it', async () => {
  const json = JSON.parse(readFileSync(realTokenizer('llama3'), 'utf8'))
  const bos = '<|begin_of_text|>'
  json.post_processor = {
    type: 'Sequence',
    processors: [
      json.post_processor,
      {
        type: 'TemplateProcessing',
        single: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
        pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
        special_tokens: { [bos]: { id: bos, ids: [128_000], tokens: [bos] } },
      },
    ],
  }
  const folder = folderOf({ 'tokenizer.json': JSON.stringify(json) })
  const ours = loadTokenizer(folder)
  const oracle = new Oracle(join(folder, 'tokenizer.json'))
  for (const text of ['', 'Hello world', `${bos}twice`]) {
    assertSameIds(text, ours.encode(text, { addSpecialTokens: true }), await oracle.encode(text, true), ours)
    assertSameIds(text, ours.encode(text), await oracle.encode(text), ours)
  }
  assert.deepEqual(ours.encode('', { addSpecialTokens: true }), [128_000])
  const saved = folderOf(tokenizerFiles(ours))
  assert.equal(loadTokenizer(saved).hash, ours.hash)
  assert.deepEqual(await new Oracle(join(saved, 'tokenizer.json')).encode('Hi', true), [128_000, ...ours.encode('Hi')])
})

test("llama2.c's tok512 with byte fallback", { skip: skipReal }, async () => {
  const files = llama2cTokenizerFiles(sharedPath('models/tok512.bin'), 512, 512) as Record<string, string>
  const folder = folderOf(files)
  const ours = loadTokenizer(folder)
  const oracle = new Oracle(join(folder, 'tokenizer.json'))
  assert.deepEqual([ours.vocabSize, ours.bosTokenId, ours.eosTokenId], [512, 1, 2])
  const saved = folderOf(tokenizerFiles(ours))
  assert.equal(loadTokenizer(saved).hash, ours.hash)
  const savedOracle = new Oracle(join(saved, 'tokenizer.json'))
  const extra = ['Once upon a time', ' there was', '</s>', '<s>', '\u2581', '  big', '<0x41>']
  const property = fc.asyncProperty(hardTexts(extra), async (text) => {
    const ids = ours.encode(text, { addSpecialTokens: true })
    assertSameIds(text, ids, await oracle.encode(text, true), ours)
    assertSameIds(text, ids, await savedOracle.encode(text, true), ours)
    for (const skipSpecialTokens of [true, false]) {
      assert.equal(ours.decode(ids, { skipSpecialTokens }), await oracle.decode(ids, skipSpecialTokens))
    }
  })
  await fc.assert(property, { ...RUNS, numRuns: 1000 })
  for (const text of realTexts().slice(-60)) assertSameIds(text, ours.encode(text), await oracle.encode(text), ours)
})

const corpus =
  'the cat sat on the mat, and the dogs barked at it: "Caf\u00e9!" 12 34 567 don\'t WE\'LL camelCase \n\n '.repeat(30)

for (const [name, pattern] of Object.entries({ GPT2_PATTERN, QWEN2_PATTERN, O200K_PATTERN, LETTERS: '\\p{L}+|\\d+' })) {
  test(`a tokenizer trained with ${name} is loaded by npm tokenizers with equal ids`, async () => {
    const trained = trainTokenizer([corpus], { vocabSize: 400, pattern, specialTokens: ['<|endoftext|>', '<|user|>'] })
    const folder = folderOf(tokenizerFiles(trained))
    assert.equal(loadTokenizer(folder).hash, trained.hash)
    const oracle = new Oracle(join(folder, 'tokenizer.json'))
    const property = fc.asyncProperty(hardTexts(['the', '<|user|>', '<|endoftext|>', 'dogs']), async (text) => {
      const ids = trained.encode(text)
      assertSameIds(text, ids, await oracle.encode(text), trained)
      assert.equal(trained.decode(ids), text.toWellFormed())
    })
    await fc.assert(property, { ...RUNS, numRuns: 500 })
  })
}

test('every flag of added tokens', async () => {
  const trained = trainTokenizer([corpus], { vocabSize: 380 })
  const contents = ['[L]', '[R]', '[LR]', '[W]', 'cat', '[N]', '\u00e9', 'ab', 'abc']
  const options = fc.record({
    special: fc.boolean(),
    lstrip: fc.boolean(),
    rstrip: fc.boolean(),
    singleWord: fc.boolean(),
    normalized: fc.boolean(),
  })
  const flags = fc.array(options, { minLength: contents.length, maxLength: contents.length })
  const property = fc.asyncProperty(flags, fc.constantFrom('', 'NFC' as const), async (all, normalization) => {
    const addedTokens = contents.map((content, i) => ({ id: 380 + i, content, ...all[i]! }))
    const ours = new Tokenizer({
      ...trained.definition,
      normalization,
      addedTokens,
      eosTokenId: undefined,
      bosTokenId: undefined,
    })
    const folder = folderOf(tokenizerFiles(ours))
    const oracle = new Oracle(join(folder, 'tokenizer.json'))
    const glued = [...contents, 'cats', '_', 'e\u0301', '[N]\u0301', '\u0085', ' \n ', 'a', 'b', 'c']
    for (const text of fc.sample(hardTexts(glued), { numRuns: 60, seed: RUNS.seed })) {
      assertSameIds(text, ours.encode(text), await oracle.encode(text), ours)
    }
  })
  await fc.assert(property, { ...RUNS, numRuns: 25 })
})
