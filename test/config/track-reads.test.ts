// Options that nothing reads are found.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { trackReads } from '../../src/config/track-reads.ts'

const CONFIG = { lr: 1, seed: 2, betas: [0.9, 0.95], model: { hiddenSize: 8, headDim: 4 }, empty: {} }

test('an option that nobody reads is named, also inside a group', () => {
  const { config, unread } = trackReads(CONFIG)
  assert.deepEqual(unread(), ['lr', 'seed', 'betas', 'model.hiddenSize', 'model.headDim', 'empty'])
  const { lr, model } = config
  assert.equal(lr, 1)
  assert.equal(model.headDim, 4)
  assert.equal(config.betas.at(-1), 0.95)
  assert.equal(Object.keys(config.empty).length, 0)
  assert.deepEqual(unread(), ['seed', 'model.hiddenSize'])
})

test('reading a group is not reading what is in it', () => {
  const { config, unread } = trackReads(CONFIG)
  assert.ok(config.model)
  assert.ok(unread().includes('model.hiddenSize'))
})

test('a spread reads everything; JSON reads nothing', () => {
  const { config, unread } = trackReads(CONFIG)
  assert.equal(JSON.stringify(config), JSON.stringify(CONFIG))
  assert.equal(unread().length, 6)
  assert.deepEqual({ ...config.model }, CONFIG.model)
  assert.deepEqual(unread(), ['lr', 'seed', 'betas', 'empty'])
})
