// Parameter counts and FLOPs in closed form: against published counts, against the real models, and against a dry run of
// the real step, op by op.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { createModel, type HfConfig, hfConfigJson, parseHfConfig } from '../../src/checkpoint/hf-config.ts'
import type { Recompute } from '../../src/core/tape.ts'
import type { Gpt2Config } from '../../src/models/gpt2.ts'
import type { LlamaConfig } from '../../src/models/llama.ts'
import { parameterCount } from '../../src/nn/module.ts'
import { architecture, countParameters } from '../../src/plan/architecture.ts'
import { dryRun } from '../../src/plan/dry-run.ts'
import { attentionPairs, forwardFlops, trainingFlopsPerToken } from '../../src/plan/flops.ts'
import { architectureOf, parseArchitecture } from '../../src/plan/hf-architecture.ts'
import { PRESETS } from '../../src/plan/presets.ts'

const LLAMA: LlamaConfig = {
  modelType: 'llama',
  vocabSize: 512,
  hiddenSize: 96,
  intermediateSize: 256,
  numHiddenLayers: 3,
  numAttentionHeads: 6,
  numKeyValueHeads: 2,
  headDim: 16,
  maxPositionEmbeddings: 64,
  rmsNormEps: 1e-5,
  ropeTheta: 10000,
  tieWordEmbeddings: false,
  initializerRange: 0.02,
}

const GPT2: Gpt2Config = {
  modelType: 'gpt2',
  vocabSize: 512,
  hiddenSize: 96,
  intermediateSize: 384,
  numHiddenLayers: 3,
  numAttentionHeads: 6,
  maxPositionEmbeddings: 64,
  layerNormEps: 1e-5,
  activationFunction: 'gelu_new',
  initializerRange: 0.02,
}

const OWN: Record<string, HfConfig> = {
  'llama, grouped queries, untied': LLAMA,
  'llama, tied': { ...LLAMA, tieWordEmbeddings: true, numKeyValueHeads: 6 },
  'llama, heads wider than the stream': { ...LLAMA, headDim: 32 },
  gpt2: GPT2,
  'gpt2, exact gelu': { ...GPT2, activationFunction: 'gelu' },
}

for (const [name, config] of Object.entries(OWN)) {
  test(`${name}: the count is that of the real model, from its config and from its config.json`, () => {
    const real = parameterCount(createModel(config))
    assert.equal(countParameters(architectureOf(config, name)).total, real)
    assert.equal(countParameters(parseArchitecture(hfConfigJson(config, 'f32'), 'models/own/config.json')).total, real)
  })
}

for (const family of ['gpt2', 'llama-tied', 'llama-untied']) {
  test(`config.json of transformers, ${family}: the same count`, () => {
    const path = new URL(`../golden/${family}/config.json`, import.meta.url).pathname
    const json = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>
    const real = parameterCount(createModel(parseHfConfig(json, path)))
    assert.equal(countParameters(parseArchitecture(json, path)).total, real)
  })
}

// Published sizes are names as much as counts: those of these models are rounded further.
const ROUNDED: Record<string, number> = {
  'Megatron 1.7B': 0.03,
  'Megatron 3.6B': 0.011,
  'Falcon 7B': 0.012,
  'Falcon 40B': 0.033,
}

test('published models have the parameters that their papers report, to 1 %', (t) => {
  let worst = 0
  for (const { architecture: model, reportedParameters } of PRESETS) {
    const error = countParameters(model).total / reportedParameters - 1
    assert.ok(Math.abs(error) <= (ROUNDED[model.name] ?? 0.01), `${model.name}: ${error}`)
    if (!(model.name in ROUNDED)) worst = Math.max(worst, Math.abs(error))
  }
  t.diagnostic(`${PRESETS.length} models, worst ${(100 * worst).toFixed(2)} %`)
})

// DeepSeek-AI 2024 (arXiv:2412.19437): 671B, 37B a token; Jiang et al. 2024 (arXiv:2401.04088): 47B, 13B a token.
test('parameters that a token goes through, with experts', () => {
  const active = (name: string): number =>
    countParameters(PRESETS.find((preset) => preset.architecture.name === name)!.architecture).active
  // The paper's 37 billion leave out the embedding, which is looked up.
  assert.ok(Math.abs(active('DeepSeek-V3') - 129280 * 7168 - 37e9) < 0.5e9)
  assert.ok(Math.abs(active('Mixtral 8x7B') - 12.9e9) < 0.1e9)
})

