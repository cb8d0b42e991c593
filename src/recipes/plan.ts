// trainyard plan: what a training would take of compute, time and memory, before it is started; a what-if at a terminal.
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { z } from 'zod'
import { type HfConfig, readHfConfig } from '../checkpoint/hf-config.ts'
import { findModelFolder } from '../checkpoint/model-folder.ts'
import type { RunContext } from '../config/context.ts'
import { field } from '../config/field.ts'
import { parseFlags } from '../config/flags.ts'
import { defineRecipe } from '../config/recipe.ts'
import { resolveConfig } from '../config/resolve.ts'
import { overlay } from '../config/values.ts'
import { ConfigError } from '../core/errors.ts'
import { measureCopyBandwidth } from '../machine/copy-speed.ts'
import { measureMatmulFlops } from '../machine/matmul-speed.ts'
import { describeMemory } from '../machine/memory.ts'
import { openDevice } from '../open.ts'
import { type Architecture, architecture, countParameters } from '../plan/architecture.ts'
import { type Cost, costLines, costOf } from '../plan/cost/cost.ts'
import { readPrices, type Site } from '../plan/cost/prices.ts'
import { type DeviceSpec, findDevice, measuredDevice } from '../plan/devices.ts'
import { architectureOf, readArchitecture } from '../plan/hf-architecture.ts'
import { checkParallelism, deviceCount, ONE_DEVICE, type Parallelism } from '../plan/parallel.ts'
import { FROZEN_BITS, OPTIMIZERS, PRECISIONS } from '../plan/precision.ts'
import { demandPreset, findPreset } from '../plan/presets.ts'
import { reportLines } from '../plan/report.ts'
import { TOKENS_PER_PARAMETER } from '../plan/verdict.ts'
import { type Answer, answer, type Question } from '../plan/what-if.ts'
import { modelConfig, modelFromDepth } from '../train/settings.ts'

const whole = z.number().int().min(1)
const names = <T extends string>(table: Readonly<Record<T, unknown>>) => Object.keys(table) as [T, ...T[]]

