// config.json of Hugging Face to our config types and back, one row per model family. Options that would change the
// computation are either understood or refused by name; keys that transformers itself ignores are ignored.
import { ConfigError } from '../core/errors.ts'
import { shown } from '../core/json.ts'
import type { DecoderModel } from '../models/decoder.ts'
import { Gpt2, type Gpt2Config } from '../models/gpt2.ts'
import { Llama, type LlamaConfig } from '../models/llama.ts'
import type { RopeScaling } from '../nn/rotary.ts'
import { ConfigReader } from './config-reader.ts'
import { type JsonObject, readJsonObject } from './files.ts'
import { toHfConfigKey } from './names.ts'

export type HfConfig = Gpt2Config | LlamaConfig

/** Element types that weights are written in, with their names in config.json. */
export const TORCH_DTYPES = { f64: 'float64', f32: 'float32', bf16: 'bfloat16', f16: 'float16' } as const

export type WeightsDtype = keyof typeof TORCH_DTYPES

/** Objects are made for every layer before any weight is seen: a damaged number must not make millions of them. */
const MAX_LAYERS = 4096

interface Family {
  /** Class in transformers that loads the folder. */
  readonly architecture: string
  read(json: ConfigReader): HfConfig
}

const FAMILIES: Readonly<Record<HfConfig['modelType'], Family>> = {
  gpt2: { architecture: 'GPT2LMHeadModel', read: readGpt2 },
  llama: { architecture: 'LlamaForCausalLM', read: readLlama },
}

/** Reads `<folder>/config.json`. @throws ConfigError for an unknown family or an unsupported option, by name */
export function readHfConfig(folder: string): HfConfig {
  const path = `${folder}/config.json`
  return parseHfConfig(readJsonObject(path), path)
}

/** @param path  what messages call the file */
export function parseHfConfig(json: JsonObject, path: string): HfConfig {
  const modelType = json.model_type
  if (typeof modelType !== 'string' || !Object.hasOwn(FAMILIES, modelType)) {
    throw new ConfigError(
      `${path}: model_type must be one of ${Object.keys(FAMILIES).join(', ')}, got ${shown(modelType)}`,
    )
  }
  const reader = new ConfigReader(json, path)
  reader.forbid('quantization_config', 'auto_map')
  return FAMILIES[modelType as HfConfig['modelType']].read(reader)
}

/** The model of a configuration, shapes only. */
export function createModel(config: HfConfig): DecoderModel {
  return config.modelType === 'gpt2' ? new Gpt2(config) : new Llama(config)
}

function readGpt2(json: ConfigReader): Gpt2Config {
  const hiddenSize = json.integer('n_embd')
  const vocabSize = json.integer('vocab_size')
  json.demand('scale_attn_weights', true)
  json.demand('scale_attn_by_inverse_layer_idx', false)
  json.demand('add_cross_attention', false)
  json.demand('tie_word_embeddings', true)
  // gelu_pytorch_tanh and gelu_fast name the same approximation in other files.
  const activation = json.choice(
    'activation_function',
    ['gelu_new', 'gelu', 'gelu_pytorch_tanh', 'gelu_fast'],
    'gelu_new',
  )
  return {
    modelType: 'gpt2',
    vocabSize,
    hiddenSize,
    intermediateSize: json.integer('n_inner', 4 * hiddenSize),
    numHiddenLayers: json.integer('n_layer', undefined, MAX_LAYERS),
    numAttentionHeads: json.integer('n_head'),
    maxPositionEmbeddings: json.integer('n_positions', 1024),
    layerNormEps: json.positive('layer_norm_epsilon', 1e-5),
    activationFunction: activation === 'gelu' ? 'gelu' : 'gelu_new',
    initializerRange: json.positive('initializer_range', 0.02),
    ...tokenIds(json, vocabSize, 50256, 50256),
  }
}

function readLlama(json: ConfigReader): LlamaConfig {
  const hiddenSize = json.integer('hidden_size')
  const numAttentionHeads = json.integer('num_attention_heads')
  const vocabSize = json.integer('vocab_size')
  json.demand('attention_bias', false)
  json.demand('mlp_bias', false)
  json.demand('pretraining_tp', 1)
  json.demand('partial_rotary_factor', 1)
  json.choice('hidden_act', ['silu', 'swish'], 'silu')
  const headDim = json.integer('head_dim', Math.floor(hiddenSize / numAttentionHeads))
  return {
    modelType: 'llama',
    vocabSize,
    hiddenSize,
    intermediateSize: json.integer('intermediate_size'),
    numHiddenLayers: json.integer('num_hidden_layers', undefined, MAX_LAYERS),
    numAttentionHeads,
    numKeyValueHeads: json.integer('num_key_value_heads', numAttentionHeads),
    headDim,
    maxPositionEmbeddings: json.integer('max_position_embeddings', 2048),
    rmsNormEps: json.positive('rms_norm_eps', 1e-6),
    ...readRope(json),
    tieWordEmbeddings: json.boolean('tie_word_embeddings', false),
    initializerRange: json.positive('initializer_range', 0.02),
    ...tokenIds(json, vocabSize, 1, 2),
  }
}

