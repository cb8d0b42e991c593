import assert from 'node:assert/strict'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { constants, gzipSync, zstdCompressSync } from 'node:zlib'
import fc from 'fast-check'
import { type Document, ReadReport } from '../../src/data/document.ts'
import { type ReadOptions, readDocuments } from '../../src/data/readers.ts'
import { splitBytes } from '../../src/data/split-bytes.ts'
import { countInvalidUtf8 } from '../../src/data/utf8.ts'
import { temporaryFolder } from './fixtures.ts'

async function read(
  paths: string | string[],
  options: ReadOptions = {},
): Promise<{ documents: Document[]; texts: string[]; report: ReadReport }> {
  const report = new ReadReport()
  const documents: Document[] = []
  for await (const document of readDocuments([paths].flat(), options, report)) documents.push(document)
  return { documents, texts: documents.map(({ text }) => text), report }
}

function file(name: string, contents: string | Uint8Array): string {
  const path = join(temporaryFolder(), name)
  writeFileSync(path, contents)
  return path
}

test('a folder is read recursively, in the same order always, each file a document', async () => {
  const folder = temporaryFolder()
  mkdirSync(join(folder, 'b'))
  mkdirSync(join(folder, '.hidden'))
  writeFileSync(join(folder, 'c.txt'), 'third')
  writeFileSync(join(folder, 'b', 'a.md'), 'second')
  writeFileSync(join(folder, 'a.txt.gz'), gzipSync('first'))
  writeFileSync(join(folder, 'notes.pdf'), 'no text')
  writeFileSync(join(folder, '.hidden', 'x.txt'), 'hidden')
  symlinkSync(folder, join(folder, 'b', 'loop'))
  const { documents, texts, report } = await read(folder)
  assert.deepEqual(texts, ['first', 'second', 'third'])
  assert.deepEqual(
    documents.map(({ source, index }) => [source, index]),
    [
      [join(folder, 'a.txt.gz'), 0],
      [join(folder, 'b', 'a.md'), 1],
      [join(folder, 'c.txt'), 2],
    ],
  )
  assert.equal(report.dropped['unknown-extension'], 1)
  assert.equal(report.files, 3)
})

test('splits of a text file: lines, blank lines, separator, none', async () => {
  const path = file('a.txt', '\ufeffone\r\ntwo\n\n \nthree\n')
  const lines = await read(path, { split: 'lines' })
  assert.deepEqual(lines.texts, ['one', 'two', 'three'])
  assert.deepEqual(
    lines.documents.map(({ line }) => line),
    [1, 2, 5],
  )
  assert.equal(lines.report.dropped.empty, 2)
  const paragraphs = await read(path, { split: 'blank-lines' })
  assert.deepEqual(paragraphs.texts, ['one\ntwo', 'three'])
  assert.deepEqual(
    paragraphs.documents.map(({ line }) => line),
    [1, 5],
  )
  assert.deepEqual((await read(path)).texts, ['one\r\ntwo\n\n \nthree\n'])
  const separated = await read(file('b.txt', 'a\nb<|end|>c\n<|end|><|end|>d'), {
    split: 'separator',
    separator: '<|end|>',
  })
  assert.deepEqual(separated.texts, ['a\nb', 'c\n', 'd'])
  assert.deepEqual(
    separated.documents.map(({ line }) => line),
    [1, 2, 3],
  )
  await assert.rejects(read(path, { split: 'separator' }), /expects a separator/)
  await assert.rejects(read(path, { separator: 'x' }), /has no effect/)
})

test('JSONL: what cannot be used is skipped, counted by reason and shown with file and line', async () => {
  const path = file(
    'a.jsonl',
    Buffer.concat([
      Buffer.from(
        '\ufeff{"text":"good"}\n{"text":"cut off\n\n[1]\n{"body":"x"}\n{"text":7}\n{"text":"  "}\n{"text":"bad ',
      ),
      Buffer.from([0xff, 0xc3, 0x28]),
      Buffer.from('"}\n{"text":"half \\ud83d pair"}\r\n{"text":"last"}'),
    ]),
  )
  const { texts, report } = await read(path)
  assert.deepEqual(texts, ['good', 'bad \ufffd\ufffd(', 'half \ufffd pair', 'last'])
  assert.deepEqual(report.dropped, {
    'broken-json': 1,
    'not-an-object': 1,
    'missing-field': 1,
    'wrong-type': 1,
    empty: 1,
  })
  assert.equal(report.replacedBytes, 3)
  assert.deepEqual(
    report.examples.map(({ reason, line, source }) => [reason, line, source === path]),
    [
      ['broken-json', 2, true],
      ['not-an-object', 4, true],
      ['missing-field', 5, true],
      ['wrong-type', 6, true],
      ['empty', 7, true],
      ['invalid-utf8', 8, true],
      ['invalid-utf8', 9, true],
    ],
  )
  assert.deepEqual((await read(path, { field: 'body' })).texts, ['x'])
})

