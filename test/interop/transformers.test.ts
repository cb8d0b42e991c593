// tools/check-transformers.py as a test, with the Python that TRAINYARD_PYTHON names (python3 if nothing does): skipped
// where that has no torch and transformers. recorded.test.ts checks one direction without Python.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

const ROOT = join(import.meta.dirname, '../..')
const MODELS = join(ROOT, '../shared/data/models')
const PYTHON = process.env.TRAINYARD_PYTHON || 'python3'

function python(...words: string[]) {
  const env: NodeJS.ProcessEnv = { ...process.env, NODE_OPTIONS: '' }
  // Node tells the processes that it starts from a test to report in its own protocol.
  delete env.NODE_TEST_CONTEXT
  return spawnSync(PYTHON, words, { cwd: ROOT, encoding: 'utf8', env })
}

const isThere = python('-c', 'import torch, transformers').status === 0
const skip = isThere ? false : `${PYTHON} has no torch and transformers; TRAINYARD_PYTHON can name one that does`
const script = join(ROOT, 'tools/check-transformers.py')

test('models are the same in transformers, both ways', { skip }, (context) => {
  const stories = existsSync(MODELS) ? ['--stories', MODELS] : []
  const { status, stdout, stderr } = python(script, ...stories)
  assert.equal(status, 0, stdout + stderr)
  assert.match(stdout, /^\d{2} passed, 0 failed$/m)
  context.diagnostic(stdout.split('\n')[0]!)
})

for (const fault of ['transposed-weight', 'rotary-order']) {
  test(`a planted fault fails the check: ${fault}`, { skip }, () => {
    const { status, stdout, stderr } = python(script, '--plant-fault', fault)
    assert.equal(status, 1, stdout + stderr)
    assert.match(stdout, /^FAILED +llama: before and after the import +logits differ by [\d.]+e[+-]\d+ of/m)
  })
}