/** transformers 4 writes rope_theta and rope_scaling, transformers 5 one rope_parameters; the former wins there too. */
function readRope(json: ConfigReader): { ropeTheta: number; ropeScaling?: RopeScaling } {
  const parameters = json.object('rope_scaling') ?? json.object('rope_parameters')
  const topTheta = json.positive('rope_theta', 10000)
  if (parameters === undefined) return { ropeTheta: topTheta }
  parameters.demand('partial_rotary_factor', 1)
  const ropeTheta = parameters.positive('rope_theta', topTheta)
  const typeKey =
    parameters.raw('rope_type') === undefined && parameters.raw('type') !== undefined ? 'type' : 'rope_type'
  const ropeType = parameters.choice(typeKey, ['default', 'linear', 'llama3'], 'default')
  if (ropeType === 'default') return { ropeTheta }
  const factor = parameters.positive('factor')
  if (ropeType === 'linear') return { ropeTheta, ropeScaling: { ropeType, factor } }
  return {
    ropeTheta,
    ropeScaling: {
      ropeType,
      factor,
      lowFreqFactor: parameters.positive('low_freq_factor'),
      highFreqFactor: parameters.positive('high_freq_factor'),
      originalMaxPositionEmbeddings: parameters.integer('original_max_position_embeddings'),
    },
  }
}

/**
 * Absent keys take the defaults of transformers. An id outside the vocabulary means "none": small models that
 * transformers wrote carry GPT-2's 50256 whatever their vocabulary.
 */
function tokenIds(json: ConfigReader, vocabSize: number, bos: number, eos: number) {
  const bosTokenId = json.tokenId('bos_token_id', bos)
  const eosTokenId = json.tokenId('eos_token_id', eos)
  const isReal = (id: number | undefined): id is number => id !== undefined && id < vocabSize
  return { ...(isReal(bosTokenId) && { bosTokenId }), ...(isReal(eosTokenId) && { eosTokenId }) }
}

/** config.json of a model as transformers 4 and 5 load it. @param dtype  of the weights beside it */
export function hfConfigJson(config: HfConfig, dtype: WeightsDtype): JsonObject {
  const { ropeScaling, ...fields } = config as LlamaConfig
  const { modelType } = config
  const json: JsonObject = { architectures: [FAMILIES[modelType].architecture] }
  for (const [field, value] of Object.entries(fields)) json[toHfConfigKey(modelType, field)] = value
  // Absent would mean transformers' own defaults (50256; 1 and 2), which another vocabulary may not have.
  json.bos_token_id ??= null
  json.eos_token_id ??= null
  json.torch_dtype = TORCH_DTYPES[dtype]
  if (modelType === 'llama') {
    Object.assign(json, { attention_bias: false, attention_dropout: 0, hidden_act: 'silu', mlp_bias: false })
    json.rope_scaling = ropeScaling === undefined ? null : ropeScalingJson(ropeScaling)
  } else {
    Object.assign(json, { embd_pdrop: 0, attn_pdrop: 0, resid_pdrop: 0, tie_word_embeddings: true })
  }
  return json
}

function ropeScalingJson(scaling: RopeScaling): JsonObject {
  return Object.fromEntries(Object.entries(scaling).map(([field, value]) => [toHfConfigKey('llama', field), value]))
}

const FLOAT_KEYS =
  'factor|low_freq_factor|high_freq_factor|rope_theta|rms_norm_eps|layer_norm_epsilon|initializer_range'

/** config.json as text. Floats get their point even where they are whole: transformers 4 complains about `factor: 8`. */
export function hfConfigText(config: HfConfig, dtype: WeightsDtype): string {
  const text = JSON.stringify(hfConfigJson(config, dtype), null, 2)
  return `${text.replace(new RegExp(`("(?:${FLOAT_KEYS})": \\d+)(,?)$`, 'gm'), '$1.0$2')}\n`
}

/** generation_config.json: what transformers' generate() needs to start and stop. */
export function generationConfigJson(config: HfConfig): JsonObject {
  return {
    _from_model_config: true,
    ...(config.bosTokenId !== undefined && { bos_token_id: config.bosTokenId }),
    ...(config.eosTokenId !== undefined && { eos_token_id: config.eosTokenId }),
  }
}
