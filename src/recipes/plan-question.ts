// The options of `plan`, and the question that they ask: which model, how it is cut over devices, on how many tokens.
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { z } from 'zod'
import { type HfConfig, readHfConfig } from '../checkpoint/hf-config.ts'
import { findModelFolder } from '../checkpoint/model-folder.ts'
import { field } from '../config/field.ts'
import { ConfigError } from '../core/errors.ts'
import { type Architecture, architecture, countParameters } from '../plan/architecture.ts'
import type { DeviceSpec } from '../plan/devices.ts'
import { architectureOf, readArchitecture } from '../plan/hf-architecture.ts'
import { checkParallelism, deviceCount, ONE_DEVICE, type Parallelism } from '../plan/parallel.ts'
import { FROZEN_BITS, OPTIMIZERS, PRECISIONS } from '../plan/precision.ts'
import { demandPreset, findPreset } from '../plan/presets.ts'
import { TOKENS_PER_PARAMETER } from '../plan/verdict.ts'
import { ASSUMED_UTILIZATION, type Question } from '../plan/what-if.ts'
import { modelConfig, modelFromDepth } from '../train/settings.ts'
import type { DeviceRates } from '../train/step-time.ts'

const whole = z.number().int().min(1)
/** Of fine-tuning, which has no optimum by size. */
const ADAPTER_TOKENS = 10e6
const names = <T extends string>(table: Readonly<Record<T, unknown>>) => Object.keys(table) as [T, ...T[]]

export const config = z.object({
  model: field(z.string().min(1), {
    describe: "published model, folder with a config.json, or depth-12 for pretrain's own",
    example: 'llama-3-8b',
  }),
  hiddenSize: size('width of the residual stream'),
  intermediateSize: size('width of the MLP'),
  numHiddenLayers: size('number of layers'),
  numAttentionHeads: size('query heads'),
  numKeyValueHeads: size('key-value heads'),
  headDim: size('width of a head'),
  vocabSize: size('tokens of the vocabulary'),
  tokens: field(z.number().positive().optional(), {
    describe: `tokens of training; default those of the published run, else ${TOKENS_PER_PARAMETER} a parameter, of adapters ${ADAPTER_TOKENS / 1e6} million`,
    unit: 'tokens',
    example: '300e9',
  }),
  seqLen: field(whole.optional(), {
    describe: "context; default the published run's, else 2048",
    unit: 'tokens',
    example: 4096,
  }),
  batchTokens: field(z.number().positive().optional(), {
    describe: 'global batch of a step; default 64 micro-batches on each copy of the model',
    unit: 'tokens',
    example: 4_194_304,
  }),
  microBatchSize: field(whole.default(1), { describe: 'sequences of one forward' }),
  device: field(z.string().min(1).default('H100 SXM'), {
    describe: 'kind of device, or cpu for this machine by measurement',
    example: 'a100',
  }),
  devices: field(whole.default(1), { describe: 'how many' }),
  mfu: field(z.number().optional(), {
    describe: `part of the peak that does useful products; default ${ASSUMED_UTILIZATION}, less recomputation and pipeline bubble; on cpu by measurement`,
    example: ASSUMED_UTILIZATION,
  }),
  precision: field(z.enum(names(PRECISIONS)).default('bf16-fp32-gradients'), {
    describe: 'formats of weights, gradients, masters and products',
  }),
  optimizer: field(z.enum(names(OPTIMIZERS)).default('adamw'), { describe: 'which decides the states' }),
  recompute: field(z.enum(['none', 'selective', 'full']).default('none'), {
    describe: 'activations to forget and make again',
  }),
  attention: field(z.enum(['flash', 'unfused']).default('flash'), {
    describe: 'whether the scores of all pairs are kept',
  }),
  dropout: field(z.boolean().default(false), { describe: 'keep its masks' }),
  zero: field(z.number().int().min(0).max(3).default(0), {
    describe: 'cut over data parallelism: 1 optimizer states, 2 gradients too, 3 weights too',
  }),
  tensor: field(whole.default(1), { describe: 'devices that share each matrix' }),
  sequence: field(z.boolean().default(false), { describe: 'cut norms and dropout along the sequence, with tensor' }),
  pipeline: field(whole.default(1), { describe: 'stages of layers' }),
  virtualStages: field(whole.default(1), { describe: 'pieces of layers of a stage, taken in turns' }),
  expert: field(whole.default(1), { describe: 'devices that share the experts' }),
  context: field(whole.default(1), { describe: 'devices that share a sequence' }),
  loraRank: field(z.number().int().min(0).default(0), {
    describe: 'train adapters of this rank only; 0 for all weights',
  }),
  loraBase: field(z.enum(names(FROZEN_BITS)).default('nf4-double'), { describe: 'format of weights under adapters' }),
  prices: field(z.string().min(1).optional(), {
    describe: 'YAML of prices, powers and sites; default the one that comes along',
    example: 'prices.yaml',
  }),
  site: field(z.string().min(1).default('us'), { describe: 'site of that file: its PUE, grid and electricity' }),
  json: field(z.boolean().default(false), { describe: 'print JSON instead of text' }),
})

export type Config = z.output<typeof config>

function size(describe: string) {
  return field(whole.optional(), { describe: `${describe}, instead of the model's` })
}

/** A device of the table, or a measured one. */
export interface PlanDevice {
  readonly device: DeviceSpec
  readonly rates?: DeviceRates | undefined
}

interface Subject {
  readonly model: Architecture
  readonly ownConfig?: HfConfig
  readonly tokens?: number | undefined
  readonly seqLen?: number
}

