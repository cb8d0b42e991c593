// The model card of a run (Mitchell et al. 2019, arXiv:1810.03993): what the model is, what it was trained on and with, what
// that took, how good it is, and what it may be used for. Facts of the run's own files; what a person must say is asked for.
import { formatBytes, formatCount, formatDuration } from '../display/format.ts'
import { type Architecture, countParameters } from './architecture.ts'
import { formatEnergy, formatMass } from './cost/cost.ts'

type Json = Readonly<Record<string, unknown>>

/** Date of the newest document, ISO 8601, and how it is known. */
export interface KnowledgeCutoff {
  readonly date: string
  readonly from: string
}

export interface CardInput {
  readonly name: string
  readonly model: Architecture
  /** Of the run's folder. */
  readonly config: Json
  readonly plan: Json | undefined
  readonly actual: Json | undefined
  readonly metrics: readonly Json[]
  readonly data: CardData | undefined
  readonly knowledgeCutoff: KnowledgeCutoff | undefined
  readonly license: string | undefined
  readonly intendedUse: string | undefined
  readonly limitations: string | undefined
  /** From kilowatt-hours and hours of this run; undefined where no energy is known. */
  readonly footprint: Footprint | undefined
}

export interface CardData {
  readonly sources: readonly {
    readonly name: string
    readonly documents: number
    readonly tokens: number
    readonly textBytes: number
  }[]
  readonly totalTokens: number
  readonly totalDocuments: number
  readonly contentHash: string
  readonly tokenizerHash: string
}

export interface Footprint {
  readonly kilowattHours: number
  readonly siteKilowattHours: number
  readonly carbonKg: number
  readonly site: string
  /** 'measured (package-0, dram)' or 'watts x hours'. */
  readonly from: string
}

export interface Card {
  readonly name: string
  readonly license: string | null
  readonly intendedUse: string | null
  readonly limitations: string | null
  readonly model: { readonly parameters: number; readonly architecture: Architecture }
  readonly knowledgeCutoff: KnowledgeCutoff | null
  /** Null where the data is not there any more. */
  readonly data: CardData | null
  readonly training: {
    readonly tokens: number | null
    readonly steps: number | null
    readonly options: Json
  }
  readonly compute: { readonly flops: number | null; readonly seconds: number | null; readonly device: string }
  readonly energy: Footprint | null
  readonly evaluation: Json | null
}

export function modelCard(input: CardInput): Card {
  const { actual, plan, config, data, knowledgeCutoff, metrics } = input
  const steps = numberOf(actual, 'steps') ?? numberOf(metrics.at(-1), 'step')
  const flopsPerStep = numberOf(plan, 'flopsPerStep')
  const batchTokens = numberOf(config, 'batchTokens')
  // A run that has not ended says nothing of its tokens itself.
  const tokens =
    numberOf(actual, 'tokens') ?? (steps === undefined || batchTokens === undefined ? undefined : steps * batchTokens)
  const seconds = trainingSeconds(metrics, batchTokens) ?? numberOf(actual, 'secondsOfThisSession')
  const evaluation = actual?.evaluation
  return {
    name: input.name,
    license: input.license ?? null,
    intendedUse: input.intendedUse ?? null,
    limitations: input.limitations ?? null,
    model: { parameters: countParameters(input.model).total, architecture: input.model },
    knowledgeCutoff: knowledgeCutoff ?? null,
    data: data ?? null,
    training: { tokens: tokens ?? null, steps: steps ?? null, options: config },
    compute: {
      flops: flopsPerStep === undefined || steps === undefined ? null : flopsPerStep * steps,
      seconds: seconds ?? null,
      device: String(config.device ?? 'cpu'),
    },
    energy: input.footprint ?? null,
    evaluation: typeof evaluation === 'object' && evaluation !== null ? (evaluation as Json) : null,
  }
}

function numberOf(record: Json | undefined, key: string): number | undefined {
  const value = record?.[key]
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined
}

/** Seconds of all steps, over all sessions of a run. */
export function trainingSeconds(metrics: readonly Json[], batchTokens: number | undefined): number | undefined {
  if (batchTokens === undefined) return undefined
  const speeds = metrics
    .map((record) => numberOf(record, 'perf/tokensPerSecond'))
    .filter((speed) => speed !== undefined)
  return speeds.length === 0 ? undefined : speeds.reduce((total, speed) => total + batchTokens / speed, 0)
}

