// llama2.c files: a real one to Hugging Face names and back byte for byte, what the rotation means, and damaged files.
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Llama2cFile, writeLlama2c } from '../../src/checkpoint/llama2c.ts'
import { WeightsFolder, writeWeightsFolder } from '../../src/checkpoint/weights-folder.ts'
import { CheckpointError } from '../../src/core/errors.ts'

const stories = fileURLToPath(new URL('../../../shared/data/models/stories260K.bin', import.meta.url))
const skip = existsSync(stories) ? false : 'needs ../shared/data/models/stories260K.bin'
const root = mkdtempSync(join(tmpdir(), 'trainyard-llama2c-'))

/** A file of 1 layer, 2 heads (1 key head) of width 4: every weight is its index; two rotary tables of 3 positions. */
function smallFile(vocab = 5): Buffer {
  const tied = vocab > 0
  const count = 5 * 8 + 8 + 64 + 32 + 32 + 64 + 8 + 3 * 48 + 8 + 2 * 6 + (tied ? 0 : 40)
  const bytes = Buffer.alloc(28 + 4 * count)
  for (const [i, n] of [8, 6, 1, 2, 1, vocab, 3].entries()) bytes.writeInt32LE(n, 4 * i)
  for (let i = 0; i < count; i++) bytes.writeFloatLE(i, 28 + 4 * i)
  return bytes
}

test('rows of q and k go from neighbouring pairs to halves, all others stay', async () => {
  const path = join(root, 'small.bin')
  writeFileSync(path, smallFile())
  using file = new Llama2cFile(path)
  const folder = mkdtempSync(join(root, 'small-'))
  await writeWeightsFolder(folder, file.tensors())
  using weights = new WeightsFolder(folder)
  const rowStarts = (name: string): number[] => {
    const values = weights.readNumbers(name)
    return Array.from({ length: values.length / 8 }, (_, row) => values[8 * row]!)
  }
  const q = 48
  // Head rows 0 1 2 3 hold the pairs (0 1) (2 3); halves are (0 2) and (1 3).
  assert.deepEqual(
    rowStarts('model.layers.0.self_attn.q_proj.weight'),
    [0, 2, 1, 3, 4, 6, 5, 7].map((row) => q + 8 * row),
  )
  assert.deepEqual(
    rowStarts('model.layers.0.self_attn.k_proj.weight'),
    [0, 2, 1, 3].map((row) => q + 64 + 8 * row),
  )
  assert.deepEqual(
    rowStarts('model.layers.0.self_attn.v_proj.weight'),
    [0, 1, 2, 3].map((row) => q + 96 + 8 * row),
  )
  // w1, w2, w3 are gate, down and up.
  const [gate, down, up] = ['gate', 'down', 'up'].map(
    (name) => weights.readNumbers(`model.layers.0.mlp.${name}_proj.weight`)[0],
  )
  assert.deepEqual([gate, down, up], [q + 200, q + 248, q + 296])
  assert.equal(weights.readNumbers('model.norm.weight')[0], q + 344)
  assert.equal(weights.has('lm_head.weight'), false)
})

test('a classifier of its own is read and written', async () => {
  const path = join(root, 'untied.bin')
  writeFileSync(path, smallFile(-5))
  using file = new Llama2cFile(path)
  assert.equal(file.config.tieWordEmbeddings, false)
  assert.equal(file.config.vocabSize, 5)
  const folder = mkdtempSync(join(root, 'untied-'))
  await writeWeightsFolder(folder, file.tensors())
  using weights = new WeightsFolder(folder)
  assert.equal(weights.readNumbers('lm_head.weight')[0], 48 + 352 + 12)
  const again = join(root, 'untied-again.bin')
  await writeLlama2c(again, file.config, weights)
  const [before, after] = [readFileSync(path), readFileSync(again)]
  const table = 28 + 4 * (48 + 352)
  assert.deepEqual(after.subarray(0, table), before.subarray(0, table))
  assert.deepEqual(after.subarray(table + 48), before.subarray(table + 48))
})

