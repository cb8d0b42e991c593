// config.json in and out: published configurations of both families, both spellings of RoPE, and refusals by name.
import assert from 'node:assert/strict'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import {
  generationConfigJson,
  hfConfigJson,
  hfConfigText,
  parseHfConfig,
  readHfConfig,
} from '../../src/checkpoint/hf-config.ts'
import { CheckpointError, ConfigError } from '../../src/core/errors.ts'

/** openai-community/gpt2, as published. */
const GPT2 = {
  activation_function: 'gelu_new',
  architectures: ['GPT2LMHeadModel'],
  attn_pdrop: 0.1,
  bos_token_id: 50256,
  embd_pdrop: 0.1,
  eos_token_id: 50256,
  initializer_range: 0.02,
  layer_norm_epsilon: 1e-5,
  model_type: 'gpt2',
  n_ctx: 1024,
  n_embd: 768,
  n_head: 12,
  n_layer: 12,
  n_positions: 1024,
  resid_pdrop: 0.1,
  summary_activation: null,
  summary_first_dropout: 0.1,
  task_specific_params: { 'text-generation': { do_sample: true, max_length: 50 } },
  vocab_size: 50257,
}

/** meta-llama/Llama-3.2-1B-Instruct, as published. */
const LLAMA = {
  architectures: ['LlamaForCausalLM'],
  attention_bias: false,
  attention_dropout: 0.0,
  bos_token_id: 128000,
  eos_token_id: [128001, 128008, 128009],
  head_dim: 64,
  hidden_act: 'silu',
  hidden_size: 2048,
  initializer_range: 0.02,
  intermediate_size: 8192,
  max_position_embeddings: 131072,
  mlp_bias: false,
  model_type: 'llama',
  num_attention_heads: 32,
  num_hidden_layers: 16,
  num_key_value_heads: 8,
  pretraining_tp: 1,
  rms_norm_eps: 1e-5,
  rope_scaling: {
    factor: 32.0,
    high_freq_factor: 4.0,
    low_freq_factor: 1.0,
    original_max_position_embeddings: 8192,
    rope_type: 'llama3',
  },
  rope_theta: 500000.0,
  tie_word_embeddings: true,
  torch_dtype: 'bfloat16',
  transformers_version: '4.45.0.dev0',
  use_cache: true,
  vocab_size: 128256,
}

const gpt2Config = {
  modelType: 'gpt2',
  vocabSize: 50257,
  hiddenSize: 768,
  intermediateSize: 3072,
  numHiddenLayers: 12,
  numAttentionHeads: 12,
  maxPositionEmbeddings: 1024,
  layerNormEps: 1e-5,
  activationFunction: 'gelu_new',
  initializerRange: 0.02,
  bosTokenId: 50256,
  eosTokenId: 50256,
}

const llamaConfig = {
  modelType: 'llama',
  vocabSize: 128256,
  hiddenSize: 2048,
  intermediateSize: 8192,
  numHiddenLayers: 16,
  numAttentionHeads: 32,
  numKeyValueHeads: 8,
  headDim: 64,
  maxPositionEmbeddings: 131072,
  rmsNormEps: 1e-5,
  ropeTheta: 500000,
  ropeScaling: {
    ropeType: 'llama3',
    factor: 32,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositionEmbeddings: 8192,
  },
  tieWordEmbeddings: true,
  initializerRange: 0.02,
  bosTokenId: 128000,
  eosTokenId: 128001,
}

const parse = (json: Record<string, unknown>) => parseHfConfig(json, 'config.json')

test('published configurations read as expected', () => {
  assert.deepEqual(parse(GPT2), gpt2Config)
  assert.deepEqual(parse(LLAMA), llamaConfig)
})

test('transformers 5 writes rope_parameters: the same configuration', () => {
  const { rope_scaling, rope_theta, ...rest } = LLAMA
  assert.deepEqual(parse({ ...rest, rope_parameters: { ...rope_scaling, rope_theta } }), llamaConfig)
  const plain = parse({ ...rest, rope_parameters: { rope_type: 'default', rope_theta: 1e6 } })
  assert.deepEqual(plain, parse({ ...rest, rope_scaling: null, rope_theta: 1e6 }))
  const linear = parse({ ...rest, rope_theta: 1e4, rope_scaling: { type: 'linear', factor: 2 } })
  assert.deepEqual('ropeScaling' in linear && linear.ropeScaling, { ropeType: 'linear', factor: 2 })
})

