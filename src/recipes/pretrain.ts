// trainyard pretrain: trains a decoder from random initialisation, or from the weights of another, on token shards.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { z } from 'zod'
import { type HfConfig, readHfConfig } from '../checkpoint/hf-config.ts'
import { findModelFolder } from '../checkpoint/model-folder.ts'
import { CheckpointWriter } from '../checkpoint/writer.ts'
import type { RunContext } from '../config/context.ts'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { ConfigError } from '../core/errors.ts'
import { TokenDataset } from '../data/dataset.ts'
import { formatBytes } from '../display/format.ts'
import type { LossScaling } from '../optim/optimizer.ts'
import { runOutlook } from '../plan/run-outlook.ts'
import { memorySentence } from '../train/memory.ts'
import { describePlan } from '../train/plan-report.ts'
import { Pretraining } from '../train/pretrain.ts'
import { RunDir } from '../train/run-dir.ts'
import { runSession, speedSentence } from '../train/session.ts'
import { type ModelSettings, modelConfig, modelFromDepth, type RunSettings } from '../train/settings.ts'
import { describeLastStep } from '../train/spike.ts'
import { deviceFields, measuredPeakOf, measuredSpeedOf, numericsOf, openChosenDevice } from './device-fields.ts'
import { memoryLimitBytes, memoryLimitField } from './memory-field.ts'

const whole = z.number().int().min(1)
/** As in checkpoints: objects are made for every layer before the run is planned. */
const MAX_LAYERS = 4096
const optionalWhole = (describe: string, max = Number.MAX_SAFE_INTEGER) =>
  field(whole.max(max).optional(), { describe: `${describe}; default from depth` })