const UNKNOWN = 'not stated'

export function cardMarkdown(card: Card): string {
  const { model, data, knowledgeCutoff, training, compute, energy, evaluation } = card
  const { architecture } = model
  const option = (key: string): string => String(training.options[key] ?? '-')
  return [
    '---',
    `license: ${card.license ?? 'unknown'}`,
    'library_name: transformers',
    'pipeline_tag: text-generation',
    '---',
    `# ${card.name}`,
    '',
    `A language model of ${formatCount(model.parameters)} parameters, trained with Trainyard.`,
    '',
    '## Use',
    '',
    row('Licence', card.license ?? UNKNOWN),
    row('Intended use', card.intendedUse ?? UNKNOWN),
    row('Limitations', card.limitations ?? UNKNOWN),
    '',
    '## Model',
    '',
    row(
      'Layers, width, heads',
      `${architecture.numHiddenLayers}, ${architecture.hiddenSize}, ${architecture.numAttentionHeads} (${architecture.numKeyValueHeads} of keys and values)`,
    ),
    row('Context', `${architecture.maxPositionEmbeddings} tokens`),
    row('Vocabulary', `${architecture.vocabSize} tokens`),
    '',
    '## Data',
    '',
    row('Knowledge cutoff', knowledgeCutoff === null ? UNKNOWN : `${knowledgeCutoff.date} (${knowledgeCutoff.from})`),
    ...(data === null
      ? [row('Documents', `${UNKNOWN}: the folder of the data is not there any more`)]
      : dataLines(data)),
    '',
    '## Training',
    '',
    row('Tokens', training.tokens === null ? UNKNOWN : `${formatCount(training.tokens)} in ${training.steps} steps`),
    row('Batch, context', `${option('batchTokens')} and ${option('seqLen')} tokens`),
    row(
      'Optimizer',
      `${option('optimizer')}, learning rate ${option('lr')} (${option('schedule')}), weight decay ${option('weightDecay')}`,
    ),
    row('Seed', option('seed')),
    row(
      'Compute',
      compute.flops === null
        ? UNKNOWN
        : `${compute.flops.toExponential(2).replace('e+', 'e')} FLOPs on ${compute.device}`,
    ),
    row('Time', compute.seconds === null ? UNKNOWN : formatDuration(compute.seconds)),
    ...energyLines(energy),
    '',
    '## Evaluation',
    '',
    ...(evaluation === null ? ['None: the run has no held-out text, or has not ended.'] : evaluationLines(evaluation)),
    '',
  ].join('\n')
}

function row(name: string, text: string): string {
  return `- **${name}**: ${text}`
}

function dataLines(data: NonNullable<Card['data']>): string[] {
  return [
    row('Documents', `${formatCount(data.totalDocuments)}, ${formatCount(data.totalTokens)} tokens`),
    row('Content hash', `\`${data.contentHash}\``),
    row('Tokenizer hash', `\`${data.tokenizerHash}\``),
    '',
    '| source | documents | tokens | text |',
    '|---|---|---|---|',
    ...data.sources.map(
      ({ name, documents, tokens, textBytes }) =>
        `| ${name.replaceAll('|', '\\|')} | ${formatCount(documents)} | ${formatCount(tokens)} | ${formatBytes(textBytes)} |`,
    ),
  ]
}

function energyLines(energy: Card['energy']): string[] {
  if (energy === null) return [row('Energy, carbon', 'unknown: nothing was measured, and no watts were given')]
  const { kilowattHours, siteKilowattHours, carbonKg, site, from } = energy
  return [
    row('Energy', `${formatEnergy(kilowattHours)}, ${from}; with the site ${formatEnergy(siteKilowattHours)}`),
    row('Carbon', `${formatMass(carbonKg)} CO2eq at site ${site}`),
  ]
}

function evaluationLines(evaluation: Json): string[] {
  const [loss, bits, bytes] = ['loss', 'bitsPerByte', 'bytes'].map((key) => numberOf(evaluation, key))
  if (loss === undefined) return ['None that can be read.']
  const perByte = bits === undefined ? '' : `, ${bits.toFixed(4)} bits per byte`
  const over = bytes === undefined ? '' : ` over ${formatBytes(bytes)}`
  return [row('Held-out text', `${loss.toFixed(4)} nats per token${perByte}${over}`)]
}
