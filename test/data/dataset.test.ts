import assert from 'node:assert/strict'
import { readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { TokenDataset } from '../../src/data/dataset.ts'
import { contentHashOf, type Manifest } from '../../src/data/manifest.ts'
import { ShardWriter } from '../../src/data/shards.ts'
import { numberedDocuments, temporaryFolder, unevenLengths, writeDataset } from './fixtures.ts'

const NOTES = { sources: [], dropped: {}, replacedBytes: 0, dropExamples: [] }

test('documents come back from any number of shards, mapped or read, in u16 and u32', () => {
  const documents = numberedDocuments(unevenLengths(200))
  for (const vocabSize of [65_536, 65_537]) {
    for (const maxTokensPerShard of [1, 100, 1e9]) {
      const mapped = writeDataset(documents, { maxTokensPerShard, vocabSize })
      const read = TokenDataset.open(mapped.folder, { useMmap: false })
      assert.equal(mapped.manifest.dtype, vocabSize === 65_536 ? 'u16' : 'u32')
      assert.equal(read.isMapped, false)
      assert.equal(mapped.documentCount, documents.length)
      assert.equal(mapped.totalTokens, documents.flat().length)
      assert.equal(mapped.totalTextBytes, documents.flat().length * 2)
      documents.forEach((document, i) => {
        assert.deepEqual([...mapped.documentTokens(i)], document)
        assert.deepEqual([...read.documentTokens(i)], document)
        assert.equal(mapped.documentLength(i), document.length)
        assert.equal(mapped.documentTextBytes(i), document.length * 2)
      })
      if (maxTokensPerShard === 1) assert.equal(mapped.manifest.shards.length, documents.length)
    }
  }
})

test('the mapped view is the file, byte for byte', (t) => {
  const dataset = writeDataset(numberedDocuments(unevenLengths(500)))
  if (!dataset.isMapped) return t.skip('this machine cannot map files')
  const view = dataset.documentTokens(0)
  const file = readFileSync(join(dataset.folder, dataset.manifest.shards[0]!.file))
  assert.equal(Buffer.compare(Buffer.from(view.buffer), file), 0)
  // Views stay good when the files are gone: nothing is ever unmapped.
  const before = [...dataset.documentTokens(499)]
  rmSync(dataset.folder, { recursive: true })
  assert.deepEqual([...dataset.documentTokens(499)], before)
})

test('any documents survive, with buffers that fill at any place', () => {
  fc.assert(
    fc.property(
      fc.array(fc.array(fc.integer({ min: 0, max: 300 }), { minLength: 1, maxLength: 40 }), {
        minLength: 1,
        maxLength: 30,
      }),
      fc.integer({ min: 1, max: 90 }),
      (documents, maxTokensPerShard) => {
        const dataset = writeDataset(documents, { maxTokensPerShard, vocabSize: 301 })
        documents.forEach((document, i) => {
          assert.deepEqual([...dataset.documentTokens(i)], document)
        })
        for (const shard of dataset.manifest.shards) {
          assert.ok(shard.tokens <= maxTokensPerShard || shard.documents === 1)
        }
      },
    ),
    { numRuns: 25 },
  )
})

test('the writer refuses bad ids, empty documents and a folder in use; overwriting leaves no old shard', () => {
  const folder = temporaryFolder()
  const options = { split: 'train', tokenizer: { hash: 'h', vocabSize: 10 }, maxTokensPerShard: 2 }
  const writer = new ShardWriter(folder, options)
  assert.throws(() => writer.add([], 0), /at least one token/)
  for (const id of [10, -1, Number.NaN]) {
    const bad = new ShardWriter(temporaryFolder(), options)
    assert.throws(() => bad.add([id], 1), /expected one in \[0, vocabSize=10\)/)
    bad.abort()
  }
  for (let i = 0; i < 4; i++) writer.add([1, 2], 2)
  assert.throws(() => TokenDataset.open(folder), /preparing was not finished/)
  writer.finish(NOTES)
  assert.throws(() => new ShardWriter(folder, options), /already holds a token dataset/)
  writeFileSync(join(folder, 'mine.txt'), 'kept')
  const again = new ShardWriter(folder, { ...options, overwrite: true })
  again.add([3], 1)
  again.finish(NOTES)
  assert.deepEqual(readdirSync(folder).sort(), ['documents-00000.bin', 'manifest.json', 'mine.txt', 'tokens-00000.bin'])
  assert.deepEqual([...TokenDataset.open(folder).documentTokens(0)], [3])
  const aborted = new ShardWriter(folder, { ...options, overwrite: true })
  aborted.add([4], 1)
  aborted.abort()
  assert.deepEqual(readdirSync(folder), ['mine.txt'])
})

test('damage is found and named: manifest, sizes, contents', async () => {
  const open = (change: (folder: string, manifest: Manifest) => void): (() => TokenDataset) => {
    const { folder, manifest } = writeDataset(numberedDocuments([5, 6, 7]), { maxTokensPerShard: 11 })
    change(folder, structuredClone(manifest))
    return () => TokenDataset.open(folder)
  }
  const write = (folder: string, value: unknown): void =>
    writeFileSync(join(folder, 'manifest.json'), typeof value === 'string' ? value : JSON.stringify(value))

  const cases: [RegExp, (folder: string, manifest: Manifest) => void][] = [
    [/but there is none/, (folder) => rmSync(join(folder, 'manifest.json'))],
    [/not valid JSON/, (folder) => write(folder, '{"format":')],
    [/expected format 'trainyard-tokens', got nothing/, (folder) => write(folder, {})],
    [/expected version 1, got 2/, (folder, manifest) => write(folder, { ...manifest, version: 2 })],
    [
      /damaged at shards\.0\.sha256/,
      (folder, manifest) => {
        manifest.shards[0]!.sha256 = 'x'
        write(folder, manifest)
      },
    ],
    [
      /damaged at shards\.0\.file/,
      (folder, manifest) => {
        manifest.shards[0]!.file = '../../etc/tokens.bin'
        write(folder, manifest)
      },
    ],
    [/expected totalTokens 18, got 19/, (folder, manifest) => write(folder, { ...manifest, totalTokens: 19 })],
    [
      /expected contentHash/,
      (folder, manifest) => {
        manifest.shards[0]!.sha256 = '0'.repeat(64)
        write(folder, manifest)
      },
    ],
    [
      /tokens-00001\.bin expected 28 bytes by its manifest, got 26/,
      (folder) => truncateSync(join(folder, 'tokens-00001.bin'), 26),
    ],
    [/documents-00000\.bin, but it cannot be opened/, (folder) => rmSync(join(folder, 'documents-00000.bin'))],
    [
      /expected offsets from 0 to 11, got 0 to 99/,
      (folder) => {
        const path = join(folder, 'documents-00000.bin')
        const bytes = readFileSync(path)
        bytes.writeBigUInt64LE(99n, bytes.length - 16)
        writeFileSync(path, bytes)
      },
    ],
  ]
  for (const [message, change] of cases) assert.throws(open(change), message)

  const damaged = open((folder) => {
    const path = join(folder, 'tokens-00001.bin')
    const bytes = readFileSync(path)
    bytes[3]! ^= 1
    writeFileSync(path, bytes)
  })()
  await assert.rejects(damaged.verify(), /tokens-00001\.bin expected SHA-256/)
  await open(() => {})().verify()
  assert.throws(() => damaged.documentTokens(3), /document 3 expected in \[0, 3\)/)
})

test('the content hash depends on tokens, borders, tokenizer and added ids only', () => {
  const { manifest } = writeDataset(numberedDocuments([5, 6]))
  const moved = writeDataset(numberedDocuments([6, 5])).manifest
  assert.equal(moved.shards[0]!.sha256, manifest.shards[0]!.sha256)
  assert.notEqual(moved.contentHash, manifest.contentHash)
  assert.equal(contentHashOf({ ...manifest }), manifest.contentHash)
  assert.notEqual(contentHashOf({ ...manifest, eosTokenId: 3 }), manifest.contentHash)
  assert.notEqual(contentHashOf({ ...manifest, tokenizer: { ...manifest.tokenizer, hash: 'x' } }), manifest.contentHash)
})
