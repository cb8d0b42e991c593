// Training steps of the three CPU shapes that python3-torch is measured on (GPT-2 blocks, exact GELU, tied head):
// milliseconds, tokens/s and model FLOP/s, (6 P + 12 L d T) a token with the position table left out of P, beside the
// FMA peak measured in the same run.
//   node bench/step.ts [char] [10M] [124M] [--threads 2] [--precision bf16] [--passes 3] [--ops]
// The best of the passes counts: on a shared machine whole seconds run at half speed. --ops prints the time by kernel.
import { parseArgs } from 'node:util'
import type { Kernels } from '../src/core/kernels.ts'
import { emptyBatch } from '../src/data/host-batch.ts'
import { DropoutStreams } from '../src/models/decoder.ts'
import { Gpt2, type Gpt2Config } from '../src/models/gpt2.ts'
import { materialize, parameterCount } from '../src/nn/module.ts'
import { openDevice, openMeta } from '../src/open.ts'
import { adamw } from '../src/optim/adam.ts'
import { Optimizer } from '../src/optim/optimizer.ts'
import { planStep } from '../src/train/plan.ts'
import { TrainStep } from '../src/train/step.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string', default: '2' },
    precision: { type: 'string', default: 'f32' },
    passes: { type: 'string', default: '3' },
    ops: { type: 'boolean', default: false },
  },
})

interface Shape {
  vocabSize: number
  hiddenSize: number
  layers: number
  heads: number
  intermediateSize: number
  seqLen: number
  batchSize: number
  steps: number
}

const shape = (v: number, d: number, l: number, h: number, f: number, t: number, b: number, steps: number): Shape => ({
  vocabSize: v,
  hiddenSize: d,
  layers: l,
  heads: h,
  intermediateSize: f,
  seqLen: t,
  batchSize: b,
  steps,
})
const SHAPES: Record<string, Shape> = {
  char: shape(65, 128, 4, 4, 512, 64, 12, 40),
  '10M': shape(8192, 256, 6, 8, 1024, 256, 8, 6),
  '124M': shape(50304, 768, 12, 12, 3072, 256, 2, 3),
}

const device = await openDevice('cpu', {
  threads: Number(values.threads),
  matmulPrecision: values.precision === 'bf16' ? 'bf16' : 'f32',
})

/** Wraps every kernel with a clock; costs a microsecond a call. */
function timeKernels(kernels: Kernels): Map<string, { ms: number; calls: number }> {
  const times = new Map<string, { ms: number; calls: number }>()
  const table = kernels as unknown as Record<string, (...args: unknown[]) => void>
  for (const [name, kernel] of Object.entries(table)) {
    const time = { ms: 0, calls: 0 }
    times.set(name, time)
    table[name] = (...args) => {
      const start = performance.now()
      kernel(...args)
      time.ms += performance.now() - start
      time.calls++
    }
  }
  return times
}

async function run(name: string, s: Shape): Promise<void> {
  const config: Gpt2Config = {
    modelType: 'gpt2',
    vocabSize: s.vocabSize,
    hiddenSize: s.hiddenSize,
    intermediateSize: s.intermediateSize,
    numHiddenLayers: s.layers,
    numAttentionHeads: s.heads,
    maxPositionEmbeddings: s.seqLen,
    layerNormEps: 1e-5,
    activationFunction: 'gelu',
    initializerRange: 0.02,
  }
  const options = { recompute: 'none' as const, dropout: 0, streams: new DropoutStreams(1) }
  const micro = { microBatchSize: s.batchSize, seqLen: s.seqLen }
  const plan = planStep(new Gpt2(config), await openMeta(device), micro, adamw(), options)
  const model = new Gpt2(config)
  const optimizer = new Optimizer(materialize(model, device, { seed: 1 }), adamw())
  const step = new TrainStep(model, optimizer, micro, plan, options)
  const tokens = s.batchSize * s.seqLen
  const batch = emptyBatch(s.batchSize, s.seqLen)
  for (let i = 0; i < tokens; i++) {
    batch.tokens[i] = Math.floor(Math.random() * s.vocabSize)
    batch.targets[i] = Math.floor(Math.random() * s.vocabSize)
    batch.positions[i] = i % s.seqLen
  }
  const parameters = parameterCount(model) - s.seqLen * s.hiddenSize
  const flops = (6 * parameters + 12 * s.layers * s.hiddenSize * s.seqLen) * tokens
  const times: number[] = []
  let peak = 0
  let n = 0
  const train = async () => {
    const start = performance.now()
    await step.run([batch], tokens, { lr: 3e-4, step: ++n, gradClip: 0 })
    return performance.now() - start
  }
  await train()
  for (let pass = 0; pass < Number(values.passes); pass++) {
    peak = Math.max(peak, device.measurePeakFlops().f32)
    for (let i = 0; i < s.steps; i++) times.push(await train())
  }
  times.sort((a, b) => a - b)
  // The best quarter's median: the machine's undisturbed speed, not one lucky step.
  const ms = times[Math.floor(times.length / 8)]!
  const rate = flops / ms / 1e6
  console.log(
    `${name.padEnd(5)} ${(parameters / 1e6).toFixed(1).padStart(6)} M  ${ms.toFixed(1).padStart(8)} ms/step  ${((tokens / ms) * 1e3).toFixed(0).padStart(7)} tok/s  ${rate.toFixed(0).padStart(5)} GFLOP/s  ${((rate / peak) * 1e11).toFixed(1).padStart(5)} % of ${(peak / 1e9).toFixed(0)}`,
  )
  if (!values.ops) return
  const clock = timeKernels(device.kernels)
  const wall = await train()
  const rows = [...clock].filter(([, t]) => t.calls > 0).sort((a, b) => b[1].ms - a[1].ms)
  const kernels = rows.reduce((sum, [, t]) => sum + t.ms, 0)
  for (const [kernel, { ms: spent, calls }] of rows) {
    console.log(
      `      ${kernel.padEnd(24)} ${spent.toFixed(2).padStart(8)} ms  ${((100 * spent) / wall).toFixed(1).padStart(5)} %  ${calls} calls`,
    )
  }
  console.log(
    `      ${'JavaScript and the rest'.padEnd(24)} ${(wall - kernels).toFixed(2).padStart(8)} ms  ${((100 * (wall - kernels)) / wall).toFixed(1).padStart(5)} %`,
  )
}

console.log(`threads ${device.threads}, ${device.isa}, matmul ${device.matmulPrecision}`)
for (const name of positionals.length > 0 ? positionals : Object.keys(SHAPES)) {
  const chosen = SHAPES[name]
  if (chosen === undefined)
    throw new Error(`bench/step: shape must be one of ${Object.keys(SHAPES).join(', ')}, got ${name}`)
  await run(name, chosen)
}
device.close()
