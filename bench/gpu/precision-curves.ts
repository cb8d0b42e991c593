// The same training in every precision, on real text: loss curves, the case that is built to underflow in f16, and what
// becomes of it without masters in f32. Ends with a table and, when all runs are there, a plot.
//   node bench/gpu/precision-curves.ts --data folder [--out folder] [--only "f32+bf16"] [--steps 300] [--plot file.svg]
// The folder is one that `trainyard data prepare` made. Runs that are already in --out are not made again.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { TokenDataset } from '../../src/data/dataset.ts'
import { type PlotSeries, renderSvgPlot } from '../../src/display/svg-plot.ts'
import { type CudaOptions, openDevice } from '../../src/open.ts'
import type { LossScaling } from '../../src/optim/optimizer.ts'
import { Pretraining } from '../../src/train/pretrain.ts'
import { modelConfig, modelFromDepth, type RunSettings } from '../../src/train/settings.ts'

const { values } = parseArgs({
  options: {
    data: { type: 'string' },
    out: { type: 'string', default: 'precision-curves' },
    only: { type: 'string' },
    steps: { type: 'string', default: '300' },
    plot: { type: 'string' },
  },
})
if (values.data === undefined) throw new Error('bench/gpu/precision-curves: --data must be a folder of data prepare')
const steps = Number(values.steps)

const DYNAMIC: LossScaling = {
  initialScale: 65536,
  dynamic: { growthFactor: 2, growthInterval: 1000, backoffFactor: 0.5, hysteresis: 1, minScale: 1 },
}
/** Gradients as they would be with 4096 times as many tokens in a batch: below what f16 holds. */
const UNDERFLOW: LossScaling = { initialScale: 2 ** -12 }

interface Variant {
  readonly color: number
  readonly isDashed?: boolean
  readonly device: Pick<CudaOptions, 'precision' | 'fp8Scaling'>
  readonly lossScaling?: LossScaling
  /** After every step the masters keep only what the working copies hold: training as if there were none. */
  readonly withoutMasters?: boolean
}

const VARIANTS: Readonly<Record<string, Variant>> = {
  f32: { color: 7, device: { precision: 'f32' } },
  bf16: { color: 0, device: { precision: 'bf16' } },
  'f16, dynamic scaling': { color: 2, device: { precision: 'f16' }, lossScaling: DYNAMIC },
  'fp8, scales by tensor': { color: 3, device: { precision: 'fp8' } },
  'fp8, scales by row': { color: 1, device: { precision: 'fp8', fp8Scaling: 'row' } },
  'f16 built to underflow': { color: 2, isDashed: true, device: { precision: 'f16' }, lossScaling: UNDERFLOW },
  'bf16 built to underflow': { color: 0, isDashed: true, device: { precision: 'bf16' }, lossScaling: UNDERFLOW },
  'bf16 without f32 masters': { color: 4, isDashed: true, device: { precision: 'bf16' }, withoutMasters: true },
}

const settings: RunSettings = {
  model: modelFromDepth(4, 512, { hiddenSize: 1024, numAttentionHeads: 16, intermediateSize: 2816 }),
  seqLen: 512,
  batchTokens: 8192,
  microBatchSize: 16,
  packing: 'packed',
  seed: 7,
  dropout: 0,
  recompute: 'none',
  optimizer: { kind: 'adamw', weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0.9 },
  schedule: { kind: 'cosine', lr: 3e-4, minLr: 3e-5, warmupSteps: 30, maxSteps: steps, decayFraction: 0.2 },
  gradClip: 1,
}

interface Result {
  readonly losses: number[]
  /** Of the working weights, how many the last step left as they were, though their gradient was not 0. */
  readonly unmoved?: number
  readonly validation: number
  readonly skippedSteps: number
  readonly seconds: number
}

