// Conversions between files: Hugging Face folders to clean folders, llama2.c there and back, and the parity reports.
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { convertHfFolder, exportLlama2c, importLlama2c } from '../../src/checkpoint/convert.ts'
import { equalTensors, hfTensors } from '../../src/checkpoint/hf.ts'
import { createModel, type HfConfig, hfConfigText, readHfConfig } from '../../src/checkpoint/hf-config.ts'
import { readLlama2cTokenizer } from '../../src/checkpoint/llama2c-tokenizer.ts'
import { type TensorSource, tensorSource } from '../../src/checkpoint/safetensors-writer.ts'
import { WeightsFolder, writeWeightsFolder } from '../../src/checkpoint/weights-folder.ts'
import { randomKey, randomNormalAt } from '../../src/core/random.ts'

const models = fileURLToPath(new URL('../../../shared/data/models/', import.meta.url))
const stories = join(models, 'stories260K.bin')
const tokenizer = join(models, 'tok512.bin')
const skip = existsSync(stories) ? false : 'needs ../shared/data/models/stories260K.bin'
const root = mkdtempSync(join(tmpdir(), 'trainyard-convert-'))
const fresh = (): string => join(mkdtempSync(join(root, 'case-')), 'out')
const readJson = (...path: string[]) => JSON.parse(readFileSync(join(...path), 'utf8'))

const gpt2: HfConfig = {
  modelType: 'gpt2',
  vocabSize: 11,
  hiddenSize: 8,
  intermediateSize: 12,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  maxPositionEmbeddings: 6,
  layerNormEps: 1e-5,
  activationFunction: 'gelu_new',
  initializerRange: 0.02,
}

/** Random weights of a configuration as files of the base model: no prefix, with the tables of old checkpoints. */
function randomSources(config: HfConfig, rename: (name: string) => string): TensorSource[] {
  return hfTensors(createModel(config)).map(({ name, view }) => {
    const key = randomKey(1, name)
    const values = Float32Array.from({ length: view.size }, (_, i) => randomNormalAt(key, i))
    return tensorSource(rename(name), 'f32', view.shape, values)
  })
}

async function writeModel(config: HfConfig, sources: TensorSource[]): Promise<string> {
  const folder = fresh()
  await writeWeightsFolder(folder, sources)
  writeFileSync(join(folder, 'config.json'), hfConfigText(config, 'f32'))
  return folder
}

test('a base-model folder becomes a clean one: full names, no tables, tokenizer kept, parity written', async () => {
  const sources = randomSources(gpt2, (name) => name.replace('transformer.', ''))
  const table = tensorSource('h.0.attn.bias', 'f32', [1, 1, 6, 6], new Float32Array(36))
  const from = await writeModel(gpt2, [...sources, table])
  writeFileSync(join(from, 'tokenizer.json'), '{}')
  writeFileSync(join(from, 'README.md'), 'not part of the model')
  const out = fresh()
  const parity = await convertHfFolder(from, out)
  assert.deepEqual(readdirSync(out).sort(), [
    'config.json',
    'generation_config.json',
    'model.safetensors',
    'parity.json',
    'tokenizer.json',
  ])
  assert.deepEqual(readJson(out, 'parity.json'), parity)
  assert.equal(parity.tensors, 28)
  assert.equal(parity.maxRounding, 0)
  using before = new WeightsFolder(from)
  using after = new WeightsFolder(out)
  assert.equal(after.names.length, 28)
  for (const name of after.names) assert.ok(equalTensors(after, name, before, name.replace('transformer.', '')), name)
  assert.deepEqual(readHfConfig(out), gpt2)
  await assert.rejects(convertHfFolder(from, out), /it exists already; choose another folder/)
})

test('conversion to bf16 says how much it rounded, and config.json says the type', async () => {
  const from = await writeModel(gpt2, randomSources(gpt2, String))
  const out = fresh()
  const parity = await convertHfFolder(from, out, { dtype: 'bf16', maxShardBytes: 500 })
  assert.deepEqual(parity.dtypes, ['bf16'])
  assert.ok(parity.maxRounding > 1e-4 && parity.maxRounding < 2 ** -7, String(parity.maxRounding))
  assert.equal(readJson(out, 'config.json').torch_dtype, 'bfloat16')
  assert.ok(existsSync(join(out, 'model.safetensors.index.json')))
  const again = fresh()
  assert.equal((await convertHfFolder(out, again, { dtype: 'f32' })).maxRounding, 0)
})

test('weights that do not fit are one sentence with names, and nothing is left behind', async () => {
  const sources = randomSources(gpt2, String)
  const without = await writeModel(gpt2, sources.slice(3))
  const out = fresh()
  await assert.rejects(
    convertHfFolder(without, out),
    /missing: transformer.wte.weight, transformer.wpe.weight, transformer.h.0.ln_1.weight$/,
  )
  const extra = tensorSource('transformer.h.7.ln_1.weight', 'f32', [8], new Float32Array(8))
  await assert.rejects(
    convertHfFolder(await writeModel(gpt2, [...sources, extra]), out),
    /unexpected: transformer.h.7.ln_1.weight$/,
  )
  const wide = { ...gpt2, vocabSize: 12 }
  await assert.rejects(
    convertHfFolder(await writeModel(wide, sources), out),
    /unfit: transformer.wte.weight must be \[12, 8\] but is \[11, 8\]/,
  )
  const head = tensorSource('lm_head.weight', 'f32', [11, 8], new Float32Array(88))
  await assert.rejects(
    convertHfFolder(await writeModel(gpt2, [...sources, head]), out),
    /lm_head.weight differs from transformer.wte.weight/,
  )
  const tied = { ...sources[0]!, name: 'lm_head.weight' }
  assert.equal((await convertHfFolder(await writeModel(gpt2, [...sources, tied]), out)).tensors, 28)
  assert.equal(readdirSync(join(out, '..')).length, 1)
})

test('stories260K: imported with its tokenizer and exported again, the same bytes', { skip }, async () => {
  const folder = fresh()
  const parity = await importLlama2c(stories, folder, { tokenizer })
  assert.equal(parity.tensors, 47)
  assert.equal(parity.elements, 264128 - 2 * 512 * 4)
  assert.equal(readJson(folder, 'tokenizer.json').model.merges.length, 165)
  const out = join(root, 'again.bin')
  await exportLlama2c(folder, out)
  const weightBytes = 28 + 4 * (264128 - 2 * 512 * 4)
  assert.deepEqual(readFileSync(out).subarray(0, weightBytes), readFileSync(stories).subarray(0, weightBytes))
  assert.equal(readJson(`${out}.parity.json`).isBitwiseEqual, true)
  await assert.rejects(exportLlama2c(folder, out), /exists already/)
})

test('a tokenizer of another model is refused', { skip }, () => {
  assert.equal(readLlama2cTokenizer(tokenizer, 512).length, 512)
  assert.throws(() => readLlama2cTokenizer(tokenizer, 511), /bytes follow the 511 pieces/)
  assert.throws(() => readLlama2cTokenizer(tokenizer, 513), /the file ends in piece 512/)
  assert.throws(() => readLlama2cTokenizer(stories, 512), /llama2.c tokenizer/)
})
