// The part of parity.json that is computed: source and artefact continue a prompt. Another configuration over equal
// weights must be noticed, and what is refused leaves nothing behind.
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { convertHfFolder, exportLlama2c, importLlama2c } from '../../src/checkpoint/convert.ts'
import { hfTensors } from '../../src/checkpoint/hf.ts'
import { createModel, hfConfigText } from '../../src/checkpoint/hf-config.ts'
import { type CompareModels, paritySentence } from '../../src/checkpoint/parity.ts'
import { tensorSource } from '../../src/checkpoint/safetensors-writer.ts'
import { writeWeightsFolder } from '../../src/checkpoint/weights-folder.ts'
import type { LlamaConfig } from '../../src/models/llama.ts'
import { compareGreedily } from '../../src/recipes/greedy-parity.ts'
import { fixedWeights } from './fixed-weights.ts'

const root = mkdtempSync(join(tmpdir(), 'trainyard-parity-'))
const warnings: string[] = []
const context = { env: process.env, warn: (line: string) => warnings.push(line) }

const config: LlamaConfig = {
  modelType: 'llama',
  vocabSize: 97,
  hiddenSize: 32,
  intermediateSize: 48,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 8,
  maxPositionEmbeddings: 50,
  rmsNormEps: 1e-5,
  ropeTheta: 10000,
  tieWordEmbeddings: true,
  initializerRange: 0.02,
}

const source = join(root, 'source')
await writeWeightsFolder(
  source,
  hfTensors(createModel(config)).map(({ name, view }) =>
    tensorSource(name, 'f32', view.shape, fixedWeights(name, view.size)),
  ),
)
writeFileSync(join(source, 'config.json'), hfConfigText(config, 'f32'))

test('both continue alike, up to the end of the context, and parity.json says so', async () => {
  const out = join(root, 'same')
  const parity = await convertHfFolder(source, out, { compareModels: compareGreedily(64, context) })
  assert.equal(parity.greedy?.prompt.length, 8)
  assert.deepEqual([parity.greedy?.tokens, parity.greedy?.equalTokens], [43, 43])
  assert.deepEqual(JSON.parse(readFileSync(join(out, 'parity.json'), 'utf8')), parity)
  assert.match(paritySentence('same', parity), /parameters in f32, read back bit for bit$/)

  const file = join(root, 'model.bin')
  const compareModels = compareGreedily(20, context)
  assert.equal((await exportLlama2c(out, file, { compareModels })).greedy?.equalTokens, 20)
  assert.equal((await importLlama2c(file, join(root, 'again'), { compareModels })).greedy?.equalTokens, 20)
  assert.deepEqual(warnings, [])
})

/** compareGreedily, told that one side has another configuration. */
const withOtherTheta: CompareModels = async (before, after) =>
  await compareGreedily(64, context)(before, { ...after, config: { ...config, ropeTheta: 500 } })

test('equal weights under another configuration are refused, and no folder is left', async () => {
  const out = join(root, 'other')
  await assert.rejects(
    convertHfFolder(source, out, { compareModels: withOtherTheta }),
    /other: the weights are those of source, but only \d+ of 43 greedy tokens are/,
  )
  assert.ok(!existsSync(out))
  assert.deepEqual(
    readdirSync(root).filter((name) => name.includes('other')),
    [],
  )
})

test('rounded weights may go on in another way, which is said', async () => {
  const out = join(root, 'rounded')
  const parity = await convertHfFolder(source, out, { dtype: 'bf16', compareModels: withOtherTheta })
  assert.ok(parity.maxRounding > 0 && parity.greedy!.equalTokens < 43)
  assert.match(paritySentence('rounded', parity), /; \d+ of 43 greedy tokens as before$/)
})

test('without a device, or with 0 tokens, nothing is compared', async () => {
  const none = await convertHfFolder(source, join(root, 'none'), { compareModels: compareGreedily(0, context) })
  assert.equal(none.greedy, undefined)
  assert.deepEqual(warnings, [])
  const env = { CXX: join(root, 'no-compiler'), XDG_CACHE_HOME: join(root, 'cache') }
  const compareModels = compareGreedily(64, { ...context, env })
  const parity = await convertHfFolder(source, join(root, 'no-device'), { compareModels })
  assert.equal(parity.greedy, undefined)
  assert.equal(warnings.length, 1)
  assert.match(warnings[0]!, /^greedy tokens are not compared: cpu: a C\+\+17 compiler is needed/)
})
