// trainyard bench precision: how large the numbers of a training step are, and which of them narrower floats would lose.
import { join, resolve } from 'node:path'
import { z } from 'zod'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { TokenDataset } from '../data/dataset.ts'
import { exponentBars, exponentRuler } from '../display/exponents.ts'
import { table } from '../display/text.ts'
import { type NumberRange, numberRanges } from '../train/number-ranges.ts'
import { precisionTable } from '../train/precision-table.ts'
import { Pretraining } from '../train/pretrain.ts'
import { modelConfig, modelFromDepth, type RunSettings } from '../train/settings.ts'
import { deviceFields, openChosenDevice } from './device-fields.ts'

const whole = z.number().int().min(1)

/** Exponents that the pictures show. */
const [LOW, HIGH] = [-48, 16]

export default defineRecipe({
  name: 'bench precision',
  summary: 'show how large the numbers of a training step are, and what f16 and fp8 would lose of them',
  description:
    'Trains a model for some steps, then runs one micro-batch call by call and counts the powers of two of everything it makes: activations, gradients, weights. The first table says which type everything has on this device. In the others a line is a tensor of all layers together: a histogram over the exponent, and the shares of its non-zero numbers that become 0 (under) or do not fit (over) in f16 as they are, and in the two fp8 formats with a scale for each tensor.',
  examples: [
    { command: 'bench precision --data data/books --steps 50', does: 'after fifty steps on the CPU' },
    { command: 'bench precision --data data/books --depth 12 --device cuda', does: 'a larger model on a GPU' },
  ],
  config: z.object({
    data: field(z.string().min(1), { describe: 'folder that data prepare made', example: 'data/books' }),
    depth: field(whole.default(2), { describe: 'layers of the model', unit: 'layers' }),
    family: field(z.enum(['llama', 'gpt2']).default('llama'), { describe: 'family of the model' }),
    seqLen: field(whole.default(128), { describe: 'context', unit: 'tokens' }),
    microBatchSize: field(whole.default(8), { describe: 'sequences of a step, which is one micro-batch' }),
    steps: field(z.number().int().min(0).default(20), { describe: 'steps of training before the look', unit: 'steps' }),
    lr: field(z.number().positive().default(1e-3), { describe: 'learning rate of those steps' }),
    seed: field(z.number().int().min(0).default(42), { describe: 'of weights and data order' }),
    json: field(z.boolean().default(false), { describe: 'print one JSON object a line of the table' }),
    ...deviceFields,
  }),
  async run(options, context) {
    const { depth, family, seqLen, microBatchSize, steps, lr, seed } = options
    const dataset = TokenDataset.open(join(resolve(context.cwd, options.data), 'train'))
    const settings: RunSettings = {
      model: modelFromDepth(depth, seqLen, { family }),
      seqLen,
      batchTokens: seqLen * microBatchSize,
      microBatchSize,
      packing: 'packed',
      seed,
      dropout: 0,
      recompute: 'none',
      optimizer: { kind: 'adamw', weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0.95 },
      schedule: { kind: 'constant', lr, minLr: lr, warmupSteps: 10, maxSteps: steps + 1, decayFraction: 0 },
      gradClip: 1,
    }
    const device = await openChosenDevice(options, context.env)
    const config = modelConfig(settings.model, { vocabSize: dataset.manifest.tokenizer.vocabSize })
    const training = await Pretraining.open({ device, settings, config, dataset, tokenizerFiles: {}, numerics: {} })
    let loss: number | undefined
    while (training.stepsDone < steps && !context.signal.aborted) {
      loss = (await training.trainStep(context.turn.bind(context))).loss
    }
    const ranges = await numberRanges(training)
    device.close()
    if (options.json) {
      for (const { counts, first, ...facts } of ranges) {
        const filled = Object.fromEntries([...counts].flatMap((count, i) => (count === 0 ? [] : [[first + i, count]])))
        context.log(JSON.stringify({ ...facts, countsByExponent: filled }))
      }
      return
    }
    const after = loss === undefined ? 'at initialisation' : `after ${steps} steps, loss ${loss.toFixed(4)}`
    context.log(`${family} of ${depth} layers in ${device.floatDtype}, ${after}; shares of non-zero numbers`)
    context.log('')
    for (const line of table(precisionTable(training.step.model, device), { hasHeading: true })) context.log(line)
    const isGradient = ({ name }: NumberRange): boolean => name.startsWith('gradient')
    const isWeight = ({ name }: NumberRange): boolean => name.startsWith('weights')
    const groups = {
      activations: ranges.filter((range) => !isGradient(range) && !isWeight(range)),
      gradients: ranges.filter(isGradient),
      weights: ranges.filter(isWeight),
    }
    for (const [title, group] of Object.entries(groups)) {
      context.log('')
      for (const line of linesOf(title, group)) context.log(line)
    }
  },
})

function linesOf(title: string, ranges: readonly NumberRange[]): string[] {
  const heading = [title, 'powers of two', 'f16 under', 'over', 'e4m3 scaled under', 'e5m2 scaled under']
  const rows = ranges.map((range) => {
    const { lost, lostScaled } = range
    const shares = [lost.f16.under, lost.f16.over, lostScaled.e4m3.under, lostScaled.e5m2.under]
    return [
      range.name.replace(/^gradient of |^weights /, ''),
      exponentBars(range, LOW, HIGH),
      ...shares.map(formatShare),
    ]
  })
  return table([heading, ...rows, ['', exponentRuler(LOW, HIGH), '', '', '', '']], {
    align: ['left', 'left', 'right', 'right', 'right', 'right'],
    hasHeading: true,
  })
}

function formatShare(share: number): string {
  if (share === 0) return '0'
  return share < 1e-4 ? '< 0.01 %' : `${(100 * share).toFixed(2)} %`
}
