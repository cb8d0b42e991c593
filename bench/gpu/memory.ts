// Memory of a training step on a card by component, beside the dry run's prediction, and what recomputation saves and
// costs. A micro-batch of all rows is a whole step: gradients then lie where activations lay. Every row is a process of its
// own: what it takes is what the card's free memory falls by.
//   node bench/gpu/memory.ts 124M-32 1.3B-8 [--recompute none,selective,full] [--steps 8] [--micro 16]
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { parseArgs } from 'node:util'
import { emptyBatch } from '../../src/data/host-batch.ts'
import { DropoutStreams } from '../../src/models/decoder.ts'
import { Gpt2 } from '../../src/models/gpt2.ts'
import { Llama } from '../../src/models/llama.ts'
import { materialize } from '../../src/nn/module.ts'
import { openDevice, openMeta } from '../../src/open.ts'
import { adamw } from '../../src/optim/adam.ts'
import { Optimizer } from '../../src/optim/optimizer.ts'
import { forecastMemory } from '../../src/train/memory.ts'
import { arenaBytes, planStep, totalBytes } from '../../src/train/plan.ts'
import { TrainStep } from '../../src/train/step.ts'
import { GPU_SHAPES, type GpuShape } from './shapes.ts'

const SEED = 1
type Recompute = 'none' | 'selective' | 'full'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    recompute: { type: 'string', default: 'none,selective,full' },
    steps: { type: 'string', default: '8' },
    micro: { type: 'string' },
    /** One row, in a process of its own: the shape. */
    child: { type: 'string' },
  },
})

interface Row {
  readonly recompute: Recompute
  /** Bytes by component: what the dry run says, and what the card's free memory fell by. */
  readonly parts: readonly { readonly name: string; readonly predicted?: number; readonly measured: number }[]
  readonly predictedTotal: number
  readonly measuredTotal: number
  /** Tensors: by the dry run, and as this process allocated them. */
  readonly plannedBytes: number
  readonly allocatedBytes: number
  readonly arenaBytes: number
  readonly ms: number
}

async function measure({ config, seqLen, ...shape }: GpuShape, recompute: Recompute): Promise<Row> {
  const microBatchSize = Number(values.micro ?? shape.microBatchSize)
  const device = await openDevice('cuda')
  const taken = (): number => {
    device.runtime.synchronize()
    const { freeBytes, totalBytes: all } = device.ownMemory()
    return all - freeBytes
  }
  const modelOf = () => (config.modelType === 'gpt2' ? new Gpt2(config) : new Llama(config))
  const isWholeStep = microBatchSize === shape.batchSize
  const options = { recompute, dropout: 0, streams: new DropoutStreams(SEED), hasDocuments: false, isWholeStep }
  const micro = { microBatchSize, seqLen }
  const plan = planStep(modelOf(), await openMeta(device), micro, adamw(), options)
  const forecast = forecastMemory(plan, device, { ...modelOf().shape, ...micro, asyncSave: false }, 0)
  const parts: { name: string; predicted?: number; measured: number }[] = []
  let before = taken()
  parts.push({ name: 'taken when the device is open', measured: before })
  const note = (name: string, predicted?: number): void => {
    const now = taken()
    parts.push({ name, ...(predicted !== undefined && { predicted }), measured: now - before })
    before = now
  }
  device.reserveScratch(forecast.scratchBytes)
  note('scratch of kernels', forecast.scratchBytes)
  const model = modelOf()
  const arenas = materialize(model, device, { seed: SEED })
  note('parameters', plan.parameterBytes)
  const optimizer = new Optimizer(arenas, adamw(), undefined, isWholeStep)
  note('gradients and optimizer', plan.gradientBytes - plan.sharedGradientBytes + plan.optimizerBytes)
  const trainStep = new TrainStep(model, optimizer, micro, plan, options)
  note('activations and inputs', arenaBytes(plan) + plan.otherBytes)
  const batch = emptyBatch(microBatchSize, seqLen)
  for (let i = 0; i < batch.tokens.length; i++) {
    batch.tokens[i] = (i * 7919) % config.vocabSize
    batch.targets[i] = (i * 104_729) % config.vocabSize
    batch.positions[i] = i % seqLen
  }
  const times: number[] = []
  for (let step = 1; step <= Number(values.steps); step++) {
    const start = performance.now()
    await trainStep.run([batch], batch.tokens.length, { lr: 1e-4, step, gradClip: 1 })
    times.push(performance.now() - start)
    if (step === 1) note('first step: code', device.ownLibraryBytes)
    if (step === 2) note('second step: timed products, recordings')
  }
  note('later steps')
  await trainStep.evaluate([batch, batch, batch, batch])
  note('evaluation')
  const { scratchBytes } = device.ownMemory()
  parts.push({ name: '(scratch at the end)', predicted: forecast.scratchBytes, measured: scratchBytes })
  const later = times.slice(3).sort((a, b) => a - b)
  return {
    recompute,
    parts,
    predictedTotal: forecast.ownTotalBytes!,
    measuredTotal: before,
    plannedBytes: totalBytes(plan),
    allocatedBytes: device.allocatedBytes,
    arenaBytes: arenaBytes(plan),
    ms: later[later.length >> 1]!,
  }
}

