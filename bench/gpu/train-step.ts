// Training steps on a GPU beside PyTorch at its best: the same initial weights, the same fresh random tokens every step,
// AdamW (lr 3e-4 or --lr, betas 0.9 and 0.999, decay 0.01 on matrices and embeddings, none on norms and biases), clipping at 1.
// Losses of both, tokens/s (median of the steps after the tenth), memory, model FLOP utilisation.
//   node bench/gpu/train-step.ts 124M-32 1.3B-8 [--variants default,chunked,reduce-overhead,max-autotune] [--steps 50] [--lr 3e-4]
//     [--micro 16] [--recompute none] [--recompute-layers 18] [--precision bf16] [--fp8-scaling tensor] [--python python3] [--torch-only]
//     [--ours-only] [--device cpu]
// A variant of PyTorch takes its compile time; --device cpu is for the tiny shapes, to try the bench itself.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { parseArgs } from 'node:util'
import { randomKey, randomWord } from '../../src/core/random.ts'
import type { Recompute } from '../../src/core/tape.ts'
import { emptyBatch, type HostBatch } from '../../src/data/host-batch.ts'
import { DropoutStreams } from '../../src/models/decoder.ts'
import { Gpt2, type Gpt2Config } from '../../src/models/gpt2.ts'
import { Llama, type LlamaConfig } from '../../src/models/llama.ts'
import { materialize, parameterCount } from '../../src/nn/module.ts'
import { type CudaOptions, openDevice, openMeta } from '../../src/open.ts'
import { adamw } from '../../src/optim/adam.ts'
import { Optimizer } from '../../src/optim/optimizer.ts'
import { planStep } from '../../src/train/plan.ts'
import { TrainStep } from '../../src/train/step.ts'
import { GPU_SHAPES, type GpuShape } from './shapes.ts'

const SEED = 1
const WEIGHT_DECAY = 0.01
/** Dense bf16 peak of an H100 SXM by its data sheet. */
const PEAK_FLOPS = 989e12
const WARMUP_STEPS = 10

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    variants: { type: 'string', default: 'default,chunked' },
    steps: { type: 'string', default: '50' },
    micro: { type: 'string' },
    recompute: { type: 'string' },
    'recompute-layers': { type: 'string' },
    lr: { type: 'string', default: '3e-4' },
    precision: { type: 'string', default: 'bf16' },
    'fp8-scaling': { type: 'string', default: 'tensor' },
    python: { type: 'string', default: 'python3' },
    device: { type: 'string', default: 'cuda' },
    'torch-only': { type: 'boolean', default: false },
    'ours-only': { type: 'boolean', default: false },
    /** Ours, in a process of its own, so that its memory is given back: the shape to time. */
    child: { type: 'string' },
  },
})
const steps = Number(values.steps)
if (!Number.isInteger(steps) || steps < 1) {
  throw new Error(`bench/gpu/train-step: --steps must be a whole number from 1 on, got ${values.steps}`)
}

interface Timing {
  readonly variant: string
  readonly version: string
  readonly error?: string
  readonly losses: number[]
  readonly ms: number[]
  /** Most bytes that tensors held, and what the card says is taken. */
  readonly peakBytes?: number
  readonly cardBytes?: number
  /** From the start of the process to the end of the first step. */
  readonly startSeconds?: number
}

/** The rows of a step as micro-batches: rows of T + 1 random tokens, as torch_step.py makes them. */
function batchesOf(step: number, { config, seqLen, batchSize }: GpuShape, microBatchSize: number): HostBatch[] {
  const key = randomKey(SEED, `bench tokens ${step}`)
  const token = (i: number): number => Math.floor((randomWord(key, i) / 2 ** 32) * config.vocabSize)
  return Array.from({ length: batchSize / microBatchSize }, (_, micro) => {
    const batch = emptyBatch(microBatchSize, seqLen)
    for (let row = 0; row < microBatchSize; row++) {
      const from = (micro * microBatchSize + row) * (seqLen + 1)
      let next = token(from)
      for (let t = 0; t < seqLen; t++) {
        const at = row * seqLen + t
        batch.tokens[at] = next
        next = token(from + t + 1)
        batch.targets[at] = next
        batch.positions[at] = t
      }
    }
    batch.trainedTokens = microBatchSize * seqLen
    return batch
  })
}

function modelOf(config: Gpt2Config | LlamaConfig): Gpt2 | Llama {
  return config.modelType === 'gpt2' ? new Gpt2(config) : new Llama(config)
}

