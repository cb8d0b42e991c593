// From a config.json, of a family that Trainyard trains or of one that it only plans for, to the sizes in architecture.ts.
// Reads what decides parameter counts, refuses families that it does not know.
import { existsSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { ConfigReader } from '../checkpoint/config-reader.ts'
import { type JsonObject, readJsonObject } from '../checkpoint/files.ts'
import type { HfConfig } from '../checkpoint/hf-config.ts'
import { ConfigError } from '../core/errors.ts'
import { shown } from '../core/json.ts'
import { type Architecture, architecture, GPT_STYLE } from './architecture.ts'

/** The sizes of a model that Trainyard itself builds. */
export function architectureOf(config: HfConfig, name: string): Architecture {
  const { vocabSize, hiddenSize, intermediateSize, numHiddenLayers, numAttentionHeads, maxPositionEmbeddings } = config
  const sizes = { vocabSize, hiddenSize, intermediateSize, numHiddenLayers, numAttentionHeads, maxPositionEmbeddings }
  if (config.modelType === 'gpt2') return architecture({ name, ...sizes, ...GPT_STYLE })
  const { numKeyValueHeads, headDim, tieWordEmbeddings } = config
  return architecture({ name, ...sizes, numKeyValueHeads, headDim, tieWordEmbeddings })
}

/** @param path  a config.json, or a folder that has one */
export function readArchitecture(path: string): Architecture {
  const file = existsSync(join(path, 'config.json')) ? join(path, 'config.json') : path
  return parseArchitecture(readJsonObject(file), file)
}

/** @param path  what messages call the file; its folder names the model */
export function parseArchitecture(json: JsonObject, path: string): Architecture {
  const modelType = json.model_type
  if (typeof modelType !== 'string' || !Object.hasOwn(FAMILIES, modelType)) {
    throw new ConfigError(
      `${path}: model_type must be one of ${Object.keys(FAMILIES).join(', ')} to be planned for, got ${shown(modelType)}`,
    )
  }
  const reader = new ConfigReader(json, path)
  return architecture({ name: basename(dirname(path)), ...FAMILIES[modelType]!(reader) })
}

type Read = Omit<Parameters<typeof architecture>[0], 'name'>

/** Sizes under the names that most families use. */
function common(json: ConfigReader): Read & { numKeyValueHeads: number; headDim: number } {
  const hiddenSize = json.integer('hidden_size')
  const numAttentionHeads = json.integer('num_attention_heads')
  return {
    vocabSize: json.integer('vocab_size'),
    hiddenSize,
    intermediateSize: json.integer('intermediate_size'),
    numHiddenLayers: json.integer('num_hidden_layers'),
    numAttentionHeads,
    numKeyValueHeads: json.integer('num_key_value_heads', numAttentionHeads),
    headDim: json.raw('head_dim') === undefined ? hiddenSize / numAttentionHeads : json.integer('head_dim'),
    maxPositionEmbeddings: json.integer('max_position_embeddings', 2048),
    tieWordEmbeddings: json.boolean('tie_word_embeddings', false),
  }
}

const FAMILIES: Readonly<Record<string, (json: ConfigReader) => Read>> = {
  gpt2: (json) => {
    const hiddenSize = json.integer('n_embd')
    return {
      vocabSize: json.integer('vocab_size'),
      hiddenSize,
      intermediateSize: json.integer('n_inner', 4 * hiddenSize),
      numHiddenLayers: json.integer('n_layer'),
      numAttentionHeads: json.integer('n_head'),
      maxPositionEmbeddings: json.integer('n_positions', 1024),
      ...GPT_STYLE,
    }
  },
  llama: (json) => ({
    ...common(json),
    attentionBias: json.boolean('attention_bias', false) ? 'all' : 'none',
    hasMlpBias: json.boolean('mlp_bias', false),
  }),
  mistral: common,
  phi3: common,
  qwen2: (json) => ({ ...common(json), attentionBias: 'qkv' }),
  qwen3: (json) => ({ ...common(json), hasQkNorm: true }),
  gemma: (json) => ({ ...common(json), tieWordEmbeddings: true }),
  gemma2: (json) => ({ ...common(json), tieWordEmbeddings: true, normsPerLayer: 4 }),
  mixtral: (json) => {
    const base = common(json)
    return { ...base, experts: routed(json, 'num_local_experts', base.intermediateSize, 0) }
  },
  qwen3_moe: (json) => ({
    ...common(json),
    hasQkNorm: true,
    experts: routed(json, 'num_experts', json.integer('moe_intermediate_size'), 0),
  }),
  deepseek_v2: readDeepSeek,
  deepseek_v3: readDeepSeek,
  opt: (json) => {
    const hiddenSize = json.integer('hidden_size')
    // OPT's table of positions has two rows for padding.
    const maxPositionEmbeddings = json.integer('max_position_embeddings', 2048) + 2
    json.demand('word_embed_proj_dim', hiddenSize)
    return {
      vocabSize: json.integer('vocab_size'),
      hiddenSize,
      intermediateSize: json.integer('ffn_dim'),
      numHiddenLayers: json.integer('num_hidden_layers'),
      numAttentionHeads: json.integer('num_attention_heads'),
      ...GPT_STYLE,
      maxPositionEmbeddings,
    }
  },
  gpt_neox: (json) => ({
    ...common(json),
    ...GPT_STYLE,
    positions: 'rotary',
    tieWordEmbeddings: json.boolean('tie_word_embeddings', false),
  }),
  bloom: (json) => {
    const hiddenSize = json.integer(json.raw('hidden_size') === undefined ? 'n_embed' : 'hidden_size')
    return {
      vocabSize: json.integer('vocab_size'),
      hiddenSize,
      intermediateSize: 4 * hiddenSize,
      numHiddenLayers: json.integer('n_layer'),
      numAttentionHeads: json.integer(json.raw('n_head') === undefined ? 'num_attention_heads' : 'n_head'),
      ...GPT_STYLE,
      positions: 'alibi',
      hasEmbeddingNorm: true,
    }
  },
}

function routed(json: ConfigReader, countKey: string, intermediateSize: number, sharedIntermediateSize: number) {
  return {
    count: json.integer(countKey),
    active: json.integer('num_experts_per_tok'),
    intermediateSize,
    sharedIntermediateSize,
    denseLayers: 0,
    hasRouterBias: false,
  }
}

function readDeepSeek(json: ConfigReader): Read {
  const base = common(json)
  const contentDim = json.integer('qk_nope_head_dim')
  const expertSize = json.integer('moe_intermediate_size')
  const sharedCount = json.raw('n_shared_experts') === undefined ? 0 : json.integer('n_shared_experts')
  json.demand('moe_layer_freq', 1)
  return {
    ...base,
    headDim: contentDim,
    latentAttention: {
      queryRank: json.raw('q_lora_rank') === undefined ? 0 : json.integer('q_lora_rank'),
      keyValueRank: json.integer('kv_lora_rank'),
      contentDim,
      rotaryDim: json.integer('qk_rope_head_dim'),
      valueDim: json.integer('v_head_dim'),
    },
    experts: {
      ...routed(json, 'n_routed_experts', expertSize, sharedCount * expertSize),
      denseLayers: json.raw('first_k_dense_replace') === 0 ? 0 : json.integer('first_k_dense_replace'),
      hasRouterBias: json.raw('topk_method') === 'noaux_tc',
    },
  }
}