test('stories260K goes to Hugging Face names and back byte for byte', { skip }, async () => {
  using file = new Llama2cFile(stories)
  assert.deepEqual(file.config, {
    modelType: 'llama',
    vocabSize: 512,
    hiddenSize: 64,
    intermediateSize: 172,
    numHiddenLayers: 5,
    numAttentionHeads: 8,
    numKeyValueHeads: 4,
    headDim: 8,
    maxPositionEmbeddings: 512,
    rmsNormEps: 1e-5,
    ropeTheta: 10000,
    tieWordEmbeddings: true,
    initializerRange: 0.02,
    bosTokenId: 1,
    eosTokenId: 2,
  })
  const folder = mkdtempSync(join(root, 'stories-'))
  await writeWeightsFolder(folder, file.tensors())
  using weights = new WeightsFolder(folder)
  assert.equal(weights.names.length, 2 + 5 * 9)
  const again = join(root, 'stories-again.bin')
  await writeLlama2c(again, file.config, weights)
  const [before, after] = [readFileSync(stories), readFileSync(again)]
  const table = before.length - 4 * 2 * 512 * 4
  assert.deepEqual(after.subarray(0, table), before.subarray(0, table))
  const left = new Float32Array(Uint8Array.from(before.subarray(table)).buffer)
  const right = new Float32Array(Uint8Array.from(after.subarray(table)).buffer)
  // run.c skips the tables; they were computed by another library and may differ in the last bits.
  const differences = left.map((value, i) => Math.abs(value - right[i]!))
  assert.ok(Math.max(...differences) < 1e-4)
})

test('a file that is cut off, too long or something else is one sentence', () => {
  const path = join(root, 'damaged.bin')
  const refused = (bytes: Uint8Array, message: RegExp): void => {
    writeFileSync(path, bytes)
    assert.throws(
      () => new Llama2cFile(path),
      (error: Error) => error instanceof CheckpointError && message.test(error.message) && error.message.includes(path),
    )
  }
  const good = smallFile()
  for (const size of [0, 27]) refused(good.subarray(0, size), /too short for a llama2.c model/)
  refused(good.subarray(0, good.length - 1), /describes a llama2.c model of \d+ bytes, the file has \d+; it is cut off/)
  refused(Buffer.concat([good, Buffer.alloc(4)]), /it is cut off or of another version/)
  refused(Buffer.from('ak42'.repeat(64)), /are not a llama2.c header/)
  for (const [field, value] of [
    [0, -8],
    [2, 0],
    [3, 3],
    [4, 3],
    [5, -(2 ** 31)],
    [6, 2 ** 30],
  ] as const) {
    const bytes = Buffer.from(good)
    bytes.writeInt32LE(value, 4 * field)
    refused(bytes, /are not a llama2.c header/)
  }
  assert.throws(() => new Llama2cFile(join(root, 'nowhere')), /cannot be opened \(ENOENT\)/)
})

test('a model that run.c would compute differently is not written', async () => {
  const path = join(root, 'source.bin')
  writeFileSync(path, smallFile())
  using file = new Llama2cFile(path)
  const folder = mkdtempSync(join(root, 'refuse-'))
  await writeWeightsFolder(folder, file.tensors())
  using weights = new WeightsFolder(folder)
  const target = join(root, 'refused.bin')
  const config = file.config
  await assert.rejects(
    writeLlama2c(target, { ...config, ropeTheta: 500000 }, weights),
    /ropeTheta 500000, where run.c has 10000/,
  )
  await assert.rejects(writeLlama2c(target, { ...config, rmsNormEps: 1e-6 }, weights), /rmsNormEps/)
  await assert.rejects(
    writeLlama2c(target, { ...config, ropeScaling: { ropeType: 'linear', factor: 2 } }, weights),
    /ropeScaling of type linear/,
  )
  await assert.rejects(
    writeLlama2c(target, { ...config, intermediateSize: 7 }, weights),
    /must be \[7, 8\], but is \[6, 8\]/,
  )
  assert.equal(existsSync(target), false)
})