/** As the options say, or the shape. */
function recomputeOf(shape: GpuShape): { recompute: Recompute; recomputeLayers?: number | undefined } {
  const layers = values['recompute-layers']
  if (values.recompute === undefined && layers === undefined) {
    return { recompute: shape.recompute, recomputeLayers: shape.recomputeLayers }
  }
  const recompute = (values.recompute ?? shape.recompute) as Recompute
  return { recompute, recomputeLayers: layers === undefined ? undefined : Number(layers) }
}

async function timeOurs(shape: GpuShape): Promise<Timing> {
  const { config, seqLen, batchSize } = shape
  const microBatchSize = values.micro === undefined ? shape.microBatchSize : Number(values.micro)
  const precision = values.precision as NonNullable<CudaOptions['precision']>
  const fp8Scaling = values['fp8-scaling'] as NonNullable<CudaOptions['fp8Scaling']>
  const device = values.device === 'cpu' ? await openDevice('cpu') : await openDevice('cuda', { precision, fp8Scaling })
  const options = {
    ...recomputeOf(shape),
    dropout: 0,
    streams: new DropoutStreams(SEED),
    hasDocuments: false,
    isWholeStep: microBatchSize === batchSize,
  }
  const micro = { microBatchSize, seqLen }
  const rule = adamw({ weightDecay: WEIGHT_DECAY })
  const plan = planStep(modelOf(config), await openMeta(device), micro, rule, options)
  const model = modelOf(config)
  const optimizer = new Optimizer(materialize(model, device, { seed: SEED }), rule, undefined, options.isWholeStep)
  const trainStep = new TrainStep(model, optimizer, micro, plan, options)
  const batches = Array.from({ length: steps }, (_, step) => batchesOf(step, shape, microBatchSize))
  const losses: number[] = []
  const ms: number[] = []
  let startSeconds = 0
  let lastArrival = performance.now()
  const arrived = async (loss: Promise<number>): Promise<void> => {
    losses.push(await loss)
    const now = performance.now()
    ms.push(now - lastArrival)
    lastArrival = now
  }
  // As PyTorch is timed: a step is launched before the loss of the one before is there, and lasts from loss to loss.
  let arrival = Promise.resolve()
  for (const [i, batch] of batches.entries()) {
    await trainStep.launch(batch, batchSize * seqLen, { lr: Number(values.lr), step: i + 1, gradClip: 1 })
    const next = arrived(trainStep.lastLoss())
    await arrival
    arrival = next
    if (i > 0) continue
    await arrival
    // performance.now() counts from the start of the process.
    startSeconds = performance.now() / 1000
  }
  await arrival
  const layers = options.recomputeLayers === undefined ? '' : ` in ${options.recomputeLayers} layers`
  const recomputed = options.recompute === 'none' ? '' : `, recompute ${options.recompute}${layers}`
  const type = precision === 'fp8' ? `fp8 by ${fp8Scaling}` : precision
  const variant = `trainyard ${type}, ${batchSize / microBatchSize} x ${microBatchSize}${recomputed}`
  const timing = { variant, version: process.versions.node, losses, ms, startSeconds }
  if (!('ownMemory' in device)) return timing
  const { freeBytes, totalBytes } = device.ownMemory()
  return { ...timing, peakBytes: device.peakBytes, cardBytes: totalBytes - freeBytes }
}

/** Runs a program that prints lines of JSON; each is passed on as it comes. */
async function run(command: string, args: readonly string[]): Promise<Timing[]> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.on('data', (chunk) => {
    text += chunk
  })
  const [status] = (await once(child, 'close')) as [number | null]
  const timings = text
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Timing)
  if (timings.length === 0) {
    return [{ variant: command, version: '', losses: [], ms: [], error: `ended with status ${status}` }]
  }
  return timings
}

async function runTorch({ config, seqLen, batchSize }: GpuShape): Promise<Timing[]> {
  const numbers = {
    batch: batchSize,
    seq: seqLen,
    steps,
    seed: SEED,
    lr: values.lr,
    'weight-decay': WEIGHT_DECAY,
  }
  const flags = Object.entries(numbers).flatMap(([name, value]) => [`--${name}`, String(value)])
  const words = ['--config', JSON.stringify(config), '--variants', values.variants, '--device', values.device]
  return await run(values.python, [`${import.meta.dirname}/torch_step.py`, ...words, ...flags])
}

function median(all: readonly number[]): number {
  return [...all].sort((a, b) => a - b)[Math.floor(all.length / 2)]!
}

/** Largest relative difference of means of ten losses. */
function lossDifference(a: readonly number[], b: readonly number[]): number {
  let largest = 0
  for (let from = 0; from + 10 <= Math.min(a.length, b.length); from += 10) {
    const mean = (losses: readonly number[]): number =>
      losses.slice(from, from + 10).reduce((sum, loss) => sum + loss, 0) / 10
    largest = Math.max(largest, Math.abs(mean(a) / mean(b) - 1))
  }
  return largest
}

