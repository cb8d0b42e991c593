// What a pretraining run is made of, resolved: every number decided. The recipe's configuration leaves some open; here
// `--depth` fills them in. Also the model's configuration from those numbers.
import { ConfigError } from '../core/errors.ts'
import type { Recompute } from '../core/tape.ts'
import type { PackingMode } from '../data/packing.ts'
import type { Gpt2Config } from '../models/gpt2.ts'
import type { LlamaConfig } from '../models/llama.ts'
import { adam, adamw } from '../optim/adam.ts'
import { muon } from '../optim/muon.ts'
import type { LossScaling, UpdateRule } from '../optim/optimizer.ts'
import type { ScheduleConfig } from '../optim/schedule.ts'
import { lion, sgd } from '../optim/simple.ts'

/** Shape of a model from scratch. */
export interface ModelSettings {
  family: 'llama' | 'gpt2'
  hiddenSize: number
  intermediateSize: number
  numHiddenLayers: number
  numAttentionHeads: number
  numKeyValueHeads: number
  maxPositionEmbeddings: number
  tieWordEmbeddings: boolean
}

export interface OptimizerSettings {
  kind: 'adamw' | 'adam' | 'sgd' | 'lion' | 'muon'
  weightDecay: number
  beta1: number
  beta2: number
  eps: number
  /** SGD and Muon. */
  momentum: number
}

/** A resolved run. */
export interface RunSettings {
  model: ModelSettings
  seqLen: number
  /** Tokens of an optimizer step, over all micro-batches. */
  batchTokens: number
  /** Sequences of one forward. */
  microBatchSize: number
  packing: PackingMode
  seed: number
  dropout: number
  recompute: Recompute
  /** How many layers recompute, from the first; absent: all. */
  recomputeLayers?: number | undefined
  optimizer: OptimizerSettings
  schedule: ScheduleConfig
  /** Largest gradient norm, 0 for no clipping. */
  gradClip: number
  /** For 16-bit floats of small range (f16). */
  lossScaling?: LossScaling
}

/** Width of a head, for models made by depth. */
const HEAD_DIM = 64

/** The one dial: a model whose width, heads and MLP follow from its number of layers (width 64 a layer, as nanochat). */
export function modelFromDepth(depth: number, seqLen: number, overrides: Partial<ModelSettings> = {}): ModelSettings {
  const hiddenSize = overrides.hiddenSize ?? HEAD_DIM * depth
  const family = overrides.family ?? 'llama'
  const numAttentionHeads = overrides.numAttentionHeads ?? Math.max(1, Math.round(hiddenSize / HEAD_DIM))
  // SwiGLU has three matrices: 8/3 of the width keeps the size of a GELU MLP of four times it.
  const ratio = family === 'llama' ? 8 / 3 : 4
  return {
    family,
    hiddenSize,
    intermediateSize: overrides.intermediateSize ?? Math.round((ratio * hiddenSize) / 32) * 32,
    numHiddenLayers: overrides.numHiddenLayers ?? depth,
    numAttentionHeads,
    numKeyValueHeads: overrides.numKeyValueHeads ?? numAttentionHeads,
    maxPositionEmbeddings: overrides.maxPositionEmbeddings ?? seqLen,
    tieWordEmbeddings: overrides.tieWordEmbeddings ?? true,
  }
}

/** config.json of a model from scratch. */
export function modelConfig(
  settings: ModelSettings,
  tokens: { vocabSize: number; bosTokenId?: number | undefined; eosTokenId?: number | undefined },
): LlamaConfig | Gpt2Config {
  const { hiddenSize, numAttentionHeads } = settings
  if (hiddenSize % numAttentionHeads !== 0) {
    throw new ConfigError(
      `pretrain: model.hiddenSize must be a multiple of model.numAttentionHeads, got ${hiddenSize} and ${numAttentionHeads}`,
    )
  }
  const common = {
    vocabSize: tokens.vocabSize,
    hiddenSize,
    intermediateSize: settings.intermediateSize,
    numHiddenLayers: settings.numHiddenLayers,
    numAttentionHeads,
    maxPositionEmbeddings: settings.maxPositionEmbeddings,
    // 0.02 is right for widths of about 1000 and slow for small ones; 1 / sqrt(width) is the same for every width.
    initializerRange: Number((1 / Math.sqrt(hiddenSize)).toPrecision(3)),
    ...(tokens.bosTokenId !== undefined && { bosTokenId: tokens.bosTokenId }),
    ...(tokens.eosTokenId !== undefined && { eosTokenId: tokens.eosTokenId }),
  }
  if (settings.family === 'gpt2') {
    return { ...common, modelType: 'gpt2', layerNormEps: 1e-5, activationFunction: 'gelu_new' }
  }
  return {
    ...common,
    modelType: 'llama',
    numKeyValueHeads: settings.numKeyValueHeads,
    headDim: hiddenSize / numAttentionHeads,
    rmsNormEps: 1e-5,
    ropeTheta: 10000,
    tieWordEmbeddings: settings.tieWordEmbeddings,
  }
}

export function updateRule(settings: OptimizerSettings): UpdateRule {
  const { kind, weightDecay, beta1, beta2, eps, momentum } = settings
  switch (kind) {
    case 'adamw':
      return adamw({ weightDecay, beta1, beta2, eps })
    case 'adam':
      return adam({ weightDecay, beta1, beta2, eps })
    case 'sgd':
      return sgd({ weightDecay, momentum })
    case 'lion':
      return lion({ weightDecay, beta1, beta2 })
    case 'muon':
      return muon({ weightDecay, beta1, beta2, eps, momentum })
  }
}
