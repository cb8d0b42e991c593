// Models of both families out of device memory into folders and back: every bit, fused parts, tied heads, base-model
// files, narrow types; and what a run's checkpoint holds besides.
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { hfTensors, loadHfWeights, saveHfFolder } from '../../src/checkpoint/hf.ts'
import { createModel, type HfConfig, readHfConfig } from '../../src/checkpoint/hf-config.ts'
import { findModelFolder } from '../../src/checkpoint/model-folder.ts'
import { loadRunCheckpoint, readTrainerState, saveRunCheckpoint } from '../../src/checkpoint/run-checkpoint.ts'
import { newestComplete } from '../../src/checkpoint/store.ts'
import { WeightsFolder } from '../../src/checkpoint/weights-folder.ts'
import type { ParameterArena } from '../../src/core/arena.ts'
import { CheckpointError } from '../../src/core/errors.ts'
import { randomKey, randomNormalAt } from '../../src/core/random.ts'
import { materialize } from '../../src/nn/module.ts'
import { adamw } from '../../src/optim/adam.ts'
import { muon } from '../../src/optim/muon.ts'
import { Optimizer } from '../../src/optim/optimizer.ts'
import { HostMemory } from './host-memory.ts'

const root = mkdtempSync(join(tmpdir(), 'trainyard-hf-'))
const fresh = (): string => join(mkdtempSync(join(root, 'case-')), 'model')

const gpt2: HfConfig = {
  modelType: 'gpt2',
  vocabSize: 13,
  hiddenSize: 6,
  intermediateSize: 10,
  numHiddenLayers: 2,
  numAttentionHeads: 3,
  maxPositionEmbeddings: 7,
  layerNormEps: 1e-5,
  activationFunction: 'gelu',
  initializerRange: 0.02,
}
const llama: HfConfig = {
  modelType: 'llama',
  vocabSize: 13,
  hiddenSize: 12,
  intermediateSize: 10,
  numHiddenLayers: 3,
  numAttentionHeads: 3,
  numKeyValueHeads: 1,
  headDim: 4,
  maxPositionEmbeddings: 8,
  rmsNormEps: 1e-6,
  ropeTheta: 10000,
  tieWordEmbeddings: false,
  initializerRange: 0.02,
  bosTokenId: 1,
}
const tied: HfConfig = { ...llama, tieWordEmbeddings: true }

/** A model in memory, its values random by Hugging Face name where a seed is given. */
function modelOf(config: HfConfig, device: HostMemory, seed?: number): { model: object; arenas: ParameterArena[] } {
  const model = createModel(config)
  const arenas = materialize(model, device)
  if (seed !== undefined) {
    for (const { name, view } of hfTensors(model)) {
      const key = randomKey(seed, name)
      device.view(view).set(Float64Array.from({ length: view.size }, (_, i) => randomNormalAt(key, i)))
    }
  }
  return { model, arenas }
}

function valuesOf(model: object, device: HostMemory): Record<string, number[]> {
  return Object.fromEntries(hfTensors(model).map(({ name, view }) => [name, [...device.view(view)]]))
}

test('models of both families come back bit for bit, on devices of both widths, whole and in shards', async () => {
  for (const config of [gpt2, llama, tied]) {
    for (const dtype of ['f32', 'f64'] as const) {
      const device = new HostMemory(dtype)
      const { model } = modelOf(config, device, 3)
      const folder = fresh()
      await saveHfFolder(model, config, {}, folder, { dtype, ...(dtype === 'f64' && { maxShardBytes: 2000 }) })
      assert.deepEqual(readHfConfig(folder), config)
      const again = modelOf(readHfConfig(folder), device).model
      loadHfWeights(again, folder)
      assert.deepEqual(valuesOf(again, device), valuesOf(model, device))
    }
  }
})

