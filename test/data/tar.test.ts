import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { gunzipSync, gzipSync } from 'node:zlib'
import { readTarball } from '../../src/data/tar.ts'
import { temporaryFolder } from './fixtures.ts'

const FILES: Record<string, string> = {
  'a.txt': 'short',
  'empty.txt': '',
  'block.txt': 'x'.repeat(512),
  [`${'deep/'.repeat(25)}long-name-${'n'.repeat(80)}.txt`]: 'found by its long name',
  'd\u00e9j\u00e0.txt': 'not ASCII',
}

function archive(format: string): Buffer | undefined {
  const folder = temporaryFolder()
  for (const [name, text] of Object.entries(FILES)) {
    mkdirSync(dirname(join(folder, 'package', name)), { recursive: true })
    writeFileSync(join(folder, 'package', name), text)
  }
  symlinkSync('a.txt', join(folder, 'package', 'link.txt'))
  const path = join(folder, 'archive.tgz')
  const made = spawnSync('tar', [`--format=${format}`, '-czf', path, '-C', folder, 'package'])
  return made.status === 0 ? readFileSync(path) : undefined
}

for (const format of ['ustar', 'pax', 'gnu']) {
  test(`files of a real ${format} archive, without links and folders`, (t) => {
    // ustar keeps names up to 255 bytes where they can be cut at a slash; this one can.
    const bytes = archive(format)
    if (bytes === undefined) return t.skip(`no tar command here that writes ${format}`)
    const found = Object.fromEntries(
      readTarball(bytes, 'test.tgz').map(({ name, bytes: contents }) => [name, contents.toString()]),
    )
    const expected = Object.fromEntries(Object.entries(FILES).map(([name, text]) => [`package/${name}`, text]))
    assert.deepEqual(found, expected)
  })
}

test('damage is found', (t) => {
  const bytes = archive('pax')
  if (bytes === undefined) return t.skip('no tar command here')
  const plain = gunzipSync(bytes)
  const changed = Buffer.from(plain)
  changed[3]! ^= 1
  assert.throws(() => readTarball(gzipSync(changed), 'a.tgz'), /a\.tgz has a damaged tar header at offset 0/)
  assert.throws(() => readTarball(Buffer.from('plain'), 'a.tgz'), /expected a gzip-compressed tar archive/)
  const block = readTarball(bytes, 'a.tgz').find(({ name }) => name.endsWith('block.txt'))!
  const cut = plain.indexOf(block.bytes) + 100
  assert.throws(() => readTarball(gzipSync(plain.subarray(0, cut)), 'a.tgz'), /expected 512 bytes .* it is cut off/)
})