const config = z.object({
  data: field(z.string().min(1), { describe: 'folder that data prepare made', example: 'data/books' }),
  out: field(z.string().min(1), { describe: 'folder of the run', example: 'runs/books' }),
  resume: field(z.boolean().default(false), { describe: 'go on from the newest checkpoint of the run' }),
  initFrom: field(z.string().min(1).optional(), {
    describe: 'run or Hugging Face folder whose weights to start from, instead of random ones',
    example: 'models/stories260K',
  }),
  depth: field(whole.max(MAX_LAYERS).default(4), {
    describe: 'the one dial: layers; width, heads and MLP follow',
    unit: 'layers',
  }),
  model: z
    .object({
      family: field(z.enum(['llama', 'gpt2']).default('llama'), { describe: 'architecture' }),
      hiddenSize: optionalWhole('width of the residual stream'),
      intermediateSize: optionalWhole('width of the MLP'),
      numHiddenLayers: optionalWhole('number of layers', MAX_LAYERS),
      numAttentionHeads: optionalWhole('query heads'),
      numKeyValueHeads: optionalWhole('key-value heads'),
      tieWordEmbeddings: field(z.boolean().default(true), { describe: 'share the embedding with the head' }),
    })
    .prefault({}),
  seqLen: field(whole.default(256), { describe: 'context of training', unit: 'tokens' }),
  batchTokens: field(whole.default(8192), { describe: 'global batch of an optimizer step', unit: 'tokens' }),
  microBatchSize: field(whole.default(16), { describe: 'sequences of one forward; less needs less memory' }),
  maxSteps: field(whole.optional(), {
    describe: 'optimizer steps; default from tokensPerParameter',
    unit: 'steps',
    example: 500,
  }),
  epochs: field(z.number().positive().optional(), {
    describe: 'instead of maxSteps: how often to go through the data',
    unit: 'epochs',
    example: 1,
  }),
  tokensPerParameter: field(z.number().positive().default(20), {
    describe: 'tokens to train on for each parameter (Hoffmann et al. 2022)',
    unit: 'tokens',
  }),
  packing: field(z.enum(['packed', 'windows']).default('packed'), {
    describe: 'packed: documents never attend to each other; windows: one stream cut in rows',
  }),
  optimizer: field(z.enum(['adamw', 'adam', 'sgd', 'lion', 'muon']).default('adamw'), { describe: 'update rule' }),
  lr: field(z.number().positive().default(2e-3), { describe: 'highest learning rate' }),
  minLrRatio: field(z.number().min(0).max(1).default(0.1), { describe: 'learning rate at the end, as a part of lr' }),
  schedule: field(z.enum(['cosine', 'linear', 'wsd', 'constant']).default('cosine'), {
    describe: 'shape of the learning rate after the warm-up',
  }),
  warmupSteps: field(z.number().int().min(0).default(20), { describe: 'linear warm-up', unit: 'steps' }),
  decayFraction: field(z.number().min(0).max(1).default(0.3), { describe: 'wsd: last part of the run that decays' }),
  weightDecay: field(z.number().min(0).default(0.1), { describe: 'decay of matrices' }),
  beta1: field(z.number().min(0).max(1).default(0.9), { describe: 'decay of the first moment' }),
  beta2: field(z.number().min(0).max(1).default(0.95), { describe: 'decay of the second moment' }),
  eps: field(z.number().positive().default(1e-8), { describe: 'added to the root of the second moment' }),
  momentum: field(z.number().min(0).max(1).default(0.95), { describe: 'sgd and muon: momentum' }),
  gradClip: field(z.number().min(0).default(1), { describe: 'largest global gradient norm, 0 for none' }),
  dropout: field(z.number().min(0).max(0.9).default(0), {
    describe: 'probability of dropout on embeddings and branches',
  }),
  recompute: field(z.enum(['none', 'selective', 'full']).default('none'), {
    describe: 'activations to forget and compute again: saves memory, costs time',
  }),
  recomputeLayers: field(z.number().int().positive().optional(), {
    describe: 'layers that forget, from the first; all without it',
  }),
  evalEverySteps: field(z.number().int().min(0).default(100), {
    describe: 'validate this often, 0 only at the end',
    unit: 'steps',
  }),
  patience: field(z.number().int().min(0).default(0), {
    describe: 'end the run after so many validations without a lower loss, 0 never; --keep-best 1 keeps the best',
  }),
  evalDocuments: field(whole.default(8), {
    describe: 'documents of a validation during training; the last one takes all',
  }),
  saveEverySteps: field(z.number().int().min(0).default(200), {
    describe: 'checkpoint this often, 0 only at the end',
    unit: 'steps',
  }),
  keepLast: field(whole.default(2), { describe: 'newest checkpoints to keep' }),
  keepBest: field(z.number().int().min(0).default(0), {
    describe:
      'keep these many of the lowest validation loss too, and save at each validation that is one of them; <run>/best names the best',
  }),
  asyncSave: field(z.boolean().default(true), {
    describe: 'write checkpoints while training goes on, from a copy of the state; without, training waits',
  }),
  spikeSigmas: field(z.number().min(0).default(8), {
    describe: 'stop at a loss this many standard deviations above the last 50; 0 only at one that is no number',
  }),
  replay: field(whole.optional(), {
    describe: 'run this step of the run again, from the checkpoint before it, show it, and change nothing',
    example: 120,
  }),
  stopAfterStep: field(z.number().int().min(0).default(0), {
    describe: 'stop after this step with a checkpoint, as Ctrl-C would; 0 never',
    unit: 'steps',
  }),
  seed: field(z.number().int().min(0).default(42), { describe: 'of initialisation, dropout and data order' }),
  ...deviceFields,
  memoryLimit: memoryLimitField('of the process, or with cuda of the card'),
  lossScaling: field(z.enum(['auto', 'none', 'static', 'dynamic']).default('auto'), {
    describe: 'gradients made larger for small floats; auto: dynamic for f16, else none',
  }),
  initialLossScale: field(z.number().positive().default(65536), { describe: 'static: the factor; dynamic: its start' }),
  lossScaleInterval: field(whole.default(1000), {
    describe: 'dynamic: doubled after this many steps without an overflow',
    unit: 'steps',
  }),
  lossScaleHysteresis: field(whole.default(1), { describe: 'dynamic: halved at this many overflows' }),
})

type Config = z.output<typeof config>

/** Keys that may differ when a run goes on: they change neither the data nor the updates. */
const HARMLESS = [
  'resume',
  'replay',
  'spikeSigmas',
  'out',
  'data',
  'stopAfterStep',
  'patience',
  'evalEverySteps',
  'evalDocuments',
  'saveEverySteps',
  'keepLast',
  'keepBest',
  'asyncSave',
  'threads',
  'memoryLimit',
]

