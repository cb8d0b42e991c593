// trainyard sweep: trains a grid of small models within a budget, fits a scaling law to them, and says what to train next.
import { existsSync, mkdirSync } from 'node:fs'
import { availableParallelism, homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { z } from 'zod'
import { isJsonObject, readJsonObject, writeContents, writeJson } from '../checkpoint/files.ts'
import type { RunContext } from '../config/context.ts'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { CheckpointError, ConfigError } from '../core/errors.ts'
import { TokenDataset } from '../data/dataset.ts'
import { formatCount, formatDuration } from '../display/format.ts'
import { analyseSweep, type SweepReport } from '../plan/sweep/analysis.ts'
import { RunPool, readCurve } from '../plan/sweep/execute.ts'
import { planGrid, type SweepBudget, type SweepGrid, sweepCost } from '../plan/sweep/grid.ts'
import { measureRate } from '../plan/sweep/rate.ts'
import {
  checkErrors,
  describeCheck,
  describeSweep,
  drawSweep,
  sweepPage,
  type TargetCheck,
} from '../plan/sweep/report.ts'
import type { SweepSetting } from '../plan/sweep/run-spec.ts'
import { pointsOf, runSweep, type SweepResults } from '../plan/sweep/sweep.ts'
import { prepareSweepText } from '../plan/sweep/text.ts'
import { differingKeys } from '../train/run-dir.ts'
import { deviceFields, numericsOf, openChosenDevice, refuseForeignOptions } from './device-fields.ts'

const config = z.object({
  out: field(z.string().min(1), { describe: 'folder of the sweep', example: 'runs/sweep' }),
  budget: field(z.string().regex(/^\d+(\.\d+)?(s|m|h|d|(e\d+)?)$/, 'a time such as 10m or FLOPs such as 5e13'), {
    describe: 'what all runs together may take: time on this machine (90s, 10m, 2h) or FLOPs (5e13)',
    example: '10m',
  }),
  data: field(z.string().min(1).optional(), {
    describe: "folder that data prepare made; default the demo's text, prepared here",
    example: 'data/books',
  }),
  vocabSize: field(z.number().int().min(300).default(320), {
    describe: "tokens of the vocabulary for the demo's text: small, so that small models are not all embedding",
    unit: 'tokens',
  }),
  seqLen: field(z.number().int().min(16).default(128), { describe: 'context of training', unit: 'tokens' }),
  factor: field(z.number().min(1).max(1000).default(4), {
    describe: 'size of the model to recommend, over the largest of the sweep',
  }),
  check: field(z.boolean().default(false), {
    describe: 'train the recommended model too, outside of the budget, and compare its loss with the prediction',
  }),
  jobs: field(z.number().int().min(1).optional(), {
    describe: 'runs at a time; default one for each core on a CPU, one on a card',
    example: 2,
  }),
  seed: field(z.number().int().min(0).default(42), { describe: 'of initialisation and data order of every run' }),
  json: field(z.boolean().default(false), { describe: 'print the result as JSON' }),
  ...deviceFields,
})

type Config = z.output<typeof config>

/** Options that may differ when a sweep goes on: they change none of its runs. */
const HARMLESS = ['out', 'json', 'check', 'factor', 'jobs']
/** Processor time that the start and end of a run take. */
const START_SECONDS = 1.2
/** A first guess, only to choose a shape to measure with. */
const GUESSED_RATE = 3e10
const SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86400 }