test('the folder holds Hugging Face names and shapes, fused storage cut into its parts', async () => {
  const device = new HostMemory()
  const { model } = modelOf(llama, device, 3)
  const folder = fresh()
  await saveHfFolder(model, llama, { 'tokenizer.json': '{"a":1}', 'vocab.bin': Uint8Array.of(1) }, folder, {
    dtype: 'bf16',
  })
  using weights = new WeightsFolder(folder)
  assert.equal(weights.names.length, 3 + 3 * 9)
  assert.deepEqual(weights.entry('model.layers.2.self_attn.q_proj.weight').shape, [12, 12])
  assert.deepEqual(weights.entry('model.layers.2.self_attn.k_proj.weight').shape, [4, 12])
  assert.equal(weights.entry('lm_head.weight').dtype, 'bf16')
  const key = randomKey(3, 'model.layers.2.self_attn.v_proj.weight')
  const value = weights.readNumbers('model.layers.2.self_attn.v_proj.weight')[47]!
  assert.ok(Math.abs(value - randomNormalAt(key, 47)) <= Math.abs(value) * 2 ** -8)
  assert.equal(readFileSync(join(folder, 'tokenizer.json'), 'utf8'), '{"a":1}')
  assert.deepEqual(JSON.parse(readFileSync(join(folder, 'generation_config.json'), 'utf8')), {
    _from_model_config: true,
    bos_token_id: 1,
  })
  await assert.rejects(saveHfFolder(model, llama, { 'config.json': '' }, folder), /cannot be called config.json/)
  await assert.rejects(saveHfFolder(model, llama, { '../x': '' }, folder), /cannot be called/)
})

test('weights of another model are refused before anything is written', async () => {
  const device = new HostMemory()
  const folder = fresh()
  await saveHfFolder(modelOf(llama, device, 3).model, llama, {}, folder)
  const refused = (config: HfConfig, message: RegExp): void => {
    const { model } = modelOf(config, device, 9)
    const before = valuesOf(model, device)
    assert.throws(
      () => loadHfWeights(model, folder),
      (error: Error) => error instanceof CheckpointError && message.test(error.message),
    )
    assert.deepEqual(valuesOf(model, device), before)
  }
  refused(tied, /lm_head.weight differs from model.embed_tokens.weight/)
  refused({ ...llama, numHiddenLayers: 4 }, /missing: model.layers.3.* and 6 more$/)
  refused({ ...llama, numHiddenLayers: 1 }, /unexpected: model.layers.1.* and 15 more$/)
  refused({ ...llama, vocabSize: 14 }, /unfit: model.embed_tokens.weight must be \[14, 12\] but is \[13, 12\], lm_head/)
  const withoutHead = fresh()
  await saveHfFolder(modelOf(tied, device, 3).model, tied, {}, withoutHead)
  assert.throws(
    () => loadHfWeights(modelOf(llama, device).model, withoutHead),
    /missing: lm_head.weight \(tie_word_embeddings is false, so the head needs weights of its own\)/,
  )
})

const trainer = {
  step: 40,
  seed: 7,
  data: { epoch: 1, position: 17 },
  schedule: { kind: 'cosine' },
  numerics: { isa: 'avx2', threads: 2 },
  configHash: 'abc',
}

test('a run checkpoint brings back weights, every moment and the trainer, for adamw and muon', async () => {
  for (const rule of [adamw(), muon()]) {
    for (const width of ['f32', 'f64'] as const) {
      const device = new HostMemory(width)
      const run = mkdtempSync(join(root, 'run-'))
      const { model, arenas } = modelOf(llama, device, 3)
      const optimizer = new Optimizer(arenas, rule)
      const key = randomKey(4, 'moments')
      let n = 0
      for (const { arena, states } of optimizer.states) {
        for (const flat of Object.values(states)) {
          for (const { offset, length } of arena.segments) {
            const values = device.view(flat)
            for (let i = offset; i < offset + length; i++) values[i] = randomNormalAt(key, n++)
          }
        }
      }
      const folder = await saveRunCheckpoint(run, { model, config: llama, tokenizerFiles: {}, optimizer, trainer })
      assert.ok(existsSync(join(folder, 'state', 'trainer.json')))
      using moments = new WeightsFolder(join(folder, 'state'))
      const state = rule.name === 'muon' ? 'momentum' : 'm'
      assert.deepEqual(moments.entry(`${state}.model.layers.1.self_attn.k_proj.weight`).shape, [4, 12])
      const second = modelOf(llama, device)
      const secondOptimizer = new Optimizer(second.arenas, rule)
      assert.deepEqual(loadRunCheckpoint(folder, { model: second.model, optimizer: secondOptimizer }), trainer)
      assert.deepEqual(valuesOf(second.model, device), valuesOf(model, device))
      optimizer.states.forEach(({ states }, i) => {
        for (const [name, flat] of Object.entries(states)) {
          assert.deepEqual(device.view(secondOptimizer.states[i]!.states[name]!), device.view(flat), name)
        }
      })
    }
  }
})

