// A published model through the real program: llama2.c's stories260K gives its published text, learns a new text in one
// epoch, and is the same model as a Hugging Face folder. (tools/check-transformers.py asks transformers the same.)
import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { before, describe, test } from 'node:test'
import { gunzipSync } from 'node:zlib'
import { emptyFolder, trainyard } from '../cli/program.ts'

const SHARED = join(import.meta.dirname, '../../../shared/data')
const skip = existsSync(join(SHARED, 'models')) ? false : '../shared/data is not here'

describe('stories260K', { skip }, () => {
  const folder = emptyFolder()
  const run = (...words: string[]): string => {
    const { status, stdout, stderr } = trainyard(words, {}, folder)
    assert.equal(status, 0, stderr)
    return stdout
  }
  const greedy = (model: string, tokens: number, prompt = ''): string =>
    run('generate', model, '--temperature', '0', '--max-new-tokens', String(tokens), '--prompt', prompt)

  before(() => {
    const [model, tokenizer] = ['stories260K.bin', 'tok512.bin'].map((name) => join(SHARED, 'models', name))
    const said = run('import', 'llama2c', model!, '--tokenizer', tokenizer!, '--out', 'stories')
    assert.match(said, /47 tensors, 260,032 parameters in f32, read back bit for bit/)
  })

  test('gives the published text of 200 greedy steps', () => {
    const published = readFileSync(join(SHARED, 'models/stories260K-greedy-200-steps.txt'), 'utf8')
    // 200 steps after the start token; generate ends its text with a line feed for the terminal.
    assert.equal(greedy('stories', 200), `${published}\n`)
  })

  test('learns a new text in one epoch, and exports what it learned', () => {
    const plays = gunzipSync(readFileSync(join(SHARED, 'text/tinyshakespeare.txt.gz')))
    writeFileSync(join(folder, 'plays.txt'), plays.subarray(0, 150_000))
    const heldOutTenth = ['--split', 'blank-lines', '--validation-fraction', '0.1']
    run('data', 'prepare', 'plays.txt', ...heldOutTenth, '--tokenizer', 'stories', '--out', 'plays')
    const shape = ['--seq-len', '128', '--batch-tokens', '2048', '--lr', '1e-3', '--warmup-steps', '5']
    const said = run('pretrain', '--data', 'plays', '--init-from', 'stories', '--out', 'run', '--epochs', '1', ...shape)
    const losses = /validation: loss ([\d.]+) .*before training ([\d.]+)/.exec(said)
    assert.ok(losses !== null, said)
    const [after, before] = [Number(losses[1]), Number(losses[2])]
    assert.ok(before > 4.5 && after < before - 1.5, `held-out loss ${before} -> ${after}`)
    run('export', 'hf', 'run', '--out', 'export')
    assert.equal(greedy('export', 40, 'First'), greedy('run', 40, 'First'))
    assert.notEqual(greedy('export', 40, 'First'), greedy('stories', 40, 'First'))
  })
})
