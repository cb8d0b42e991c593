// keep-best through the real program: a model that learns little text by heart gets worse on held-out text; its best
// checkpoint is written when it is the best, stays, survives a stop and a resume, and can be exported by name.
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { before, test } from 'node:test'
import { listCheckpoints } from '../../src/checkpoint/store.ts'
import { writeRandomData } from '../data/fixtures.ts'
import { emptyFolder, trainyard } from './program.ts'

const folder = emptyFolder()
const run = (...words: string[]) => trainyard(words, {}, folder)
const pretrain = (out: string, ...more: string[]) => {
  const words = ['--depth', '1', '--seq-len', '32', '--batch-tokens', '256', '--micro-batch-size', '8', '--lr', '0.01']
  const days = ['--max-steps', '45', '--eval-every-steps', '5', '--save-every-steps', '20', '--keep-last', '1']
  return run('pretrain', '--data', 'data', '--out', out, '--threads', '1', ...words, ...days, ...more)
}

/** Losses of evaluations by step; of two of one step the first, which is over what the others are over. */
function losses(out: string): Map<number, number> {
  const found = new Map<number, number>()
  for (const line of readFileSync(join(folder, out, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')) {
    const { step, 'val/loss': loss } = JSON.parse(line) as { step: number; 'val/loss'?: number }
    if (loss !== undefined && !found.has(step)) found.set(step, loss)
  }
  return found
}

const stepsOf = (out: string): number[] => listCheckpoints(join(folder, out)).map(({ step }) => step)

before(() => {
  writeRandomData(join(folder, 'data'), { vocabSize: 61, trainTokens: 1000, validationTokens: 6000 })
  const { status, stderr } = pretrain('whole', '--keep-best', '1', '--eval-documents', '4')
  assert.equal(status, 0, stderr)
})

test('the best stays beside the newest, with the loss it was evaluated at', () => {
  const evaluations = losses('whole')
  assert.deepEqual([...evaluations.keys()], [5, 10, 15, 20, 25, 30, 35, 40, 45])
  const best = [...evaluations].sort((a, b) => a[1] - b[1])[0]!
  assert.ok(best[0] < 45, `the model was to get worse: best at step ${best[0]}`)
  assert.deepEqual(stepsOf('whole'), [best[0], 45])
  const [kept, newest] = listCheckpoints(join(folder, 'whole'))
  assert.deepEqual(kept!.heldOut?.loss, best[1])
  assert.deepEqual(newest!.heldOut?.loss, evaluations.get(45))
})

test('<run>/best is what export takes', () => {
  const { status, stderr } = run('export', 'hf', 'whole/best', '--out', 'exported')
  assert.equal(status, 0, stderr)
  const weights = (path: string): Buffer => readFileSync(join(folder, path, 'model.safetensors'))
  const [best] = stepsOf('whole')
  assert.ok(weights('exported').equals(weights(`whole/checkpoints/step-${best}`)))
})

test('going on with a run that is done changes no checkpoint', () => {
  const before = listCheckpoints(join(folder, 'whole'))
  const { status, stderr } = pretrain('whole', '--keep-best', '1', '--eval-documents', '4', '--resume')
  assert.equal(status, 0, stderr)
  assert.deepEqual(listCheckpoints(join(folder, 'whole')), before)
})

test('stopped and resumed, with and without a thread for checkpoints, the same best and the same bits', () => {
  for (const mode of ['--async-save', '--no-async-save']) {
    const out = `resumed${mode}`
    const words = ['--keep-best', '1', '--eval-documents', '4', mode]
    const first = pretrain(out, ...words, '--stop-after-step', '23')
    assert.match(first.stdout, /stopped after step 23/, first.stderr)
    assert.ok(existsSync(join(folder, out, 'checkpoints', 'step-23')))
    const second = pretrain(out, ...words, '--resume')
    assert.equal(second.status, 0, second.stderr)
    assert.match(second.stdout, /going on from step 23/)
    assert.deepEqual(losses(out), losses('whole'))
    assert.deepEqual(
      listCheckpoints(join(folder, out)).map(withoutPath),
      listCheckpoints(join(folder, 'whole')).map(withoutPath),
    )
    for (const step of stepsOf('whole')) {
      for (const name of ['model.safetensors', 'state/model.safetensors', 'config.json']) {
        const bytes = (run: string): Buffer => readFileSync(join(folder, run, 'checkpoints', `step-${step}`, name))
        assert.ok(bytes(out).equals(bytes('whole')), `${mode} step ${step} ${name}`)
      }
    }
    assert.deepEqual(
      readdirSync(join(folder, out, 'checkpoints')).filter((name) => name.startsWith('.')),
      [],
    )
  }
})

function withoutPath({ path: _, ...info }: { path: string }): object {
  return info
}

test('keepBest asks for held-out text', () => {
  writeRandomData(join(folder, 'no-validation'), { vocabSize: 61, trainTokens: 1000, validationTokens: 0 })
  const { status, stderr } = run('pretrain', '--data', 'no-validation', '--out', 'x', '--keep-best', '1')
  assert.equal(status, 2)
  assert.match(stderr, /keepBest goes by the loss on held-out text, but there is no .*validation/)
  assert.ok(!existsSync(join(folder, 'x')))
})

test('patience ends a run whose validation loss no longer falls', () => {
  const { status, stdout, stderr } = pretrain('patient', '--keep-best', '1', '--eval-documents', '4', '--patience', '2')
  assert.equal(status, 0, stderr)
  const evaluations = [...losses('patient')]
  const last = evaluations.at(-1)![0]
  const best = [...evaluations].sort((a, b) => a[1] - b[1])[0]![0]
  assert.ok(last < 45, `it should have ended before its last step, not after ${last}`)
  // Two validations of five steps each after the best one.
  assert.equal(last, best + 10)
  assert.match(stdout, new RegExp(`ended after step ${last}: the validation loss has not fallen in 2 validations`))
  const days = ['--patience', '2', '--eval-every-steps', '0']
  const impossible = run('pretrain', '--data', 'data', '--out', 'hasty', ...days)
  assert.equal(impossible.status, 2)
  assert.match(impossible.stderr, /patience counts validations/)
})
