// Where a training step's time goes on the card: every kernel of the interface timed with events, one step call by call.
// Sums to more than a recorded step, because nothing overlaps and every call is waited for.
//   node bench/gpu/step-profile.ts 124M-32 1.3B-8 [micro-batch size]
import { emptyBatch } from '../../src/data/host-batch.ts'
import { DropoutStreams } from '../../src/models/decoder.ts'
import { Gpt2 } from '../../src/models/gpt2.ts'
import { Llama } from '../../src/models/llama.ts'
import { materialize } from '../../src/nn/module.ts'
import { openDevice, openMeta } from '../../src/open.ts'
import { adamw } from '../../src/optim/adam.ts'
import { Optimizer } from '../../src/optim/optimizer.ts'
import { planStep } from '../../src/train/plan.ts'
import { TrainStep } from '../../src/train/step.ts'
import { GPU_SHAPES } from './shapes.ts'

const SEED = 1

for (const name of process.argv.slice(2)) {
  const { config, seqLen, microBatchSize } = GPU_SHAPES[name]!
  const device = await openDevice('cuda')
  const modelOf = () => (config.modelType === 'gpt2' ? new Gpt2(config) : new Llama(config))
  const options = { recompute: 'none' as const, dropout: 0, streams: new DropoutStreams(SEED), hasDocuments: false }
  const shape = { microBatchSize, seqLen }
  const plan = planStep(modelOf(), await openMeta(device), shape, adamw(), options)
  const model = modelOf()
  const optimizer = new Optimizer(materialize(model, device, { seed: SEED }), adamw())
  const batch = emptyBatch(microBatchSize, seqLen)
  for (let i = 0; i < batch.tokens.length; i++) {
    batch.tokens[i] = (i * 7919) % config.vocabSize
    batch.targets[i] = (i * 104_729) % config.vocabSize
    batch.positions[i] = i % seqLen
  }
  const settings = { lr: 1e-4, step: 1, gradClip: 1 }
  const stepOf = () => new TrainStep(model, optimizer, shape, plan, options)
  // The first step compiles, the second chooses algorithms and records; a TrainStep of its own runs call by call again.
  const recorded = stepOf()
  for (let i = 0; i < 4; i++) await recorded.run([batch], batch.tokens.length, settings)
  const start = performance.now()
  for (let i = 0; i < 10; i++) await recorded.launch([batch], batch.tokens.length, settings)
  await recorded.lastLoss()
  const recordedMs = (performance.now() - start) / 10
  recorded.close()
  const table = device.kernels as unknown as Record<string, (...args: unknown[]) => void>
  const times = new Map<string, { calls: number; ms: number }>()
  for (const [kernel, call] of Object.entries({ ...table })) {
    table[kernel] = (...args) => {
      const sizes = kernel === 'matmul' ? describe(args) : ''
      const time = times.get(kernel + sizes) ?? { calls: 0, ms: 0 }
      times.set(kernel + sizes, time)
      time.ms += device.runtime.time(() => call(...args))
      time.calls++
    }
  }
  await stepOf().run([batch], batch.tokens.length, settings)
  const total = [...times.values()].reduce((sum, { ms }) => sum + ms, 0)
  console.log(`${name}: recorded step ${recordedMs.toFixed(2)} ms; call by call ${total.toFixed(2)} ms`)
  for (const [kernel, { calls, ms }] of [...times].sort((a, b) => b[1].ms - a[1].ms)) {
    if (ms > total / 500) console.log(`  ${ms.toFixed(3).padStart(8)} ms  ${String(calls).padStart(4)} x  ${kernel}`)
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