export default defineRecipe({
  name: 'sweep',
  summary: 'train a grid of small models for a budget and say what to train next',
  description:
    'Chooses sizes and horizons for the budget, looks for learning rate and batch, trains the grid (each run a pretrain of its own, so that the sweep goes on after Ctrl-C with the same command), fits L(N, D), and recommends parameters, tokens, learning rate and batch of a larger model, with intervals and the error of predicting its own largest runs. Pictures and the whole report stand in report.html.',
  examples: [
    { command: 'sweep --budget 10m --out runs/sweep', does: "sweep on the demo's text in about ten minutes" },
    {
      command: 'sweep --budget 5e13 --data data/books --out runs/sweep',
      does: 'sweep on your own text for 5e13 FLOPs',
    },
  ],
  config,
  async run(options, context) {
    refuseForeignOptions(options)
    const folder = resolve(context.cwd, options.out)
    // Before the work of preparing a text.
    const saved = savedBudget(options, folder)
    const { data, train, validation } = await openText(options, folder, context)
    const setting: SweepSetting = {
      vocabSize: train.manifest.tokenizer.vocabSize,
      seqLen: options.seqLen,
      seed: options.seed,
    }
    const isCpu = options.device === 'cpu'
    const jobs = options.jobs ?? (isCpu ? Math.max(1, Math.floor(availableParallelism() / (options.threads ?? 1))) : 1)
    const budget = saved ?? (await settleBudget(options, folder, train, validation, setting, jobs, context.env))
    const grid = planGrid(budget, setting)
    if (!options.json) describePlan(grid, budget, setting, jobs, context)
    const progress = { stage: '', isOver: false }
    const common = { data, folder: join(folder, 'runs'), setting, onChange: () => live?.update() }
    const pool = new RunPool(context, { ...common, jobs, deviceWords: deviceWords(options, options.threads ?? 1) })
    // The one large run has all threads.
    const largePool = new RunPool(context, {
      ...common,
      jobs: 1,
      deviceWords: deviceWords(options, availableParallelism()),
    })
    const started = performance.now()
    const line = (): string =>
      `${progress.stage}: ${pool.finished} of ${pool.specs.size} runs done, at work: ${[...pool.running, ...largePool.running].join(', ')}, ${formatDuration((performance.now() - started) / 1000)}`
    // Standard output is the result alone when it is JSON.
    const live = options.json ? undefined : context.live({ frame: () => [line()], line })
    using _ = context.interruptNotice('stopping when the runs have written their checkpoints')
    let results: SweepResults | undefined
    let check: TargetCheck | undefined
    let report: SweepReport | undefined
    try {
      results = await runSweep(pool, grid, budget, setting, (stage) => {
        progress.stage = stage
      })
      if (results !== undefined) {
        progress.stage = 'fit'
        const curves = results.grid.map(({ spec }) => readCurve(common.folder, spec, setting))
        const analysis = { factor: options.factor, curves, turn: () => context.turn() }
        report = await analyseSweep(results, grid, budget, setting, analysis)
        if (options.check) {
          progress.stage = 'check'
          check = await checkTarget(largePool, report, results)
        }
      }
    } finally {
      live?.stop()
    }
    if (results === undefined || report === undefined || (options.check && check === undefined)) {
      context.log('stopped; go on with the same command')
      return
    }
    await tell(options, folder, { grid, results, report, check }, context)
  },
})

async function openText(
  options: Config,
  folder: string,
  context: RunContext,
): Promise<{ data: string; train: TokenDataset; validation: TokenDataset }> {
  const data = options.data === undefined ? join(folder, 'data') : resolve(context.cwd, options.data)
  if (options.data === undefined) {
    const cacheDir = join(homedir(), '.cache', 'trainyard', 'demo')
    if ((await prepareSweepText(data, options.vocabSize, cacheDir)) && !options.json) {
      context.log(`text: the demo's addresses and novel, with a vocabulary of ${options.vocabSize}`)
    }
  }
  const train = TokenDataset.open(join(data, 'train'))
  if (!existsSync(join(data, 'validation'))) {
    throw new ConfigError(
      `sweep: there is no ${join(data, 'validation')}: laws are fitted to held-out loss; prepare the data with --validation-fraction`,
    )
  }
  return { data, train, validation: TokenDataset.open(join(data, 'validation')) }
}

/** @throws CheckpointError for a file that no sweep wrote whole */
function readSaved(path: string): { options: Record<string, unknown>; budget: SweepBudget } {
  const advice = 'delete it and give the same command again: finished runs are used where the new grid has them'
  let saved: ReturnType<typeof readJsonObject>
  try {
    saved = readJsonObject(path)
  } catch (cause) {
    throw new CheckpointError(`${(cause as Error).message}; ${advice}`, { cause })
  }
  const { options, budget } = saved
  const names = ['flops', 'startFlops', 'uniqueTokens', 'evaluationTokens'] as const
  if (!isJsonObject(options) || !isJsonObject(budget) || !names.every((name) => Number.isFinite(budget[name]))) {
    throw new CheckpointError(
      `${path}: expected the options and the budget of a sweep, but they are not there; ${advice}`,
    )
  }
  return { options, budget: budget as unknown as SweepBudget }
}

/** The options that make a sweep what it is. */
function decisive(options: Config): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(options).filter(([key, value]) => !HARMLESS.includes(key) && value !== undefined),
  )
}

/** The budget of the sweep that was begun in this folder, if one was. @throws ConfigError if it had other options */
function savedBudget(options: Config, folder: string): SweepBudget | undefined {
  const path = join(folder, 'sweep.json')
  if (!existsSync(path)) return undefined
  const saved = readSaved(path)
  const [differing] = differingKeys(saved.options, decisive(options))
  if (differing !== undefined) {
    throw new ConfigError(
      `sweep: ${options.out} was begun with ${differing.key} ${JSON.stringify(differing.was)}, now it is ${JSON.stringify(differing.is)}; use the same, or another folder`,
    )
  }
  return saved.budget
}