test('families that are only planned for: counts of their published configurations', () => {
  const common = { hidden_size: 2048, vocab_size: 151936, num_hidden_layers: 28, num_attention_heads: 16 }
  const count = (json: Record<string, unknown>): number =>
    countParameters(parseArchitecture(json, 'models/x/config.json')).total
  // Qwen3-1.7B: 1,720,574,976 parameters in its safetensors; Qwen3-30B-A3B: 30,532,122,624.
  const qwen3 = { ...common, model_type: 'qwen3', intermediate_size: 6144, num_key_value_heads: 8, head_dim: 128 }
  assert.equal(count({ ...qwen3, tie_word_embeddings: true }), 1_720_574_976)
  const moe = {
    model_type: 'qwen3_moe',
    hidden_size: 2048,
    vocab_size: 151936,
    num_hidden_layers: 48,
    num_attention_heads: 32,
    num_key_value_heads: 4,
    head_dim: 128,
    intermediate_size: 6144,
    moe_intermediate_size: 768,
    num_experts: 128,
    num_experts_per_tok: 8,
  }
  assert.equal(count(moe), 30_532_122_624)
  // Qwen2.5-0.5B: 494,032,768.
  const qwen2 = {
    model_type: 'qwen2',
    hidden_size: 896,
    vocab_size: 151936,
    num_hidden_layers: 24,
    num_attention_heads: 14,
    num_key_value_heads: 2,
    intermediate_size: 4864,
    tie_word_embeddings: true,
  }
  assert.equal(count(qwen2), 494_032_768)
  assert.throws(
    () => parseArchitecture({ model_type: 'mamba' }, 'x/config.json'),
    /model_type must be one of gpt2, .* got "mamba"/,
  )
})

/** What the ops count besides products, a sequence: from their files in src/ops, by hand. */
function elementwiseFlops(config: HfConfig, seqLen: number): number {
  const { hiddenSize, intermediateSize, numHiddenLayers: layers, numAttentionHeads: heads } = config
  const norms = 2 * layers + 1
  if (config.modelType === 'gpt2') {
    // Norm 7 + 11 + 5; gelu 10 + 16; sum of both embeddings 1, and their gradients.
    return seqLen * (norms * hiddenSize * 23 + layers * intermediateSize * 26 + 3 * hiddenSize)
  }
  const rotated = (heads + config.numKeyValueHeads) * config.headDim
  // Norm 4 + 8 + 3; rotation 3 + 3; swiglu (3 + 6) over both halves; gradient of the embedding.
  return seqLen * (norms * hiddenSize * 15 + layers * (rotated * 6 + 2 * intermediateSize * 9) + hiddenSize)
}

/** Flash attention's backward makes the scores again: five products where the mathematics has four. */
function scoresAgain({ numHiddenLayers, numAttentionHeads, ...config }: HfConfig, seqLen: number): number {
  const headDim = 'headDim' in config ? config.headDim : config.hiddenSize / numAttentionHeads
  return numHiddenLayers * numAttentionHeads * 2 * headDim * attentionPairs(seqLen, 'causal')
}

for (const [name, config] of Object.entries(OWN)) {
  test(`${name}: FLOPs of the real step, op by op, are those of the closed form`, async () => {
    const shape = { microBatchSize: 2, seqLen: 48, optimizer: 'adamw', floatDtype: 'f32' } as const
    const model = architectureOf(config, name)
    const counted = async (recompute: Recompute): Promise<number> =>
      (await dryRun(config, { ...shape, recompute })).train.flops / shape.microBatchSize
    const none = await counted('none')
    const products = trainingFlopsPerToken(model, shape.seqLen).model * shape.seqLen
    assert.equal(none, products + scoresAgain(config, shape.seqLen) + elementwiseFlops(config, shape.seqLen))
    // Full recomputation runs the layers' forward again, but for the op that makes a layer's output.
    const full = await counted('full')
    const forward = forwardFlops(model, shape.seqLen)
    const last = 2 * shape.seqLen * config.numHiddenLayers * config.hiddenSize * config.intermediateSize
    const fused = config.modelType === 'gpt2' && config.activationFunction === 'gelu_new'
    const productsAgain = forward.total - forward.head - (fused ? forward.mlp : last)
    const again = full - none
    assert.ok(again >= productsAgain && again < 1.08 * productsAgain, `${again} for ${productsAgain}`)
  })
}

test('a long sequence: attention is a part of the whole that grows with it, and a causal mask leaves half', () => {
  const model = PRESETS.find((preset) => preset.architecture.name === 'Llama 3 8B')!.architecture
  const [short, long] = [forwardFlops(model, 2048), forwardFlops(model, 131072)]
  assert.equal(short.mlp * 64, long.mlp)
  assert.ok(long.attention / long.total > 10 * (short.attention / short.total))
  assert.ok(Math.abs(forwardFlops(model, 8192, 'full').attention / forwardFlops(model, 8192).attention - 2) < 1e-3)
})

test('sizes that no model can have are refused with what would do', () => {
  const sizes = {
    name: 'mine',
    vocabSize: 100,
    hiddenSize: 100,
    numHiddenLayers: 2,
    numAttentionHeads: 16,
    intermediateSize: 64,
  }
  assert.throws(
    () => architecture(sizes),
    /hiddenSize must be a multiple of numAttentionHeads, got 100 and 16; give headDim, or take a width of 96/,
  )
  assert.throws(
    () => architecture({ ...sizes, hiddenSize: 64, numKeyValueHeads: 3 }),
    /multiple of numKeyValueHeads, got 16 and 3/,
  )
  assert.throws(
    () => architecture({ ...sizes, hiddenSize: 64, numHiddenLayers: 0 }),
    /numHiddenLayers must be a whole number of at least 1, got 0/,
  )
})