test('what is written reads back', () => {
  for (const config of [parse(GPT2), parse(LLAMA)]) {
    const json = hfConfigJson(config, 'bf16')
    assert.equal(json.torch_dtype, 'bfloat16')
    assert.deepEqual(parse(JSON.parse(JSON.stringify(json))), config)
    assert.deepEqual(JSON.parse(hfConfigText(config, 'bf16')), json)
  }
  assert.match(hfConfigText(parse(LLAMA), 'f32'), /"factor": 32.0,\n.*"low_freq_factor": 1.0,/)
  const { bosTokenId: _, eosTokenId: __, ...without } = parse(LLAMA)
  const json = hfConfigJson(without as ReturnType<typeof parse>, 'f32')
  assert.equal(json.bos_token_id, null)
  assert.deepEqual(parse(json), without)
  assert.deepEqual(generationConfigJson(parse(GPT2)), {
    _from_model_config: true,
    bos_token_id: 50256,
    eos_token_id: 50256,
  })
})

test('defaults are those of transformers, within the vocabulary', () => {
  const { head_dim, num_key_value_heads, rms_norm_eps, bos_token_id, eos_token_id, ...rest } = LLAMA
  const config = parse({ ...rest, rope_scaling: undefined, rope_theta: undefined })
  assert.ok(config.modelType === 'llama')
  assert.deepEqual(
    [
      config.headDim,
      config.numKeyValueHeads,
      config.rmsNormEps,
      config.ropeTheta,
      config.bosTokenId,
      config.eosTokenId,
    ],
    [64, 32, 1e-6, 10000, 1, 2],
  )
  const { bos_token_id: _, eos_token_id: __, ...gpt2 } = GPT2
  assert.equal(parse({ ...gpt2, vocab_size: 300 }).bosTokenId, undefined)
})

test('what is not supported is refused by name', () => {
  const refused = (json: Record<string, unknown>, message: RegExp): void => {
    assert.throws(
      () => parse(json),
      (error: Error) => error instanceof ConfigError && message.test(error.message),
      String(message),
    )
  }
  refused({ ...LLAMA, model_type: 'mamba' }, /model_type must be one of gpt2, llama, got "mamba"/)
  refused({ ...LLAMA, model_type: 'toString' }, /model_type must be one of/)
  refused({}, /got nothing/)
  refused({ ...LLAMA, attention_bias: true }, /attention_bias true is not supported, only false is/)
  refused({ ...LLAMA, mlp_bias: true }, /mlp_bias true/)
  refused({ ...LLAMA, hidden_act: 'gelu' }, /hidden_act must be one of silu, swish, got "gelu"/)
  refused(
    { ...LLAMA, rope_scaling: { rope_type: 'yarn', factor: 2 } },
    /rope_scaling: rope_type must be one of .* "yarn"/,
  )
  refused({ ...LLAMA, rope_scaling: { type: 'dynamic', factor: 2 } }, /type must be one of .* "dynamic"/)
  refused({ ...LLAMA, rope_scaling: { rope_type: 'llama3', factor: 2 } }, /low_freq_factor must be .* got nothing/)
  refused({ ...LLAMA, partial_rotary_factor: 0.5 }, /partial_rotary_factor 0.5/)
  refused({ ...LLAMA, quantization_config: { bits: 4 } }, /quantization_config is not supported/)
  refused({ ...LLAMA, hidden_size: '2048' }, /hidden_size must be a whole number .* got "2048"/)
  refused({ ...LLAMA, hidden_size: undefined }, /hidden_size must be .* got nothing/)
  refused({ ...LLAMA, num_hidden_layers: 0 }, /num_hidden_layers/)
  refused({ ...LLAMA, vocab_size: 1e12 }, /vocab_size/)
  refused({ ...LLAMA, rms_norm_eps: -1 }, /rms_norm_eps must be a number above 0/)
  refused({ ...LLAMA, tie_word_embeddings: 1 }, /tie_word_embeddings must be true or false/)
  refused({ ...LLAMA, eos_token_id: 'x' }, /eos_token_id/)
  refused({ ...GPT2, activation_function: 'relu' }, /activation_function must be one of .* "relu"/)
  refused({ ...GPT2, scale_attn_weights: false }, /scale_attn_weights false/)
  refused({ ...GPT2, scale_attn_by_inverse_layer_idx: true }, /scale_attn_by_inverse_layer_idx/)
  refused({ ...GPT2, tie_word_embeddings: false }, /tie_word_embeddings/)
})

test('a folder without a readable config.json says so', () => {
  const folder = mkdtempSync(join(tmpdir(), 'trainyard-config-'))
  assert.throws(() => readHfConfig(folder), CheckpointError)
  writeFileSync(join(folder, 'config.json'), '[1]')
  assert.throws(() => readHfConfig(folder), /expected a JSON object, got an array/)
  writeFileSync(join(folder, 'config.json'), JSON.stringify(GPT2))
  assert.deepEqual(readHfConfig(folder), gpt2Config)
})