function report(name: string, shape: GpuShape, timings: readonly Timing[]): void {
  const { config, seqLen, batchSize } = shape
  const model = modelOf(config)
  // The position table is looked up, never multiplied.
  const positions = config.modelType === 'gpt2' ? config.maxPositionEmbeddings * config.hiddenSize : 0
  const trained = parameterCount(model) - positions
  const flopsPerToken = 6 * trained + 12 * config.numHiddenLayers * config.hiddenSize * seqLen
  const gib = (bytes: number | undefined): string => (bytes === undefined ? '-' : (bytes / 2 ** 30).toFixed(1))
  console.log(
    `\n${name}: ${(trained / 1e6).toFixed(1)} M parameters, B ${batchSize}, T ${seqLen}, V ${config.vocabSize}`,
  )
  console.log('| who | ms/step | tok/s | MFU % | peak GiB | card GiB | start s | loss 1, 10, 20 ... |')
  console.log('|---|---|---|---|---|---|---|---|')
  for (const timing of timings) {
    if (timing.error !== undefined) {
      console.log(`| ${timing.variant} | FAIL ${timing.error.replaceAll('\n', ' ')} |`)
      continue
    }
    const ms = median(timing.ms.slice(Math.min(WARMUP_STEPS, timing.ms.length - 1)))
    const tokensPerSecond = (batchSize * seqLen * 1000) / ms
    const losses = timing.losses.filter((_, i) => i === 0 || (i + 1) % 10 === 0).map((loss) => loss.toFixed(4))
    const cells = [
      timing.variant.startsWith('trainyard') ? timing.variant : `torch ${timing.version} ${timing.variant}`,
      ms.toFixed(2),
      tokensPerSecond.toFixed(0),
      ((100 * tokensPerSecond * flopsPerToken) / PEAK_FLOPS).toFixed(1),
      gib(timing.peakBytes),
      gib(timing.cardBytes),
      timing.startSeconds?.toFixed(1) ?? '-',
      losses.join(' '),
    ]
    console.log(`| ${cells.join(' | ')} |`)
  }
  const good = timings.filter(({ error }) => error === undefined)
  const ours = good.find(({ variant }) => variant.startsWith('trainyard'))
  const theirs = good.filter((timing) => timing !== ours)
  if (ours === undefined || theirs.length === 0) return
  const speed = ({ ms }: Timing): number => median(ms.slice(Math.min(WARMUP_STEPS, ms.length - 1)))
  const best = theirs.reduce((a, b) => (speed(a) <= speed(b) ? a : b))
  const apart = Math.max(...ours.losses.map((loss, i) => Math.abs(loss / theirs[0]!.losses[i]! - 1)))
  console.log(
    `${name}: ${(speed(best) / speed(ours)).toFixed(3)} times as fast as torch's best (${best.variant}); means of 10 losses at most ` +
      `${(100 * lossDifference(ours.losses, theirs[0]!.losses)).toFixed(4)} % apart, single losses ${(100 * apart).toFixed(4)} %, losses of step 1 ` +
      `${Math.abs(ours.losses[0]! - theirs[0]!.losses[0]!).toExponential(1)}`,
  )
}

async function compare(name: string): Promise<void> {
  const shape = GPU_SHAPES[name]
  if (shape === undefined) {
    throw new Error(`bench/gpu/train-step: shape must be one of ${Object.keys(GPU_SHAPES).join(', ')}, got ${name}`)
  }
  const timings: Timing[] = []
  if (!values['torch-only']) {
    const words = [import.meta.filename, '--child', name, '--steps', values.steps, '--precision', values.precision]
    words.push('--fp8-scaling', values['fp8-scaling'], '--lr', values.lr)
    const micro = values.micro === undefined ? [] : ['--micro', values.micro]
    const recompute = (['recompute', 'recompute-layers'] as const).flatMap((name) =>
      values[name] === undefined ? [] : [`--${name}`, values[name]],
    )
    timings.push(...(await run(process.execPath, [...words, ...micro, ...recompute, '--device', values.device])))
  }
  if (!values['ours-only']) timings.push(...(await runTorch(shape)))
  for (const timing of timings)
    console.log(JSON.stringify({ shape: name, ...timing, ms: timing.ms.map((ms) => Number(ms.toFixed(2))) }))
  report(name, shape, timings)
}

if (values.child !== undefined) console.log(JSON.stringify(await timeOurs(GPU_SHAPES[values.child]!)))
else for (const name of positionals) await compare(name)
