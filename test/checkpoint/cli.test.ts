// import and export through the real command line: llama2.c to a folder, to bfloat16, and back to llama2.c.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const program = fileURLToPath(new URL('../../tools/trainyard.mjs', import.meta.url))
const models = fileURLToPath(new URL('../../../shared/data/models/', import.meta.url))
const stories = join(models, 'stories260K.bin')
const skip = existsSync(stories) ? false : 'needs ../shared/data/models/stories260K.bin'
const cwd = mkdtempSync(join(tmpdir(), 'trainyard-cli-'))

/** Runs `trainyard ...words` in an empty folder. An option that a recipe never reads is an error there. */
function trainyard(...words: string[]) {
  const env = { ...process.env, TRAINYARD_TRACK_READS: '1' }
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...words], { cwd, encoding: 'utf8', env })
  return { status, stdout, stderr }
}

test('a llama2.c model in, to bfloat16, and out again', { skip }, () => {
  const tokenizer = join(models, 'tok512.bin')
  const imported = trainyard('import', 'llama2c', stories, '--tokenizer', tokenizer, '--out', 'models/stories')
  assert.equal(imported.stderr, '')
  assert.equal(imported.stdout, 'models/stories: 47 tensors, 260,032 parameters in f32, read back bit for bit\n')
  assert.ok(existsSync(join(cwd, 'models/stories/tokenizer.json')))
  const exported = trainyard('export', 'llama2c', 'models/stories', '--out', 'again.bin')
  assert.equal(exported.status, 0, exported.stderr)
  const weightBytes = 28 + 4 * 260_032
  assert.deepEqual(
    readFileSync(join(cwd, 'again.bin')).subarray(0, weightBytes),
    readFileSync(stories).subarray(0, weightBytes),
  )
  const narrow = trainyard(
    'export',
    'hf',
    'models/stories',
    '--out',
    'narrow',
    '--dtype',
    'bf16',
    '--maxShardBytes',
    '200000',
  )
  assert.match(
    narrow.stdout,
    /260,032 parameters in bf16, read back bit for bit; rounding changed no element by more than/,
  )
  assert.ok(existsSync(join(cwd, 'narrow/model.safetensors.index.json')))
  const wide = trainyard('import', 'hf', 'narrow', '--out', 'wide', '--dtype', 'f32')
  assert.equal(wide.stdout, 'wide: 47 tensors, 260,032 parameters in f32, read back bit for bit\n')
})

test('what cannot be done is one sentence', { skip }, () => {
  const failing = (words: string[], message: RegExp): void => {
    const { status, stdout, stderr } = trainyard(...words)
    assert.notEqual(status, 0)
    assert.equal(stdout, '')
    assert.match(stderr, message)
    assert.equal(stderr.trimEnd().split('\n').length, 1, stderr)
  }
  failing(
    ['import', 'hf', 'nowhere', '--out', 'x'],
    /nowhere: expected a run, a checkpoint or a Hugging Face folder, .* no such folder/,
  )
  failing(['import', 'llama2c', join(models, 'tok512.bin'), '--out', 'x'], /are not a llama2.c header/)
  failing(['export', 'hf', 'wide', '--out', 'narrow'], /narrow: it exists already/)
  failing(['export', 'llama2c', 'wide'], /needs --out/)
})
