// Which name a mistyped one most likely means.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { didYouMean, editDistance, suggest } from '../../src/config/suggest.ts'

const KNOWN = ['lr', 'minLr', 'maxSteps', 'microBatchSize', 'seqLen', 'weightDecay', 'model.hiddenSize', 'depth', 'out']

const CASES: readonly [wrong: string, name: string | undefined][] = [
  ['learning_rate', 'lr'],
  ['leraning-rate', 'lr'],
  ['batch-size', 'microBatchSize'],
  ['per_device_train_batch_size', 'microBatchSize'],
  ['block_size', 'seqLen'],
  ['n_layer', 'depth'],
  ['wieghtDecay', 'weightDecay'],
  ['hiddensize', 'model.hiddenSize'],
  ['model.hidden_size', 'model.hiddenSize'],
  ['maxstep', 'maxSteps'],
  ['output-dir', 'out'],
  ['quux', undefined],
  ['x', undefined],
]

for (const [wrong, name] of CASES) {
  test(`${wrong} -> ${name ?? 'no suggestion'}`, () => assert.equal(suggest(wrong, KNOWN), name))
}

test('a suggestion is spelled as the user types it', () => {
  assert.equal(
    didYouMean('maxstep', KNOWN, (name) => `--${name}`),
    '; did you mean --maxSteps?',
  )
  assert.equal(didYouMean('quux', KNOWN), '')
})

test('edit distance: insertions, deletions, replacements, swaps; symmetric; 0 only for equal words', () => {
  assert.equal(editDistance('', 'abc'), 3)
  assert.equal(editDistance('abc', 'acb'), 1)
  assert.equal(editDistance('kitten', 'sitting'), 3)
  fc.assert(
    fc.property(fc.string({ maxLength: 8 }), fc.string({ maxLength: 8 }), (a, b) => {
      const distance = editDistance(a, b)
      assert.equal(distance, editDistance(b, a))
      assert.equal(distance === 0, a === b)
      assert.ok(distance <= Math.max(a.length, b.length))
      assert.ok(distance >= Math.abs(a.length - b.length))
    }),
  )
})
