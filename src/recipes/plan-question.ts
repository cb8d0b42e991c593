// The options of `plan`, and the question that they ask: which model, how it is cut over devices, on how many tokens.
import { z } from 'zod'
import { field } from '../config/field.ts'
import { ConfigError } from '../core/errors.ts'
import { type Architecture, countParameters } from '../plan/architecture.ts'
import { type DeviceSpec, limitMemory } from '../plan/devices.ts'
import { checkParallelism, deviceCount, ONE_DEVICE, type Parallelism } from '../plan/parallel.ts'
import { FROZEN_BITS, OPTIMIZERS, PRECISIONS } from '../plan/precision.ts'
import { TOKENS_PER_PARAMETER } from '../plan/verdict.ts'
import { ASSUMED_UTILIZATION, type Question } from '../plan/what-if.ts'
import type { DeviceRates } from '../train/step-time.ts'
import { memoryLimitBytes, memoryLimitField } from './memory-field.ts'
import { findSubject, type Subject } from './plan-subject.ts'

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
  memoryLimit: memoryLimitField('of each device'),
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
    device: limitMemory(device, memoryLimitBytes(options.memoryLimit)),
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
  return findSubject('plan', options.model, cwd, { seqLen: options.seqLen, sizes })
}
