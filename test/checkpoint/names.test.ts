// Names at the Hugging Face boundary: the key lists of real models (transformers 5.18, one layer each) survive the way
// here and back, and the compiler knows the names.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fromHfConfigKey, fromHfName, type HfName, toHfConfigKey, toHfName } from '../../src/checkpoint/names.ts'

const block = ['q_proj', 'k_proj', 'v_proj', 'o_proj'].map((name) => `self_attn.${name}.weight`)
const mlp = ['gate_proj', 'up_proj', 'down_proj'].map((name) => `mlp.${name}.weight`)
const norms = ['input_layernorm.weight', 'post_attention_layernorm.weight']
const family = (layer: readonly string[]): string[] => [
  'model.embed_tokens.weight',
  ...layer.map((name) => `model.layers.17.${name}`),
  'model.norm.weight',
  'lm_head.weight',
]

const KEYS: Record<string, string[]> = {
  gpt2: [
    'transformer.wte.weight',
    'transformer.wpe.weight',
    ...['ln_1', 'attn.c_attn', 'attn.c_proj', 'ln_2', 'mlp.c_fc', 'mlp.c_proj'].flatMap((name) => [
      `transformer.h.11.${name}.weight`,
      `transformer.h.11.${name}.bias`,
    ]),
    'transformer.ln_f.weight',
    'transformer.ln_f.bias',
    'lm_head.weight',
  ],
  llama: family([...block, ...mlp, ...norms]),
  qwen3: family([...block, 'self_attn.q_norm.weight', 'self_attn.k_norm.weight', ...mlp, ...norms]),
  qwen3_moe: family([...block, 'mlp.experts.gate_up_proj', 'mlp.experts.down_proj', 'mlp.gate.weight', ...norms]),
  mixtral: family([...block, 'block_sparse_moe.experts.7.w1.weight', 'block_sparse_moe.gate.weight', ...norms]),
}

const CONFIG_KEYS: Record<string, string[]> = {
  gpt2: 'vocab_size n_positions n_embd n_layer n_head n_inner activation_function resid_pdrop embd_pdrop attn_pdrop layer_norm_epsilon initializer_range summary_type summary_use_proj summary_first_dropout scale_attn_weights use_cache bos_token_id eos_token_id scale_attn_by_inverse_layer_idx reorder_and_upcast_attn add_cross_attention tie_word_embeddings id2label _name_or_path model_type'.split(
    ' ',
  ),
  llama:
    'vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads hidden_act max_position_embeddings initializer_range rms_norm_eps use_cache pad_token_id bos_token_id eos_token_id pretraining_tp tie_word_embeddings rope_parameters rope_theta rope_scaling attention_bias attention_dropout mlp_bias head_dim'.split(
      ' ',
    ),
  qwen3: 'use_sliding_window sliding_window max_window_layers layer_types head_dim rope_parameters'.split(' '),
}

test('tensor names of five families come back unchanged and are camelCase with us', () => {
  for (const [name, keys] of Object.entries(KEYS)) {
    for (const key of keys) {
      const ours = fromHfName(key)
      assert.ok(!ours.includes('_'), `${name}: ${key} became ${ours}`)
      assert.equal(toHfName(ours), key, name)
    }
    assert.equal(new Set(keys.map(fromHfName)).size, keys.length)
  }
})

test('names are the expected ones', () => {
  assert.equal(fromHfName('model.layers.0.self_attn.q_proj.weight'), 'model.layers.0.selfAttn.qProj.weight')
  assert.equal(fromHfName('transformer.h.0.ln_1.bias'), 'transformer.h.0.ln1.bias')
  assert.equal(fromHfName('transformer.ln_f.weight'), 'transformer.lnF.weight')
  // The compiler works the name out: this assignment would not compile if it were wrong.
  const typed: HfName<'model.layers.selfAttn.qkvProj.ln1'> = 'model.layers.self_attn.qkv_proj.ln_1'
  assert.equal(toHfName('model.layers.selfAttn.qkvProj.ln1'), typed)
})

test('config keys come back unchanged; GPT-2 takes the common names', () => {
  for (const [modelType, keys] of Object.entries(CONFIG_KEYS)) {
    for (const key of keys) assert.equal(toHfConfigKey(modelType, fromHfConfigKey(modelType, key)), key, modelType)
  }
  assert.equal(fromHfConfigKey('gpt2', 'n_embd'), 'hiddenSize')
  assert.equal(fromHfConfigKey('gpt2', 'layer_norm_epsilon'), 'layerNormEps')
  assert.equal(toHfConfigKey('llama', 'hiddenSize'), 'hidden_size')
  assert.equal(fromHfConfigKey('llama', 'rms_norm_eps'), 'rmsNormEps')
})