async function train(variant: Variant): Promise<Result> {
  const device = await openDevice('cuda', variant.device)
  const dataset = TokenDataset.open(join(values.data!, 'train'))
  const config = modelConfig(settings.model, { vocabSize: dataset.manifest.tokenizer.vocabSize })
  const { lossScaling } = variant
  const run = await Pretraining.open({
    device,
    settings: { ...settings, ...(lossScaling && { lossScaling }) },
    config,
    dataset,
    tokenizerFiles: {},
    numerics: {},
  })
  const losses: number[] = []
  let skippedSteps = 0
  const start = performance.now()
  while (run.stepsDone < steps) {
    const report = await run.trainStep()
    losses.push(report.loss)
    skippedSteps = report.skippedSteps
    if (!variant.withoutMasters) continue
    for (const { weights, working } of run.optimizer.arenas) device.kernels.copy(weights, working!)
  }
  const seconds = (performance.now() - start) / 1000
  const unmoved = variant.withoutMasters ? await shareUnmoved(run) : undefined
  const { loss: validation } = await run.evaluate(TokenDataset.open(join(values.data!, 'validation')))
  device.close()
  return { losses, validation, skippedSteps, seconds, ...(unmoved !== undefined && { unmoved }) }
}

/** One more step: the share of the matrices' weights in 16 bits that it does not change. */
async function shareUnmoved(run: Pretraining): Promise<number> {
  const matrices = run.optimizer.arenas.filter(({ key }) => key.optimizerKind === 'matrix')
  const read = async () => await Promise.all(matrices.map(({ working }) => run.device.read(working!)))
  const before = await read()
  await run.trainStep()
  const after = await read()
  const same = after.reduce((sum, values, i) => sum + values.filter((value, j) => value === before[i]![j]).length, 0)
  return same / after.reduce((sum, values) => sum + values.length, 0)
}

mkdirSync(values.out, { recursive: true })
const results = new Map<string, Result>()
for (const [name, variant] of Object.entries(VARIANTS)) {
  const file = join(values.out, `${name.replaceAll(/\W+/g, '-')}.json`)
  if (!existsSync(file)) {
    if (values.only !== undefined && !values.only.split('+').includes(name)) continue
    writeFileSync(file, JSON.stringify(await train(variant)))
  }
  results.set(name, JSON.parse(readFileSync(file, 'utf8')) as Result)
}

const mean = (all: readonly number[]): number => all.reduce((sum, x) => sum + x, 0) / all.length
/** Means of twenty losses. */
const means = (losses: readonly number[]): number[] =>
  Array.from({ length: Math.floor(losses.length / 20) }, (_, i) => mean(losses.slice(20 * i, 20 * i + 20)))

const exact = results.get('f32')
console.log('| run | last 20 losses | validation | furthest from f32 (means of 20) | skipped steps | steps/s |')
console.log('|---|---|---|---|---|---|')
for (const [name, { losses, validation, skippedSteps, seconds, unmoved }] of results) {
  const base = exact && means(exact.losses)
  const furthest = base && Math.max(...means(losses).map((loss, i) => Math.abs(loss / base[i]! - 1)))
  const apart = furthest === undefined ? '-' : `${(100 * furthest).toFixed(2)} %`
  console.log(
    `| ${name} | ${mean(losses.slice(-20)).toFixed(4)} | ${validation.toFixed(4)} | ${apart} | ${skippedSteps} | ${(steps / seconds).toFixed(1)} |`,
  )
  if (unmoved !== undefined) {
    console.log(`${name}: ${(100 * unmoved).toFixed(1)} % of the matrices' weights stay as they are in the step after`)
  }
}
if (values.plot !== undefined) {
  const curves = [...results].map(([name, { losses }]): PlotSeries => {
    const { color, isDashed } = VARIANTS[name]!
    const points = losses.map((_, i) => ({ x: i + 1, y: mean(losses.slice(Math.max(0, i - 9), i + 1)) }))
    return { name, color, style: isDashed ? 'dashed' : 'line', points }
  })
  const title = 'training loss (nats per token, mean of 10 steps)'
  writeFileSync(
    values.plot,
    renderSvgPlot(curves, { title, xLabel: 'step', yLabel: 'loss', hasLogX: false, width: 800 }),
  )
}