test('a run, its checkpoint and a plain folder are all found as models; damage is told', async () => {
  const device = new HostMemory()
  const run = mkdtempSync(join(root, 'run-'))
  const { model, arenas } = modelOf(gpt2, device, 3)
  const optimizer = new Optimizer(arenas, adamw())
  const parts = { model, config: gpt2, tokenizerFiles: {}, optimizer }
  assert.throws(() => findModelFolder(run), /no config.json in it/)
  const first = await saveRunCheckpoint(run, { ...parts, trainer: { ...trainer, step: 1 } })
  const second = await saveRunCheckpoint(run, { ...parts, trainer: { ...trainer, step: 2 } })
  assert.deepEqual(findModelFolder(run), { folder: second, warnings: [] })
  assert.deepEqual(findModelFolder(first), { folder: first, warnings: [] })
  writeFileSync(join(second, 'config.json'), '{}')
  assert.throws(() => findModelFolder(second), CheckpointError)
  const { folder, warnings } = findModelFolder(run)
  assert.equal(folder, first)
  assert.match(warnings[0]!, /checkpoint of step 2 is passed over: .*config.json: expected \d+ bytes, found 2/)
  assert.equal(newestComplete(run).checkpoint?.step, 1)
  assert.throws(() => findModelFolder(join(run, 'nowhere')), /there is no such folder/)
})

test('moments of another optimizer or model are refused', async () => {
  const device = new HostMemory()
  const run = mkdtempSync(join(root, 'run-'))
  const { model, arenas } = modelOf(llama, device, 3)
  const optimizer = new Optimizer(arenas, adamw())
  const folder = await saveRunCheckpoint(run, { model, config: llama, tokenizerFiles: {}, optimizer, trainer })
  assert.throws(
    () => loadRunCheckpoint(folder, { model, optimizer: new Optimizer(arenas, muon()) }),
    /its moments are of optimizer "adamw", this run uses muon/,
  )
  writeFileSync(join(folder, 'state', 'trainer.json'), JSON.stringify({ version: 1, step: -1 }))
  assert.throws(() => readTrainerState(folder), /not a trainer's state/)
})

test('what only some runs have in their state comes back, and is refused when it is damaged', () => {
  const folder = mkdtempSync(join(root, 'step-'))
  mkdirSync(join(folder, 'state'))
  const read = (more: object) => {
    const state = { version: 1, optimizer: 'adamw', ...trainer, ...more }
    writeFileSync(join(folder, 'state', 'trainer.json'), JSON.stringify(state))
    return readTrainerState(folder)
  }
  const whole = {
    choices: { square: 'plain' },
    lossScaling: [1024, 3, 1, 2],
    fp8: { weights: ['a'], scale: [2], history: [0, 1.5] },
  }
  assert.deepEqual(read(whole), { ...trainer, ...whole })
  for (const [damage, message] of [
    [{ choices: ['plain'] }, /expected choices to be texts by call/],
    [{ choices: { square: 4 } }, /expected choices to be texts by call/],
    [{ lossScaling: [0, 3, 1, 2] }, /expected lossScaling to be four numbers/],
    [{ lossScaling: [1024, 3] }, /expected lossScaling to be four numbers/],
    [{ fp8: { ...whole.fp8, scale: [0] } }, /expected fp8 to have names of weights/],
    [{ fp8: { ...whole.fp8, history: [null] } }, /expected fp8 to have names of weights/],
    [{ fp8: [] }, /expected fp8 to have names of weights/],
  ] as const) {
    assert.throws(() => read({ ...whole, ...damage }), message)
  }
})
