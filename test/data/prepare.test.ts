import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { TokenDataset } from '../../src/data/dataset.ts'
import type { Manifest } from '../../src/data/manifest.ts'
import { type PrepareOptions, prepareData } from '../../src/data/prepare.ts'
import { BOS, byteEncoder, EOS } from './byte-encoder.ts'
import { temporaryFolder } from './fixtures.ts'

const TEXTS = Array.from({ length: 300 }, (_, i) => `Text ${i}: \u20ac ${'words '.repeat(i % 7)}`)

function options(change: Partial<PrepareOptions> = {}): PrepareOptions {
  const documents = TEXTS.map((text, index) => ({ text, source: `made/${index}`, index }))
  return {
    sources: [{ name: 'made', documents }],
    tokenizer: byteEncoder({ bos: true }),
    outDir: join(temporaryFolder(), 'out'),
    ...change,
  }
}

function textsOf(folder: string): string[] {
  const dataset = TokenDataset.open(folder)
  return Array.from({ length: dataset.documentCount }, (_, i) => {
    const ids = [...dataset.documentTokens(i)].filter((id) => id < 256)
    return Buffer.from(ids).toString()
  })
}

test('text goes in and comes out, with BOS, EOS, exact counts and progress', async () => {
  let calls = 0
  const prepared = await prepareData(
    options({ prependBos: true, maxTokensPerShard: 500, onProgress: () => void calls++ }),
  )
  assert.equal(calls, TEXTS.length)
  assert.deepEqual(textsOf(prepared.trainDir), TEXTS)
  const dataset = TokenDataset.open(prepared.trainDir)
  const first = dataset.documentTokens(0)
  assert.equal(first[0], BOS)
  assert.equal(first.at(-1), EOS)
  const textBytes = TEXTS.reduce((sum, text) => sum + Buffer.byteLength(text), 0)
  const { train } = prepared
  assert.equal(train.totalTextBytes, textBytes)
  assert.equal(train.totalTokens, textBytes + 2 * TEXTS.length)
  assert.equal(train.bosTokenId, BOS)
  assert.equal(train.eosTokenId, EOS)
  assert.deepEqual(train.sources, [
    { name: 'made', documents: TEXTS.length, textBytes, tokens: textBytes + 2 * TEXTS.length },
  ])
  assert.ok(train.shards.length > 5)
  assert.equal(dataset.documentTextBytes(17), Buffer.byteLength(TEXTS[17]!))
  await dataset.verify()
})

test('a validation fraction divides by text, the same way every time', async () => {
  const first = await prepareData(options({ validation: { fraction: 0.2 } }))
  const held = textsOf(first.validationDir!)
  assert.deepEqual([...textsOf(first.trainDir), ...held].sort(), [...TEXTS].sort())
  assert.ok(held.length > 30 && held.length < 90, `${held.length} of 300`)
  // Adding documents moves none, and equal texts stay together.
  const documents = [...TEXTS, 'new one', ...TEXTS].map((text, index) => ({
    text,
    source: 'x',
    line: index + 1,
    index,
  }))
  const more = await prepareData(options({ validation: { fraction: 0.2 }, sources: [{ name: 'more', documents }] }))
  const heldNow = textsOf(more.validationDir!).filter((text) => text !== 'new one')
  assert.deepEqual(heldNow, [...held, ...held])
  const seeded = await prepareData(options({ validation: { fraction: 0.2, seed: 1 } }))
  assert.notDeepEqual(textsOf(seeded.validationDir!), held)
})

test('listed validation documents: by source and by line; one that is not there is an error', async () => {
  const path = join(temporaryFolder(), 'a.jsonl')
  writeFileSync(path, '{"text":"one"}\nbroken\n{"text":"two"}\n{"text":"three"}\n')
  const sources = [{ path }]
  const prepared = await prepareData(options({ sources, validation: { documents: [`${path}:3`] } }))
  assert.deepEqual(textsOf(prepared.validationDir!), ['two'])
  assert.deepEqual(textsOf(prepared.trainDir), ['one', 'three'])
  const manifest: Manifest = JSON.parse(readFileSync(join(prepared.trainDir, 'manifest.json'), 'utf8'))
  assert.deepEqual(manifest.dropped, { 'broken-json': 1 })
  assert.equal(manifest.dropExamples[0]!.line, 2)
  const missing = options({ sources, validation: { documents: [`${path}:2`] } })
  await assert.rejects(prepareData(missing), /1 of 1 validation documents are not among the sources/)
  assert.equal(existsSync(join(missing.outDir, 'train', 'manifest.json')), false)
})

test('nothing left, one-sided splits and ids that do not exist are explained', async () => {
  const path = join(temporaryFolder(), 'a.jsonl')
  writeFileSync(path, '{"body":"one"}\n{"text":""}\n')
  await assert.rejects(
    prepareData(options({ sources: [{ path }] })),
    /no document of .*a\.jsonl can be used; dropped: 1 missing-field \(first: .*a\.jsonl:1 no field 'text'\), 1 empty/,
  )
  const one = [{ name: 'one', documents: [{ text: 'x', source: 'one', index: 0 }] }]
  await assert.rejects(
    prepareData(options({ sources: one, validation: { fraction: 0.5 } })),
    /all 1 documents fell to one side/,
  )
  await assert.rejects(prepareData(options({ validation: { fraction: 1 } })), /validation fraction expected/)
  const bare = byteEncoder({ eos: false })
  await assert.rejects(prepareData(options({ tokenizer: bare, prependBos: true })), /BOS token, but it has none/)
  await assert.rejects(prepareData(options({ tokenizer: bare, appendEos: true })), /EOS token, but it has none/)
  const doubled = { ...byteEncoder({ bos: true }), encode: () => [BOS, 1] }
  await assert.rejects(prepareData(options({ tokenizer: doubled, prependBos: true })), /BOS twice/)
})

test('an old dataset is not overwritten unasked, and no stale validation split stays', async () => {
  const first = options({ validation: { fraction: 0.3 } })
  await prepareData(first)
  const again = { ...first, validation: undefined }
  await assert.rejects(prepareData(again), /already holds a token dataset/)
  await prepareData({ ...again, overwrite: true })
  assert.equal(existsSync(join(first.outDir, 'validation', 'manifest.json')), false)
  assert.deepEqual(textsOf(join(first.outDir, 'train')), TEXTS)
})