async function row(name: string, recompute: string): Promise<Row | string> {
  const micro = values.micro === undefined ? [] : ['--micro', values.micro]
  const words = [import.meta.filename, '--child', name, '--recompute', recompute, '--steps', values.steps, ...micro]
  const child = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'pipe'] })
  const text = { out: '', err: '' }
  child.stdout.on('data', (chunk) => {
    text.out += chunk
  })
  child.stderr.on('data', (chunk) => {
    text.err += chunk
  })
  await once(child, 'close')
  const json = text.out.split('\n').find((line) => line.startsWith('{'))
  return json === undefined ? text.err.trim().split('\n').at(-1)! : (JSON.parse(json) as Row)
}

const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(1)

async function report(name: string): Promise<void> {
  const { seqLen, batchSize } = GPU_SHAPES[name]!
  const rows: Row[] = []
  for (const recompute of values.recompute.split(',')) {
    const made = await row(name, recompute)
    if (typeof made === 'string') console.log(`${name} ${recompute}: ${made}`)
    else rows.push(made)
  }
  for (const { recompute, parts, ...total } of rows) {
    console.log(
      `\n${name}, recompute ${recompute}: tensors planned ${total.plannedBytes}, allocated ${total.allocatedBytes} bytes`,
    )
    console.log('| component | predicted MiB | measured MiB |\n|---|---|---|')
    for (const part of parts) {
      console.log(
        `| ${part.name} | ${part.predicted === undefined ? '-' : mib(part.predicted)} | ${mib(part.measured)} |`,
      )
    }
    const error = total.predictedTotal / total.measuredTotal - 1
    console.log(
      `| the card | ${mib(total.predictedTotal)} | ${mib(total.measuredTotal)} (${(100 * error).toFixed(2)} %) |`,
    )
  }
  console.log(
    `\n| ${name}, B ${batchSize}, T ${seqLen} | block of a micro-batch, MiB | tensors, MiB | card, MiB | ms a step | tokens/s |`,
  )
  console.log('|---|---|---|---|---|---|')
  for (const { recompute, arenaBytes, allocatedBytes, measuredTotal, ms } of rows) {
    const tokens = (Number(values.micro ?? GPU_SHAPES[name]!.microBatchSize) * seqLen * 1000) / ms
    console.log(
      `| ${recompute} | ${mib(arenaBytes)} | ${mib(allocatedBytes)} | ${mib(measuredTotal)} | ${ms.toFixed(1)} | ${tokens.toFixed(0)} |`,
    )
  }
}

if (values.child !== undefined) {
  const { child, recompute } = values
  console.log(JSON.stringify(await measure(GPU_SHAPES[child]!, recompute as Recompute)))
} else for (const name of positionals) await report(name)
