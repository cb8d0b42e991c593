// Markers of checkpoints whose digest agrees and whose contents make no sense: each is refused by one sentence about the
// marker or the file, whoever reads it. What the campaign found by chance (seed 1) is here for good.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import {
  bestComplete,
  checkpointsFolder,
  listCheckpoints,
  MARKER,
  newestComplete,
  verifyCheckpoint,
  writeCheckpoint,
} from '../../src/checkpoint/store.ts'
import { CheckpointError } from '../../src/core/errors.ts'
import { faultOfSentence } from './judge.ts'
import { sealed } from './targets-models.ts'

const run = mkdtempSync(join(tmpdir(), 'trainyard-marker-'))
after(() => rmSync(run, { recursive: true }))
const folder = join(checkpointsFolder(run), 'step-1')
const sha256 = createHash('sha256').update('text').digest('hex')
const good = { version: 1, step: 1, files: { 'a.txt': { bytes: 4, sha256 } }, heldOut: { loss: 2.5, tokens: 10 } }

await writeCheckpoint(run, 1, async (path) => {
  writeFileSync(join(path, 'a.txt'), 'text')
  mkdirSync(join(path, 'folder'))
  writeFileSync(join(path, 'folder', 'b.txt'), 'text')
})

/** Puts a marker there and gives what each of its readers says. */
function problems(marker: Record<string, unknown>): (string | undefined)[] {
  writeFileSync(join(folder, MARKER), sealed(marker))
  let thrown: string | undefined
  try {
    verifyCheckpoint(folder)
  } catch (error) {
    assert.ok(error instanceof CheckpointError, String(error))
    thrown = error.message
  }
  const found = listCheckpoints(run)[0]!.problem ?? newestComplete(run).skipped[0]?.problem
  assert.deepEqual(newestComplete(run).checkpoint === undefined, thrown !== undefined)
  if (thrown !== undefined) assert.equal(bestComplete(run).checkpoint, undefined)
  return [thrown, found]
}

test('the good marker is read, with and without a held-out loss', () => {
  assert.deepEqual(problems(good), [undefined, undefined])
  assert.equal(listCheckpoints(run)[0]!.heldOut?.loss, 2.5)
  assert.deepEqual(problems({ ...good, heldOut: undefined }), [undefined, undefined])
  assert.deepEqual(problems({ ...good, files: {} }), [undefined, undefined])
})

const NO_FILE_ENTRY = /files\["a\.txt"\] must be \{"bytes": \.\.\., "sha256": 64 hex digits\}, got /
const NO_HELD_OUT = /heldOut must be /

for (const [what, marker, expected] of [
  ...[null, 5, 'text', [], {}, { bytes: 4 }, { sha256 }].map((entry) => [`the entry ${JSON.stringify(entry)}`, entry]),
  ...[null, -1, 1.5, '4', 2 ** 53, {}, [4], { toString: 5, valueOf: 5 }].map((bytes) => [
    `bytes ${JSON.stringify(bytes)}`,
    { bytes, sha256 },
  ]),
  ...[null, 5, '', 'x'.repeat(64), sha256.toUpperCase(), `${sha256}\n`, [sha256], { toString: 5 }].map((hash) => [
    `the hash ${JSON.stringify(hash)}`,
    { bytes: 4, sha256: hash },
  ]),
].map(([what, entry]) => [what, { ...good, files: { 'a.txt': entry } }, NO_FILE_ENTRY] as const)) {
  test(`refused: ${what}`, () => refuses(marker, expected))
}

for (const step of [null, '1', -1, 1.5, 2 ** 53, {}, { toString: 5, valueOf: 5 }]) {
  test(`refused: step ${JSON.stringify(step)}`, () => refuses({ ...good, step }, /step must be a whole number/))
}

for (const heldOut of [null, 2.5, [], {}, { loss: 2.5 }, { loss: null, tokens: 10 }, { loss: 2.5, tokens: -1 }]) {
  test(`refused: heldOut ${JSON.stringify(heldOut)}`, () => refuses({ ...good, heldOut }, NO_HELD_OUT))
}

for (const [name, expected] of [
  ['', /is no name of a file/],
  ['a\0b', /is no name of a file/],
  ['../a.txt', /lies outside the checkpoint/],
  ['/a.txt', /lies outside the checkpoint/],
  ['folder', /found something that is no file/],
  ['.', /found something that is no file/],
  ['a.txt/b', /found no file/],
  ['x'.repeat(300), /it cannot be read \(ENAMETOOLONG/],
] as const) {
  test(`refused: a file named ${JSON.stringify(name.slice(0, 20))}`, () =>
    refuses({ ...good, files: { [name]: { bytes: 4, sha256 } } }, expected))
}

function refuses(marker: Record<string, unknown>, expected: RegExp): void {
  for (const message of problems(marker)) {
    assert.match(message ?? 'nothing was said', expected)
    assert.ok(message!.includes(folder), message)
    assert.equal(faultOfSentence(message!), undefined)
  }
}