test('gzip with several members, Zstandard with several frames, damaged and cut-off files', async () => {
  const lines = Array.from({ length: 20_000 }, (_, i) => JSON.stringify({ text: `document ${i} with some length` }))
  const half = lines.length / 2
  const parts = [lines.slice(0, half).join('\n').concat('\n'), lines.slice(half).join('\n')]
  const expected = lines.map((line) => (JSON.parse(line) as { text: string }).text)
  const gzipped = Buffer.concat(parts.map((part) => gzipSync(part)))
  // With frames of every kind: known and unknown size, checksum, empty, run of one byte, skippable.
  const skippable = Buffer.from([0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3])
  const zstd = Buffer.concat([
    zstdCompressSync(parts[0]!, { params: { [constants.ZSTD_c_checksumFlag]: 1 } }),
    zstdCompressSync(''),
    skippable,
    zstdCompressSync('\n'.repeat(50_000)),
    zstdCompressSync(parts[1]!, { params: { [constants.ZSTD_c_contentSizeFlag]: 0 } }),
  ])
  assert.deepEqual((await read(file('a.jsonl.gz', gzipped))).texts, expected)
  assert.deepEqual((await read(file('a.jsonl.zst', zstd))).texts, expected)
  await assert.rejects(read(file('a.jsonl.gz', gzipped.subarray(0, -9))), /cannot be read to its end/)
  await assert.rejects(read(file('b.txt.gz', 'not gzip')), /b\.txt\.gz cannot be read/)
  await assert.rejects(read(file('b.txt.zst', zstd.subarray(0, -5))), /b\.txt\.zst cannot be read/)
  await assert.rejects(read(file('c.txt.zst', Buffer.concat([zstd, Buffer.alloc(8)]))), /expected a Zstandard frame/)
})

test('too long documents are dropped without being held; missing paths and UTF-16 are refused', async () => {
  const path = file('a.txt', `short\n${'x'.repeat(300_000)}\nafter`)
  const { documents, texts, report } = await read(path, { split: 'lines', maxDocumentBytes: 1000 })
  assert.deepEqual(texts, ['short', 'after'])
  assert.equal(documents[1]!.line, 3)
  assert.equal(report.dropped['too-long'], 1)
  assert.equal((await read(path, { maxDocumentBytes: 1000 })).report.dropped['too-long'], 1)
  await assert.rejects(read(join(temporaryFolder(), 'none.txt')), /none\.txt, but it cannot be read/)
  await assert.rejects(read(file('u.txt', Buffer.from('\ufefftext', 'utf16le'))), /UTF-16/)
})

test('splitBytes equals a plain split whatever the chunks', async () => {
  const bytes = fc.array(fc.constantFrom(0x61, 0x0a, 0x3c, 0x3e), { maxLength: 60 })
  await fc.assert(
    fc.asyncProperty(
      bytes,
      fc.integer({ min: 1, max: 7 }),
      fc.constantFrom('\n', '<>', '<<>'),
      async (data, size, cut) => {
        const all = Buffer.from(data)
        async function* chunks(): AsyncGenerator<Buffer> {
          for (let at = 0; at < all.length; at += size) yield all.subarray(at, at + size)
        }
        const records: { text: string; line: number }[] = []
        for await (const record of splitBytes(chunks(), Buffer.from(cut), 1e6)) {
          records.push({ text: record.bytes.toString(), line: record.line })
        }
        const parts = all.toString().split(cut)
        let line = 1
        const expected = parts.map((text) => {
          const at = { text, line }
          line += (text + cut).split('\n').length - 1
          return at
        })
        if (parts.at(-1) === '') expected.pop()
        assert.deepEqual(records, expected)
      },
    ),
  )
})

test('countInvalidUtf8 counts what re-encoding the valid rest leaves out', () => {
  assert.equal(countInvalidUtf8(Buffer.from('abc \u00e9 \u20ac \u{1f600} \u{10ffff}')), 0)
  const cases: [number[], number][] = [
    [[0x80], 1],
    [[0xc0, 0x80], 2],
    [[0xe0, 0x80, 0x80], 3],
    [[0xed, 0xa0, 0x80], 3],
    [[0xf5, 0x80, 0x80, 0x80], 4],
    [[0xe2, 0x82], 2],
    [[0xe2, 0x82, 0x41], 2],
    [[0xf0, 0x9f, 0x98, 0x80, 0xff], 1],
  ]
  for (const [bytes, expected] of cases) assert.equal(countInvalidUtf8(Buffer.from(bytes)), expected, bytes.join(' '))
})
