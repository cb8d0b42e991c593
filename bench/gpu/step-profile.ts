// Where a training step's time goes on the card: every kernel of the interface between two events, one step call by call.
// The events are read after the step, so the card works through it as fast as the host can ask, at the clocks of a step.
//   node bench/gpu/step-profile.ts 124M-32 1.3B-8 [--micro 4] [--recompute selective] [--recompute-layers 18]
import { parseArgs } from 'node:util'
import { emptyBatch, type HostBatch } from '../../src/data/host-batch.ts'
import { DropoutStreams } from '../../src/models/decoder.ts'
import { Gpt2 } from '../../src/models/gpt2.ts'
import { Llama } from '../../src/models/llama.ts'
import { materialize } from '../../src/nn/module.ts'
import { openDevice, openMeta } from '../../src/open.ts'
import { adamw } from '../../src/optim/adam.ts'
import { Optimizer } from '../../src/optim/optimizer.ts'
import { planStep } from '../../src/train/plan.ts'
import { TrainStep } from '../../src/train/step.ts'
import { GPU_SHAPES, type GpuShape } from './shapes.ts'

const SEED = 1
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { micro: { type: 'string' }, recompute: { type: 'string' }, 'recompute-layers': { type: 'string' } },
})

function batchesOf({ config, seqLen, batchSize }: GpuShape, microBatchSize: number): HostBatch[] {
  return Array.from({ length: batchSize / microBatchSize }, (_, micro) => {
    const batch = emptyBatch(microBatchSize, seqLen)
    for (let i = 0; i < batch.tokens.length; i++) {
      batch.tokens[i] = ((i + micro) * 7919) % config.vocabSize
      batch.targets[i] = ((i + micro) * 104_729) % config.vocabSize
      batch.positions[i] = i % seqLen
    }
    return batch
  })
}

for (const name of positionals) {
  const shape = GPU_SHAPES[name]!
  const { config, seqLen, batchSize } = shape
  const device = await openDevice('cuda')
  const { driver, stream } = device.runtime
  const modelOf = () => (config.modelType === 'gpt2' ? new Gpt2(config) : new Llama(config))
  const microBatchSize = values.micro === undefined ? shape.microBatchSize : Number(values.micro)
  const recompute = (values.recompute ?? shape.recompute) as 'none' | 'selective' | 'full'
  const layers = values['recompute-layers']
  const recomputeLayers = layers === undefined ? shape.recomputeLayers : Number(layers)
  const isWholeStep = microBatchSize === batchSize
  const options = {
    recompute,
    recomputeLayers,
    dropout: 0,
    streams: new DropoutStreams(SEED),
    hasDocuments: false,
    isWholeStep,
  }
  const micro = { microBatchSize, seqLen }
  const plan = planStep(modelOf(), await openMeta(device), micro, adamw(), options)
  const model = modelOf()
  const optimizer = new Optimizer(materialize(model, device, { seed: SEED }), adamw(), undefined, isWholeStep)
  const batches = batchesOf(shape, microBatchSize)
  const settings = { lr: 1e-4, step: 1, gradClip: 1 }
  const stepOf = () => new TrainStep(model, optimizer, micro, plan, options)
  // The first step compiles, the second chooses algorithms and records; a TrainStep of its own runs call by call again.
  const recorded = stepOf()
  for (let i = 0; i < 4; i++) await recorded.run(batches, batchSize * seqLen, settings)
  const start = performance.now()
  for (let i = 0; i < 10; i++) await recorded.launch(batches, batchSize * seqLen, settings)
  await recorded.lastLoss()
  const recordedMs = (performance.now() - start) / 10
  recorded.close()

  const table = device.kernels as unknown as Record<string, (...args: unknown[]) => unknown>
  const calls: { kernel: string; start: number; end: number }[] = []
  const mark = (): number => {
    const event = driver.integer('cuEventCreate', 0)
    driver.call('cuEventRecord', event, stream)
    return event
  }
  for (const [kernel, call] of Object.entries({ ...table })) {
    table[kernel] = (...args) => {
      const begin = mark()
      const answer = call(...args)
      const end = mark()
      const words = kernel === 'matmul' ? `${describe(args)}: ${device.matmul.lastRoute}` : ''
      calls.push({ kernel: kernel + words, start: begin, end })
      return answer
    }
  }
  const single = stepOf()
  // Twice, because a recorder records the second time a part is run: the second part of a step would be.
  await single.run(batches.slice(0, 1), batchSize * seqLen, settings)
  calls.length = 0
  single.close()
  await stepOf().run(batches, batchSize * seqLen, settings)
  device.runtime.synchronize()

  const between = (from: number, to: number): number => {
    const milliseconds = [0]
    driver.call('cuEventElapsedTime_v2', milliseconds, from, to)
    return milliseconds[0]!
  }
  const times = new Map<string, { calls: number; ms: number }>()
  let sum = 0
  for (const { kernel, start: from, end } of calls) {
    const time = times.get(kernel) ?? { calls: 0, ms: 0 }
    times.set(kernel, time)
    time.calls++
    time.ms += between(from, end)
    sum += between(from, end)
  }
  const whole = between(calls[0]!.start, calls.at(-1)!.end)
  const title = `${name}, ${batches.length} x ${microBatchSize}, recompute ${recompute}`
  console.log(
    `${title}: recorded step ${recordedMs.toFixed(2)} ms; call by call ${whole.toFixed(2)} ms, in kernels ${sum.toFixed(2)} ms`,
  )
  for (const [kernel, { calls: count, ms }] of [...times].sort((a, b) => b[1].ms - a[1].ms)) {
    if (ms > sum / 500) console.log(`  ${ms.toFixed(3).padStart(8)} ms  ${String(count).padStart(4)} x  ${kernel}`)
  }
  device.close()
}

/** ` 32768x2304x768 bias`: M, N, K and the options of a product. */
function describe(args: readonly unknown[]): string {
  const [out, a, , options] = args as [
    { rowCount: number; columnCount: number; dtype: string },
    { rowCount: number; columnCount: number },
    unknown,
    Record<string, unknown>,
  ]
  const inner = options.transposeA ? a.rowCount : a.columnCount
  const names = Object.keys(options).filter((key) => options[key] !== undefined && options[key] !== false)
  return ` ${out.rowCount}x${out.columnCount}x${inner} ${out.dtype} ${names.join(' ')}`
}