/** What `plan` is asked of a device. @throws ConfigError for what cannot be */
export function questionOf(options: Config, { device, rates }: PlanDevice, cwd: string): Question {
  const subject = subjectOf(options, cwd)
  const { model } = subject
  const seqLen = options.seqLen ?? subject.seqLen ?? Math.min(2048, model.maxPositionEmbeddings)
  const parallelism = parallelismOf(options, model, seqLen)
  const { microBatchSize, loraRank: rank, loraBase: base } = options
  const perMicroBatch = microBatchSize * seqLen * parallelism.data
  const batchTokens = options.batchTokens ?? 64 * perMicroBatch
  if (batchTokens % perMicroBatch !== 0) {
    throw new ConfigError(
      `plan: batchTokens must be a multiple of microBatchSize x seqLen x data parallelism = ${perMicroBatch}, got ${batchTokens}; try ${Math.max(1, Math.round(batchTokens / perMicroBatch)) * perMicroBatch}`,
    )
  }
  return {
    ...subject,
    tokens: tokensOf(options, subject),
    seqLen,
    microBatchSize,
    microBatches: batchTokens / perMicroBatch,
    device,
    rates,
    mfu: options.mfu,
    precision: options.precision,
    optimizer: options.optimizer,
    recompute: options.recompute,
    attention: options.attention,
    hasDropout: options.dropout,
    parallelism,
    ...(rank > 0 && { adapter: { rank, base } }),
  }
}

function tokensOf({ tokens, loraRank }: Config, { model, tokens: published }: Subject): number {
  if (tokens !== undefined) return tokens
  if (loraRank > 0) return ADAPTER_TOKENS
  return published ?? TOKENS_PER_PARAMETER * countParameters(model).active
}

/** Impossible cuts first: of which no number of devices would be a multiple that helps. */
function parallelismOf(options: Config, model: Architecture, seqLen: number): Parallelism {
  const { devices, tensor, pipeline, context, expert, sequence, virtualStages, zero } = options
  checkParallelism(model, seqLen, { ...ONE_DEVICE, tensor, pipeline, context, virtualStages, sequence })
  const cuts = { tensor, pipeline, context, expert, sequence, virtualStages, zeroStage: zero as 0 | 1 | 2 | 3 }
  const perCopy = deviceCount({ ...cuts, data: 1 })
  if (devices % perCopy !== 0) {
    throw new ConfigError(
      `plan: devices must be a multiple of tensor x pipeline x context = ${perCopy}, got ${devices}; try ${Math.max(1, Math.round(devices / perCopy)) * perCopy}`,
    )
  }
  return { ...cuts, data: devices / perCopy }
}

/** Preset, folder, or a model of pretrain's by its depth; sizes given apart win. */
function subjectOf(options: Config, cwd: string): Subject {
  const { hiddenSize, intermediateSize, numHiddenLayers, numAttentionHeads, numKeyValueHeads, headDim, vocabSize } =
    options
  const given = {
    hiddenSize,
    intermediateSize,
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    vocabSize,
  }
  const sizes = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
  const isChanged = Object.keys(sizes).length > 0
  const depth = /^depth[- ]?(\d+)$/.exec(options.model)
  if (depth !== null) return ownModel(Number(depth[1]), options, sizes)
  const preset = findPreset(options.model)
  if (preset === undefined) {
    const named = resolve(cwd, options.model)
    if (!existsSync(named)) {
      if (!/\/|\.json$/.test(options.model)) return { model: demandPreset(options.model).architecture }
      throw new ConfigError(
        `plan: expected a folder with a config.json, or the file itself, got ${JSON.stringify(options.model)}, which is not there`,
      )
    }
    const path = named.endsWith('.json') ? named : findModelFolder(named).folder
    const model = readArchitecture(path)
    if (isChanged) return { model: changed(model, sizes) }
    return { model, ...ownConfigOf(path) }
  }
  const { architecture: model, tokens, seqLen } = preset
  return isChanged ? { model: changed(model, sizes), seqLen } : { model, tokens, seqLen }
}

function changed(model: Architecture, sizes: Partial<Architecture>): Architecture {
  const { headDim, numKeyValueHeads, ...rest } = model
  const heads = { ...rest, ...sizes }
  const isSplit =
    sizes.headDim === undefined && (sizes.hiddenSize !== undefined || sizes.numAttentionHeads !== undefined)
  const kvHeads = sizes.numAttentionHeads === undefined ? numKeyValueHeads : sizes.numAttentionHeads
  return architecture({
    ...heads,
    name: `${model.name}, changed`,
    numKeyValueHeads: sizes.numKeyValueHeads ?? kvHeads,
    ...(!isSplit && { headDim: sizes.headDim ?? headDim }),
  })
}

/** Vocabulary of models by depth where none is given. */
const OWN_VOCAB_SIZE = 32768

function ownModel(depth: number, options: Config, sizes: Record<string, number | undefined>): Subject {
  if (depth === 0) throw new ConfigError('plan: a model by its depth has at least one layer, got depth-0; try depth-4')
  const seqLen = options.seqLen ?? 2048
  const { vocabSize = OWN_VOCAB_SIZE, ...model } = sizes
  const ownConfig = modelConfig(modelFromDepth(depth, seqLen, model), { vocabSize })
  return { model: architectureOf(ownConfig, `depth ${depth}`), ownConfig, seqLen }
}

/** Where Trainyard can build what the folder describes. */
function ownConfigOf(path: string): { ownConfig?: HfConfig } {
  try {
    return { ownConfig: readHfConfig(path) }
  } catch (error) {
    if (error instanceof ConfigError) return {}
    throw error
  }
}
