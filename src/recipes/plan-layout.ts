// trainyard plan layout: how to divide a training over a cluster: the fastest layout that fits, why, and what failures,
// electricity and rent make of the whole run.
import { writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { z } from 'zod'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { ConfigError } from '../core/errors.ts'
import { formatCount, formatDuration } from '../display/format.ts'
import { type Architecture, countParameters } from '../plan/architecture.ts'
import { costLines, costOf } from '../plan/cost/cost.ts'
import { readPrices } from '../plan/cost/prices.ts'
import { findDevice, limitMemory } from '../plan/devices.ts'
import { explain } from '../plan/layout/explain.ts'
import { bestGoodput, clusterMtbf, type Goodput } from '../plan/layout/goodput.ts'
import type { Layout } from '../plan/layout/layout.ts'
import {
  alternativeLines,
  describeLayout,
  goodputLines,
  runnerUpLines,
  utilization,
  winnerLines,
} from '../plan/layout/layout-report.ts'
import { cluster } from '../plan/layout/machine.ts'
import { searchLayouts } from '../plan/layout/search.ts'
import { modernSoftware } from '../plan/layout/software.ts'
import { estimateStep } from '../plan/layout/step.ts'
import { timelineSvg } from '../plan/layout/timeline-svg.ts'
import { OPTIMIZERS, PRECISIONS } from '../plan/precision.ts'
import { TOKENS_PER_PARAMETER } from '../plan/verdict.ts'
import { memoryLimitBytes, memoryLimitField } from './memory-field.ts'
import { findSubject } from './plan-subject.ts'

const whole = z.number().int().min(1)
const names = <T extends string>(table: Readonly<Record<T, unknown>>) => Object.keys(table) as [T, ...T[]]
const pinned = (describe: string) => field(whole.optional(), { describe: `${describe}; default: searched` })
const YEAR_HOURS = 8760
/** A run of which less becomes progress is none. */
const LEAST_GOODPUT = 0.001

const config = z.object({
  model: field(z.string().min(1), {
    describe: 'published model, folder with a config.json, or depth-N',
    example: 'llama-3-8b',
  }),
  device: field(z.string().min(1).default('H100 SXM'), { describe: 'kind of device' }),
  devices: field(whole.default(64), { describe: 'how many' }),
  devicesPerNode: field(whole.optional(), { describe: "in a node; default the usual server's" }),
  linkBandwidth: field(z.number().positive().optional(), {
    describe: 'GB/s to other devices of the node, in one direction; default as published',
    unit: 'GB/s',
    example: 450,
  }),
  networkBandwidth: field(z.number().positive().optional(), {
    describe: 'GB/s of each device to other nodes, in one direction; default as published',
    unit: 'GB/s',
    example: 50,
  }),
  memoryLimit: memoryLimitField('of each device'),
  tokens: field(z.number().positive().optional(), {
    describe: `tokens of training; default those of the published run, else ${TOKENS_PER_PARAMETER} a parameter`,
    unit: 'tokens',
    example: '300e9',
  }),
  seqLen: field(whole.optional(), {
    describe: "context; default the published run's, else 2048",
    unit: 'tokens',
    example: 8192,
  }),
  batchTokens: field(whole.default(4_194_304), { describe: 'global batch of a step', unit: 'tokens' }),
  precision: field(z.enum(names(PRECISIONS)).default('bf16-fp32-gradients'), {
    describe: 'formats of weights, gradients and products',
  }),
  optimizer: field(z.enum(names(OPTIMIZERS)).default('adamw'), {
    describe: 'whose states are kept; its time is taken as that of AdamW',
  }),
  tensor: pinned('devices that share each matrix'),
  pipeline: pinned('stages of layers'),
  virtualStages: pinned('chunks of layers on a stage, taken in turns (interleaved)'),
  context: pinned('devices that share a sequence'),
  expert: pinned('devices that share the experts'),
  microBatchSize: pinned('sequences of one forward'),
  zero: field(z.number().int().min(0).max(3).optional(), { describe: 'ZeRO stage; default: searched' }),
  recompute: field(z.enum(['none', 'selective', 'full']).optional(), {
    describe: 'activations to make again; default: searched',
  }),
  schedule: field(z.enum(['gpipe', '1f1b', 'interleaved', 'zero-bubble']).optional(), {
    describe: 'of the pipeline; default: 1f1b and interleaved are searched',
  }),
  overlapTensor: field(z.boolean().default(false), { describe: 'tensor-parallel communication runs beside products' }),
  runnersUp: field(z.number().int().min(0).default(5), { describe: 'layouts to show after the best' }),
  mtbfYears: field(z.number().positive().default(5.8), {
    describe: 'mean time between failures of one device; 5.8 are those of Llama 3 405B (419 in 54 days on 16,384)',
    unit: 'years',
  }),
  checkpointSeconds: field(z.number().positive().default(30), {
    describe: 'that training stands still for a checkpoint',
    unit: 'seconds',
  }),
  restartSeconds: field(z.number().min(0).default(600), {
    describe: 'from a failure until training goes on',
    unit: 'seconds',
  }),
  prices: field(z.string().min(1).optional(), {
    describe: 'YAML of prices, powers and sites; default the one that comes along',
    example: 'prices.yaml',
  }),
  site: field(z.string().min(1).default('us'), { describe: 'site of that file: its PUE, grid and electricity' }),
  embodied: field(z.boolean().default(false), { describe: "count the devices' manufacture" }),
  svg: field(z.string().min(1).optional(), {
    describe: "file for a picture of the pipeline's step",
    example: 'step.svg',
  }),
  json: field(z.boolean().default(false), { describe: 'print JSON instead of text' }),
})

type Config = z.output<typeof config>

export default defineRecipe({
  name: 'plan layout',
  summary: 'find the fastest way to divide a training over many devices, and see why',
  description:
    'Times the combinations of data, tensor, pipeline, context and expert parallelism, ZeRO, micro-batch and recomputation that fit, from the shapes of the products, the bytes that are moved and the links between devices. Shows where the time of the best goes, what each single change would cost, and what failures, rent and carbon make of the run. What you pin is not searched.\n\nNothing is run; docs/layout.md has its errors against published runs.',
  examples: [
    { command: 'plan layout llama-3-8b --devices 64', does: 'the best layout on 64 H100' },
    {
      command: 'plan layout llama-3-405b --devices 16384 --batch-tokens 16777216 --svg step.svg',
      does: 'a large run, with a picture of its pipeline',
    },
    {
      command: 'plan layout gpt-3-175b --device a100 --devices 1024 --tensor 8 --json',
      does: 'with tensor parallelism pinned',
    },
  ],
  config,
  positional: ['model'],
  async run(options, context) {
    const { model, seqLen, tokens } = subjectOf(options, context.cwd)
    const gigabytes = (value: number | undefined): number | undefined => (value === undefined ? undefined : value * 1e9)
    const on = cluster({
      device: limitMemory(findDevice(options.device), memoryLimitBytes(options.memoryLimit)),
      devices: options.devices,
      devicesPerNode: options.devicesPerNode,
      linkBandwidth: gigabytes(options.linkBandwidth),
      networkBandwidth: gigabytes(options.networkBandwidth),
    })
    if (options.batchTokens % seqLen !== 0) {
      throw new ConfigError(
        `plan layout: batchTokens must be a multiple of seqLen ${seqLen}, got ${options.batchTokens}: try ${Math.max(1, Math.round(options.batchTokens / seqLen)) * seqLen}`,
      )
    }
    const mtbfSeconds = clusterMtbf(options.mtbfYears * YEAR_HOURS * 3600, options.devices)
    const goodput = goodputOf(options, mtbfSeconds)
    const software = modernSoftware(on.device, options.precision, options.overlapTensor)
    const formats = { precision: options.precision, optimizer: options.optimizer }
    const ground = { model, on, software, formats }
    const batchSize = options.batchTokens / seqLen
    const found = searchLayouts({ ...ground, batchSize, seqLen, pins: pinsOf(options), count: options.runnersUp + 1 })
    const best = found.best[0]!
    const alternatives = explain(best, ground)
    const seconds = tokens / best.estimate.tokensPerSecond / goodput.share
    const prices = readPrices(options.prices === undefined ? undefined : resolve(context.cwd, options.prices))
    const site = prices.site(options.site)
    const deviceHours = (seconds / 3600) * options.devices
    const { embodied: hasEmbodied } = options
    // Layouts need no watts: a device whose power nobody knows is planned without a bill.
    const cost =
      prices.watts(on.device) === undefined
        ? undefined
        : costOf({ device: on.device, deviceHours, prices, site, hasEmbodied })
    if (options.svg !== undefined) writePicture(best.layout, ground, resolve(context.cwd, options.svg))
    if (options.json) {
      const plain = found.best.map(({ layout, estimate: { timeline: _, ...estimate }, bytes }) => ({
        layout,
        estimate,
        bytes,
      }))
      const run = { tokens, seconds, goodput, cost: cost ?? null, utilization: utilization(best, ground) }
      context.log(
        JSON.stringify(
          { model, possible: found.possible, fitting: found.fitting, best: plain, alternatives, run },
          null,
          2,
        ),
      )
      return
    }
    const lines = [
      ...winnerLines(found, ground, context.columns, context.hasColor),
      ...alternativeLines(alternatives),
      ...runnerUpLines(found),
      '',
      ...goodputLines(goodput, mtbfSeconds),
      `${formatCount(tokens).replace(/G$/, 'B')} tokens take ${formatDuration(seconds)}`,
      ...(cost === undefined
        ? [
            `  ${formatCount(deviceHours)} device-hours; the power of ${on.device.name} is not known: give watts with --prices`,
          ]
        : costLines(cost, site).map((line) => `  ${line}`)),
      ...(options.svg === undefined ? [] : ['', `picture of a step: ${options.svg}`]),
    ]
    for (const line of lines) context.log(line)
  },
})

/** @throws ConfigError where failures leave nothing of the run */
function goodputOf({ checkpointSeconds, restartSeconds }: Config, mtbfSeconds: number): Goodput {
  const goodput = bestGoodput({ mtbfSeconds, checkpointSeconds, restartSeconds })
  if (goodput.share >= LEAST_GOODPUT) return goodput
  throw new ConfigError(
    `plan layout: with a failure every ${formatDuration(mtbfSeconds)} on these devices and ${formatDuration(restartSeconds)} to start again, nothing becomes progress: take fewer devices, more --mtbf-years or fewer --restart-seconds`,
  )
}

function subjectOf(options: Config, cwd: string): { model: Architecture; seqLen: number; tokens: number } {
  const { model, ...known } = findSubject('plan layout', options.model, cwd, { seqLen: options.seqLen })
  const seqLen = options.seqLen ?? known.seqLen ?? Math.min(2048, model.maxPositionEmbeddings)
  const tokens = options.tokens ?? known.tokens ?? TOKENS_PER_PARAMETER * countParameters(model).active
  return { model, seqLen, tokens }
}

function pinsOf(options: Config): Partial<Layout> {
  const given = {
    tensorParallel: options.tensor,
    pipelineParallel: options.pipeline,
    chunks: options.virtualStages,
    contextParallel: options.context,
    expertParallel: options.expert,
    microBatchSize: options.microBatchSize,
    zeroStage: options.zero,
    recompute: options.recompute,
    schedule: options.schedule,
  }
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as Partial<Layout>
}

/** @throws ConfigError where there is no pipeline to show, or no place to write to */
function writePicture(layout: Layout, { model, on, software }: Parameters<typeof explain>[1], path: string): void {
  const { timeline } = estimateStep(model, layout, on, software)
  if (timeline === undefined) {
    throw new ConfigError(
      'plan layout: the best layout has no pipeline, so there is no timeline to draw: leave out --svg, or pin --pipeline 4',
    )
  }
  const title = `${model.name} on ${on.devices.toLocaleString('en-US')} x ${on.device.name}: ${describeLayout(layout)}`
  try {
    writeFileSync(path, timelineSvg(timeline, { title, chunks: layout.chunks }))
  } catch (error) {
    throw new ConfigError(`plan layout: the picture ${path} cannot be written: ${(error as Error).message}`, {
      cause: error,
    })
  }
}