const config = z.object({
  model: field(z.string().min(1), {
    describe: "published model, folder with a config.json, or depth-12 for pretrain's own",
    example: 'llama-3-8b',
  }),
  hiddenSize: size('width of the residual stream'),
  intermediateSize: size('width of the MLP'),
  numHiddenLayers: size('number of layers'),
  numAttentionHeads: size('query heads'),
  numKeyValueHeads: size('key-value heads'),
  vocabSize: size('tokens of the vocabulary'),
  tokens: field(z.number().positive().optional(), {
    describe: `tokens of training; default those of the published run, else ${TOKENS_PER_PARAMETER} a parameter`,
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
  mfu: field(z.number().default(0.4), { describe: 'part of the peak that does useful products, assumed' }),
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

type Config = z.output<typeof config>

function size(describe: string) {
  return field(whole.optional(), { describe: `${describe}, instead of the model's` })
}

const recipe = defineRecipe({
  name: 'plan',
  summary: 'see what a training would take of compute, time and memory, before it is started',
  description:
    'Counts parameters and FLOPs, judges the number of tokens, estimates the time at an assumed share of the peak, and stacks the memory of one device: all in closed form, in milliseconds, for any cluster. A model that Trainyard can train is also planned exactly, by a dry run.\n\nAt a terminal it asks what to change and shows the new picture: devices=64 zero=1, or the flags themselves.',
  examples: [
    { command: 'plan llama-3-8b --devices 64 --zero 1', does: 'a published model on 64 H100' },
    { command: 'plan gpt-3-175b --device a100 --devices 1024 --tensor 8 --pipeline 8 --json', does: 'for a program' },
    {
      command: 'plan depth-12 --device cpu --precision fp32',
      does: "pretrain's own model of 12 layers, on this machine",
    },
  ],
  config,
  positional: ['model'],
  async run(options, context) {
    const device = options.device === 'cpu' ? await measureProcessor(context) : findDevice(options.device)
    const first = await ask(options, device, context)
    if (options.json) {
      context.log(JSON.stringify({ ...first, device, cost: costOfRun(options, first, device, context)?.cost }, null, 2))
      return
    }
    show(options, first, device, context)
    if (context.canPrompt) await whatIf(options, device, context)
  },
})
export default recipe

function show(options: Config, result: Answer, device: DeviceSpec, context: RunContext): void {
  const { columns, hasColor: color } = context
  const costs = costOfRun(options, result, device, context)
  const cost = costs === undefined ? [] : costLines(costs.cost, costs.site)
  for (const line of reportLines(result, { device, columns, color, cost })) context.log(line)
}

/** Money, energy and carbon; undefined for a device whose power nobody knows. */
function costOfRun(
  { prices: file, site: name }: Config,
  { time }: Answer,
  device: DeviceSpec,
  { cwd }: RunContext,
): { cost: Cost; site: Site } | undefined {
  const prices = readPrices(file === undefined ? undefined : resolve(cwd, file))
  const site = prices.site(name)
  if (prices.watts(device) === undefined) return undefined
  return { cost: costOf({ device, deviceHours: time.deviceHours, prices, site }), site }
}

async function ask(options: Config, device: DeviceSpec, context: RunContext): Promise<Answer> {
  return await answer(questionOf(options, device, context.cwd))
}

/** Asks for changes until an empty line. A change that is not possible says so and is dropped. */
async function whatIf(options: Config, device: DeviceSpec, context: RunContext): Promise<void> {
  let current: Record<string, unknown> = options
  let spec = device
  while (!context.signal.aborted) {
    const line = await context.prompt('\nchange (devices=64 zero=1 ...; empty line to end): ')
    if (line === undefined || line.trim() === '') return
    try {
      const words = line.trim().split(/\s+/)
      const flags = words.map((word) => (/^[A-Za-z]\w*=/.test(word) ? `--${word}` : word))
      const { values } = parseFlags('plan', recipe.fields, [], flags)
      const changed = overlay(current, values)
      const config = resolveConfig('plan', recipe.config, [{ source: 'flags', values: changed }])
      spec = config.device === 'cpu' ? await measureProcessor(context) : findDevice(config.device)
      const result = await ask(config, spec, context)
      current = changed
      show(config, result, spec, context)
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error
      context.warn(error.message)
    }
  }
}

interface Subject {
  readonly model: Architecture
  readonly ownConfig?: HfConfig
  readonly tokens?: number | undefined
  readonly seqLen?: number
}

function questionOf(options: Config, device: DeviceSpec, cwd: string): Question {
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
    tokens: options.tokens ?? subject.tokens ?? TOKENS_PER_PARAMETER * countParameters(model).active,
    seqLen,
    microBatchSize,
    microBatches: batchTokens / perMicroBatch,
    device,
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

/** Impossible cuts first: of which no number of devices would be a multiple that helps. */
function parallelismOf(options: Config, model: Architecture, seqLen: number): Parallelism {
  const { devices, tensor, pipeline, context, expert, sequence, virtualStages, zero } = options
  checkParallelism(model, seqLen, { ...ONE_DEVICE, tensor, pipeline, context, virtualStages })
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
  const { hiddenSize, intermediateSize, numHiddenLayers, numAttentionHeads, numKeyValueHeads, vocabSize } = options
  const given = { hiddenSize, intermediateSize, numHiddenLayers, numAttentionHeads, numKeyValueHeads, vocabSize }
  const sizes = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
  const isChanged = Object.keys(sizes).length > 0
  const depth = /^depth[- ]?(\d+)$/.exec(options.model)
  if (depth !== null) return ownModel(Number(depth[1]), options, sizes)
  const preset = findPreset(options.model)
  if (preset === undefined) {
    const named = resolve(cwd, options.model)
    if (!existsSync(named)) return { model: demandPreset(options.model).architecture }
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
  const isSplit = sizes.hiddenSize !== undefined || sizes.numAttentionHeads !== undefined
  const kvHeads = sizes.numAttentionHeads === undefined ? numKeyValueHeads : sizes.numAttentionHeads
  return architecture({
    ...heads,
    name: `${model.name}, changed`,
    numKeyValueHeads: sizes.numKeyValueHeads ?? kvHeads,
    ...(!isSplit && { headDim }),
  })
}

/** Vocabulary of models by depth where none is given. */
const OWN_VOCAB_SIZE = 32768

function ownModel(depth: number, options: Config, sizes: Record<string, number | undefined>): Subject {
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

/** This machine's processor by a second of products. */
async function measureProcessor(context: RunContext): Promise<DeviceSpec> {
  const device = await openDevice('cpu', {}, context.env)
  const measuredFlops = measureMatmulFlops(device)
  device.close()
  const memoryBytes = describeMemory().availableBytes
  return measuredDevice('this processor', { measuredFlops, memoryBytes, memoryBandwidth: measureCopyBandwidth() })
}