export default defineRecipe({
  name: 'pretrain',
  summary: 'train a model on token shards, from scratch or from given weights',
  description:
    'Trains on what `data prepare` made. --depth alone gives a sensible model; everything else can be set apart. The plan (parameters, FLOPs, memory) is printed first, and a run that cannot fit in memory is refused.\n\nCtrl-C finishes the step, writes a checkpoint and says how to go on; a resumed run continues bit for bit.',
  examples: [
    { command: 'pretrain --data data/books --out runs/books --depth 4', does: 'train a model of four layers' },
    { command: 'pretrain --data data/books --out runs/books --depth 4 --resume', does: 'go on with it' },
    {
      command: 'pretrain --data data/tales --init-from models/stories260K --out runs/tales --epochs 1 --lr 1e-4',
      does: 'fine-tune a given model on a new text',
    },
  ],
  config,
  async run(options, context) {
    const path = (name: string): string => resolve(context.cwd, name)
    const data = path(options.data)
    const dataset = TokenDataset.open(join(data, 'train'))
    const validationDir = join(data, 'validation')
    const validation = existsSync(validationDir) ? TokenDataset.open(validationDir) : undefined
    if (options.patience > 0 && (validation === undefined || options.evalEverySteps === 0)) {
      throw new ConfigError(
        `pretrain: patience counts validations during the run: prepare the data with a validation part and set evalEverySteps, or leave patience out`,
      )
    }
    if (options.keepBest > 0 && validation === undefined) {
      throw new ConfigError(
        `pretrain: keepBest goes by the loss on held-out text, but there is no ${validationDir}: prepare the data with a validation part, or leave keepBest out`,
      )
    }
    // A replay writes no checkpoint.
    const asyncSave = options.asyncSave && options.replay === undefined
    const writer = asyncSave ? new CheckpointWriter() : undefined
    const isWriterReady = writer?.start()
    const { bosTokenId, eosTokenId, tokenizer } = dataset.manifest
    const tokens = {
      vocabSize: tokenizer.vocabSize,
      bosTokenId: bosTokenId ?? undefined,
      eosTokenId: eosTokenId ?? undefined,
    }
    const source = options.initFrom === undefined ? undefined : findModelFolder(path(options.initFrom)).folder
    const model = modelSettings(options)
    const hfConfig = source === undefined ? modelConfig(model, tokens) : readHfConfig(source)
    if (hfConfig.vocabSize < tokenizer.vocabSize) {
      throw new ConfigError(
        `pretrain: the data was made with a tokenizer of ${tokenizer.vocabSize} tokens, the model of --init-from has ${hfConfig.vocabSize}: prepare the data with that model's tokenizer`,
      )
    }
    const device = await openChosenDevice(options, context.env)
    const settings = resolveSettings(options, model, stepsOf(options, dataset, hfConfig))
    await isWriterReady
    const training = await Pretraining.open({
      device,
      settings,
      config: hfConfig,
      dataset,
      tokenizerFiles: tokenizerFilesOf(data),
      numerics: numericsOf(device),
      initFrom: source,
      asyncSave,
      memoryLimitBytes: memoryLimitBytes(options.memoryLimit),
    })
    const { replay, ...saved } = options
    const goesOn = options.resume || replay !== undefined
    const { resume: _, replay: __, ...defaults } = config.parse({ data: options.data, out: options.out })
    const run = await RunDir.open(path(options.out), saved, { resume: goesOn, harmless: HARMLESS, defaults })
    if (replay !== undefined) {
      await replayStep(training, run, replay, context)
      return
    }
    if (options.resume) {
      for (const note of await training.resume(run)) context.warn(note)
      context.log(`going on from step ${training.stepsDone}`)
    }
    const peak = measuredPeakOf(device)
    const plan = describePlan(training, settings.schedule.maxSteps, measuredSpeedOf(device, peak))
    const { parameterCount } = training.plan
    const outlook = runOutlook({
      config: hfConfig,
      parameterCount,
      tokens: settings.schedule.maxSteps * settings.batchTokens,
      isFromScratch: source === undefined,
    })
    for (const line of [...plan.lines, ...outlook.lines]) context.log(line)
    await run.writePlan({ ...plan.json, ...outlook.json })
    const result = await runSession(training, context, {
      run,
      title: `pretrain ${options.out}`,
      maxSteps: settings.schedule.maxSteps,
      stopAfterStep: options.stopAfterStep,
      evalFirst: source !== undefined,
      spikeSigmas: options.spikeSigmas,
      patience: options.patience,
      evalEverySteps: options.evalEverySteps,
      saveEverySteps: options.saveEverySteps,
      keepLast: options.keepLast,
      keepBest: options.keepBest,
      writer,
      validation,
      evalDocuments:
        validation && Array.from({ length: Math.min(options.evalDocuments, validation.documentCount) }, (_, i) => i),
      peak,
      hint: 'Ctrl-C: checkpoint and stop',
    })
    if (!result.isFinished) {
      context.log(
        `stopped after step ${training.stepsDone} with a checkpoint; go on with: trainyard pretrain ... --resume`,
      )
      return
    }
    if (training.stepsDone < settings.schedule.maxSteps) {
      context.log(
        `ended after step ${training.stepsDone}: the validation loss has not fallen in ${options.patience} validations`,
      )
    }
    const { evaluation, firstEvaluation } = result
    if (evaluation !== undefined) {
      const before =
        firstEvaluation &&
        ` (before training ${firstEvaluation.loss.toFixed(4)} and ${firstEvaluation.bitsPerByte.toFixed(4)})`
      context.log(
        `validation: loss ${evaluation.loss.toFixed(4)} nats per token, ${evaluation.bitsPerByte.toFixed(4)} bits per byte over ${formatBytes(evaluation.bytes)}${before ?? ''}`,
      )
    }
    if (result.seconds > 0) {
      context.log(speedSentence(result))
      context.log(memorySentence(training.memory, result.peakAnonymousBytes, result.peakOwn))
    }
    context.log(`the model is in ${options.out}; talk to it with: trainyard generate ${options.out} --prompt "..."`)
  },
})