/** The budget in FLOPs: measured once, then kept with the sweep, so that a sweep that goes on makes the same grid. */
async function settleBudget(
  options: Config,
  folder: string,
  train: TokenDataset,
  validation: TokenDataset,
  setting: SweepSetting,
  jobs: number,
  env: RunContext['env'],
): Promise<SweepBudget> {
  const [, amount, unit] = /^([\d.]+(?:e\d+)?)([smhd]?)$/.exec(options.budget)!
  const tokens = { uniqueTokens: train.totalTokens, evaluationTokens: validation.totalTokens }
  let budget: SweepBudget = { flops: Number(amount), startFlops: 0, ...tokens }
  if (unit !== '') {
    const seconds = Number(amount) * SECONDS[unit!]!
    const isCpu = options.device === 'cpu'
    const workers = isCpu ? jobs * (options.threads ?? 1) : 1
    const guessed = { flops: GUESSED_RATE * seconds * workers, startFlops: 0, ...tokens }
    const { shape } = planGrid(guessed, setting).sizes[1]!
    const device = await openChosenDevice(isCpu ? { ...options, threads: options.threads ?? 1 } : options, env)
    const rate = await measureRate(device, train, shape, setting, numericsOf(device))
    budget = { flops: rate * seconds * workers, startFlops: rate * START_SECONDS, ...tokens }
  }
  mkdirSync(folder, { recursive: true })
  await writeJson(join(folder, 'sweep.json'), { options: decisive(options), budget })
  return budget
}

/** @param threads  on a CPU */
function deviceWords(options: Config, threads: number): string[] {
  const { device, precision, fp8Scaling, attention, deterministic, matmulPrecision } = options
  if (device === 'cpu') return ['--threads', String(threads), '--matmul-precision', matmulPrecision]
  const determinism = deterministic ? '--deterministic' : '--no-deterministic'
  const numbers = ['--precision', precision, '--fp8-scaling', fp8Scaling, '--attention', attention]
  return ['--device', device, ...numbers, determinism]
}

function describePlan(
  grid: SweepGrid,
  budget: SweepBudget,
  setting: SweepSetting,
  jobs: number,
  context: RunContext,
): void {
  const horizons = [...new Set(grid.cells.map((cell) => cell.horizon))].sort((a, b) => a - b)
  context.log(
    `plan: ${grid.cells.length} runs of ${grid.sizes.map((size) => formatCount(size.parameters)).join(', ')} parameters (${grid.sizes[0]!.shape.numHiddenLayers} layers) on ${horizons.map((index) => formatCount(grid.horizons[index]!)).join(', ')} tokens`,
  )
  const cost = sweepCost(grid, budget, setting)
  const short =
    cost < 0.8 * budget.flops
      ? ` (of a budget of ${budget.flops.toExponential(2)}: the text is too short for more)`
      : ''
  context.log(
    `      after searches for learning rate and batch; about ${cost.toExponential(2)} FLOPs in all${short}, ${jobs} runs at a time`,
  )
}

async function checkTarget(
  pool: RunPool,
  { recommendation }: SweepReport,
  results: SweepResults,
): Promise<TargetCheck | undefined> {
  if (recommendation === undefined) {
    throw new ConfigError('sweep: there is no model of that factor to check; give another --factor')
  }
  const result = await pool.run(recommendation.spec)
  if (result === undefined) return undefined
  const { parameters, tokens, loss } = recommendation
  const lowest = Math.min(...results.grid.map((run) => run.loss))
  return { parameters, tokens, predicted: loss.value, measured: result.loss, lowest }
}

async function tell(
  options: Config,
  folder: string,
  all: { grid: SweepGrid; results: SweepResults; report: SweepReport; check: TargetCheck | undefined },
  context: RunContext,
): Promise<void> {
  const { grid, results, report, check } = all
  const view = { columns: context.columns, color: context.hasColor }
  const spent = `${results.runs} runs took ${results.spentFlops.toExponential(2)} FLOPs and ${formatDuration(results.cpuSeconds)} of processor time${results.dropped.length > 0 ? `; the searches left no budget for ${results.dropped.length} of the dearest runs` : ''}`
  const lines = [...describeSweep(report, results, view), ...(check === undefined ? [] : [describeCheck(check)]), spent]
  const pictures = drawSweep(report, results, grid, check)
  const plain = describeSweep(report, results, { columns: 100, color: false })
  await writeContents(join(folder, 'compute.svg'), pictures.compute)
  await writeContents(join(folder, 'tokens.svg'), pictures.tokens)
  const title = `Sweep ${options.out}`
  await writeContents(join(folder, 'report.html'), sweepPage(title, pictures, [...plain, ...lines.slice(plain.length)]))
  const rows = pointsOf(results.grid).map((p) => [p.parameters, p.tokens, p.flops, p.loss].join(','))
  await writeContents(join(folder, 'points.csv'), `${['parameters,tokens,flops,loss', ...rows].join('\n')}\n`)
  const json = {
    grid,
    ...report,
    tuning: results.tuning,
    spentFlops: results.spentFlops,
    cpuSeconds: results.cpuSeconds,
  }
  const checked = check === undefined ? {} : { check: { ...check, ...checkErrors(check) } }
  await writeJson(join(folder, 'report.json'), { ...json, ...checked })
  if (options.json) {
    context.log(JSON.stringify({ ...json, ...checked }, undefined, 2))
    return
  }
  for (const text of lines) context.log(text)
  context.log(
    `report: ${join(options.out, 'report.html')}; points: ${join(options.out, 'points.csv')}, for trainyard plan fit`,
  )
}
