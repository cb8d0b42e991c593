// Pretraining on real text on the CPU and on the card, from the same seed: means of 20 losses must agree within 0.2 % in
// f32, 0.5 % in bf16 and f16. The CPU's losses can be kept in a file, for a machine where its time is dear.
//   node test/gpu/follow-cpu.ts --text FILE [--steps 300] [--precision f32,bf16] [--cpu FILE.json] [--record FILE.json]
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { Device } from '../../src/core/device.ts'
import { TokenDataset } from '../../src/data/dataset.ts'
import { type Document, ReadReport } from '../../src/data/document.ts'
import { prepareData } from '../../src/data/prepare.ts'
import { readDocuments } from '../../src/data/readers.ts'
import { trainTokenizer } from '../../src/data/tokenizer/train.ts'
import { type CudaOptions, openDevice } from '../../src/open.ts'
import { Pretraining } from '../../src/train/pretrain.ts'
import { modelConfig, modelFromDepth, type RunSettings } from '../../src/train/settings.ts'

const { values } = parseArgs({
  options: {
    text: { type: 'string', default: '' },
    steps: { type: 'string', default: '300' },
    precision: { type: 'string', default: 'f32,bf16' },
    /** Losses that an earlier run recorded: the CPU does not train again. */
    cpu: { type: 'string' },
    record: { type: 'string' },
  },
})
const steps = Number(values.steps)
const WINDOW = 20
const ALLOWED = { f32: 0.002, bf16: 0.005, f16: 0.005 } as const

const SETTINGS: RunSettings = {
  model: modelFromDepth(4, 128, { hiddenSize: 128, numAttentionHeads: 2 }),
  seqLen: 128,
  batchTokens: 4096,
  microBatchSize: 16,
  packing: 'packed',
  seed: 7,
  dropout: 0,
  recompute: 'none',
  optimizer: { kind: 'adamw', weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0 },
  schedule: { kind: 'cosine', lr: 2e-3, minLr: 2e-4, warmupSteps: 20, maxSteps: steps, decayFraction: 0.3 },
  gradClip: 1,
}

/** 4096 tokens learned from the text, and the text in them. */
async function prepare(path: string, folder: string): Promise<{ dataset: TokenDataset; vocabSize: number }> {
  const documents: Document[] = []
  for await (const document of readDocuments([path], {}, new ReadReport())) documents.push(document)
  const tokenizer = trainTokenizer(
    documents.map(({ text }) => text),
    { vocabSize: 4096 },
  )
  const { trainDir } = await prepareData({ sources: [{ name: 'text', documents }], tokenizer, outDir: folder })
  return { dataset: TokenDataset.open(trainDir), vocabSize: tokenizer.vocabSize }
}

async function train(device: Device, data: { dataset: TokenDataset; vocabSize: number }, settings: RunSettings) {
  const start = performance.now()
  const config = modelConfig(settings.model, { vocabSize: data.vocabSize })
  const run = await Pretraining.open({
    device,
    settings,
    config,
    dataset: data.dataset,
    tokenizerFiles: {},
    numerics: {},
  })
  const losses: number[] = []
  while (run.stepsDone < steps) losses.push((await run.trainStep()).loss)
  return { losses, seconds: (performance.now() - start) / 1000 }
}

/** Largest relative difference of the means of every 20 steps. */
function largestDeviation(losses: readonly number[], expected: readonly number[]): number {
  let largest = 0
  const mean = (all: readonly number[], from: number): number =>
    all.slice(from, from + WINDOW).reduce((sum, loss) => sum + loss, 0) / WINDOW
  for (let from = 0; from + WINDOW <= expected.length; from += WINDOW) {
    const wanted = mean(expected, from)
    largest = Math.max(largest, Math.abs(mean(losses, from) - wanted) / wanted)
  }
  return largest
}

async function cpuLosses(data: { dataset: TokenDataset; vocabSize: number }): Promise<number[]> {
  if (values.cpu !== undefined) return JSON.parse(readFileSync(values.cpu, 'utf8')) as number[]
  const device = await openDevice('cpu')
  const { losses, seconds } = await train(device, data, SETTINGS)
  console.log(
    `cpu ${device.isa}: loss ${losses[0]!.toFixed(4)} -> ${losses.at(-1)!.toFixed(4)}, ${seconds.toFixed(1)} s`,
  )
  device.close()
  if (values.record !== undefined) writeFileSync(values.record, JSON.stringify(losses))
  return losses
}

async function main(): Promise<void> {
  if (values.text === '' || !existsSync(values.text)) {
    console.log(`skipped: --text must name a file of text to train on, there is no ${values.text || 'such option'}`)
    return
  }
  const folder = mkdtempSync(join(tmpdir(), 'trainyard-follow-'))
  try {
    const data = await prepare(values.text, folder)
    const expected = await cpuLosses(data)
    for (const precision of values.precision.split(',').filter(Boolean) as (keyof typeof ALLOWED)[]) {
      const device = await openDevice('cuda', { precision } satisfies CudaOptions)
      const scaling = precision === 'f16' && { lossScaling: { initialScale: 1024 } }
      const { losses, seconds } = await train(device, data, { ...SETTINGS, ...scaling })
      device.close()
      const deviation = largestDeviation(losses, expected)
      const isClose = deviation <= ALLOWED[precision]
      console.log(
        `${isClose ? 'ok  ' : 'FAIL'} cuda ${precision}: ${steps} steps, loss ${losses.at(-1)!.toFixed(4)} (cpu ${expected.at(-1)!.toFixed(4)}), ` +
          `means of ${WINDOW} steps at most ${(100 * deviation).toFixed(3)} % apart, allowed ${100 * ALLOWED[precision]} %; ${seconds.toFixed(1)} s`,
      )
      if (!isClose) process.exitCode = 1
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

await main()