function modelSettings({ model, depth, seqLen }: Config): ModelSettings {
  const given = Object.fromEntries(Object.entries(model).filter(([, value]) => value !== undefined))
  return modelFromDepth(depth, seqLen, given)
}

/** Trains up to a step from the checkpoint before it and shows that step; writes only spikes/step-N.json. */
async function replayStep(training: Pretraining, run: RunDir, step: number, context: RunContext): Promise<void> {
  for (const note of await training.resume(run, { below: step })) context.warn(note)
  context.log(`replaying step ${step} from step ${training.stepsDone}`)
  let report = await training.trainStep(context.turn.bind(context))
  while (report.step < step && !context.signal.aborted) report = await training.trainStep(context.turn.bind(context))
  if (report.step < step) return
  const path = await run.writeSpike(step, await describeLastStep(training, report, 'replayed'))
  const before = run.metrics().findLast((record) => record.step === step && 'train/loss' in record)?.['train/loss']
  // JSON has null for a loss that is no number.
  const isSame = before === (Number.isFinite(report.loss) ? report.loss : null)
  const same = before === undefined ? '' : isSame ? ', as it was' : `, but it was ${before}`
  context.log(
    `step ${step}: loss ${report.loss}${same}; gradient norm ${report.gradNorm}; documents and norms in ${path}`,
  )
}

/** Length of the run: as given, a number of epochs, or tokens in proportion to the parameters. */
function stepsOf(options: Config, dataset: TokenDataset, config: HfConfig): number {
  const { maxSteps, epochs, batchTokens } = options
  if (maxSteps !== undefined && epochs !== undefined) {
    throw new ConfigError('pretrain: expected maxSteps or epochs, got both; leave one out')
  }
  if (maxSteps !== undefined) return maxSteps
  if (epochs !== undefined) return Math.max(1, Math.round((epochs * dataset.totalTokens) / batchTokens))
  return Math.max(1, Math.round((options.tokensPerParameter * parameterEstimate(config)) / batchTokens))
}

function resolveSettings(options: Config, model: ModelSettings, maxSteps: number): RunSettings {
  const { seqLen, batchTokens, microBatchSize, packing, seed, dropout, recompute, gradClip, lr } = options
  const lossScaling = lossScalingOf(options)
  const { recomputeLayers } = options
  if (recomputeLayers !== undefined && recompute === 'none') {
    throw new ConfigError(
      `pretrain: recomputeLayers ${recomputeLayers} needs recompute selective or full, got none: add --recompute selective`,
    )
  }
  return {
    ...(lossScaling && { lossScaling }),
    ...(recomputeLayers !== undefined && { recomputeLayers }),
    model,
    seqLen,
    batchTokens,
    microBatchSize,
    packing,
    seed,
    dropout,
    recompute,
    gradClip,
    optimizer: {
      kind: options.optimizer,
      weightDecay: options.weightDecay,
      beta1: options.beta1,
      beta2: options.beta2,
      eps: options.eps,
      momentum: options.momentum,
    },
    schedule: {
      kind: options.schedule,
      lr,
      minLr: lr * options.minLrRatio,
      warmupSteps: options.warmupSteps,
      maxSteps,
      decayFraction: options.decayFraction,
    },
  }
}

/** f16 ends at 6e-8, where many gradients begin; other types need no scaling. */
function lossScalingOf(options: Config): LossScaling | undefined {
  const isHalf = options.device !== 'cpu' && options.precision === 'f16'
  const kind = options.lossScaling === 'auto' ? (isHalf ? 'dynamic' : 'none') : options.lossScaling
  if (kind === 'none') return undefined
  const { initialLossScale: initialScale, lossScaleInterval, lossScaleHysteresis: hysteresis } = options
  if (kind === 'static') return { initialScale }
  const dynamic = { growthFactor: 2, growthInterval: lossScaleInterval, backoffFactor: 0.5, hysteresis, minScale: 1 }
  return { initialScale, dynamic }
}

/** Matrices of the layers and the embedding: what the horizon is a multiple of. */
function parameterEstimate(config: HfConfig): number {
  const { hiddenSize: width, numHiddenLayers, vocabSize, intermediateSize } = config
  const mlp = config.modelType === 'llama' ? 3 : 2
  return vocabSize * width + numHiddenLayers * (4 * width * width + mlp * width * intermediateSize)
}

/** The tokenizer that `data prepare` left beside the shards, to travel with every checkpoint. */
function tokenizerFilesOf(data: string): Record<string, string> {
  const folder = join(data, 'tokenizer')
  if (!existsSync(folder)) return {}
  return Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name), 'utf8')]))
}
