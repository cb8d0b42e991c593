// trainyard card: the model card of a run, as Markdown and as JSON.
import { existsSync, writeFileSync } from 'node:fs'
import { basename, isAbsolute, join, relative, resolve } from 'node:path'
import { z } from 'zod'
import { readJsonObject } from '../checkpoint/files.ts'
import { readHfConfig } from '../checkpoint/hf-config.ts'
import { findModelFolder } from '../checkpoint/model-folder.ts'
import type { RunContext } from '../config/context.ts'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { ConfigError } from '../core/errors.ts'
import { TokenDataset } from '../data/dataset.ts'
import { ReadReport } from '../data/document.ts'
import { newestDate } from '../data/newest-date.ts'
import { listSourceFiles } from '../data/source-files.ts'
import {
  type CardData,
  type CardInput,
  cardMarkdown,
  type Footprint,
  modelCard,
  trainingSeconds,
} from '../plan/card.ts'
import { footprintAt } from '../plan/cost/cost.ts'
import { readPrices } from '../plan/cost/prices.ts'
import { architectureOf } from '../plan/hf-architecture.ts'
import { readMetrics } from '../train/run-dir.ts'

const config = z.object({
  run: field(z.string().min(1), { describe: 'folder of a run', example: 'runs/books' }),
  license: field(z.string().min(1).optional(), { describe: 'licence of the weights', example: 'apache-2.0' }),
  intendedUse: field(z.string().min(1).optional(), { describe: 'what the model is for', example: 'research' }),
  limitations: field(z.string().min(1).optional(), { describe: 'what it should not be used for', example: 'facts' }),
  knowledgeCutoff: field(
    z
      .string()
      .regex(/^\d{4}(-\d{2}(-\d{2})?)?$/, { error: 'a date such as 2024-05-01', abort: true })
      .refine((date) => !Number.isNaN(Date.parse(date)), 'expected a date that there is, such as 2024-05-01')
      .optional(),
    {
      describe: 'date of the newest document; default: looked up in the JSONL sources that are still there',
      example: '2024-05-01',
    },
  ),
  dateField: field(z.string().min(1).default('date'), {
    describe: 'JSON lines: the field that holds the date of a document',
  }),
  watts: field(z.number().positive().optional(), {
    describe: 'mean power of the machine, where the run could not measure its energy',
    unit: 'watts',
    example: 120,
  }),
  prices: field(z.string().min(1).optional(), {
    describe: 'YAML of sites; default the one that comes along',
    example: 'prices.yaml',
  }),
  site: field(z.string().min(1).default('world'), { describe: 'site of that file: its PUE and grid' }),
  json: field(z.boolean().default(false), { describe: 'print the card as JSON instead of Markdown' }),
})

type Config = z.output<typeof config>

export default defineRecipe({
  name: 'card',
  summary: 'write the model card of a run: data, compute, energy, carbon, evaluation, licence',
  description:
    "Collects what a run's own files say, and writes card.md and card.json into it. The knowledge cutoff is the newest date in the sources of its data, where those are JSON lines with a date; energy is what the run measured, or --watts times its hours. What nobody has said is written as not stated.",
  examples: [
    {
      command: 'card runs/books --license apache-2.0 --intended-use research',
      does: 'what only you know, and the rest',
    },
    {
      command: 'card runs/books --knowledge-cutoff 1922 --watts 90 --site us',
      does: 'with a date and a power that are known',
    },
  ],
  config,
  positional: ['run'],
  async run(options, context) {
    const folder = resolve(context.cwd, options.run)
    const configPath = join(folder, 'config.json')
    if (!existsSync(configPath) || !existsSync(join(folder, 'metrics.jsonl'))) {
      throw new ConfigError(`card: expected a run of pretrain, but ${options.run} has no config.json and metrics.jsonl`)
    }
    const runConfig = readJsonObject(configPath)
    const optional = (name: string) => {
      const path = join(folder, name)
      return existsSync(path) ? readJsonObject(path) : undefined
    }
    const metrics = readMetrics(folder)
    const actual = optional('actual.json')
    const data = dataOf(runConfig.data, context)
    const knowledgeCutoff = await cutoffOf(options, data, context)
    const input: CardInput = {
      name: basename(folder),
      model: architectureOf(readHfConfig(findModelFolder(folder).folder), basename(folder)),
      config: runConfig,
      plan: optional('plan.json'),
      actual,
      metrics,
      data: data === undefined ? undefined : { ...data, sources: data.sources.map((source) => shown(source, context)) },
      knowledgeCutoff,
      license: options.license,
      intendedUse: options.intendedUse,
      limitations: options.limitations,
      footprint: footprintOf(options, runConfig.batchTokens, actual, metrics, context),
    }
    const card = modelCard(input)
    writeFileSync(join(folder, 'card.json'), `${JSON.stringify(card, null, 2)}\n`)
    const markdown = cardMarkdown(card)
    writeFileSync(join(folder, 'card.md'), markdown)
    context.log(options.json ? JSON.stringify(card, null, 2) : markdown)
    context.warn(`written: ${join(options.run, 'card.md')} and card.json`)
  },
})

/** Undefined where the data has been moved or deleted since. */
function dataOf(name: unknown, context: RunContext): CardData | undefined {
  const path = typeof name === 'string' ? join(resolve(context.cwd, name), 'train') : undefined
  if (path === undefined || !existsSync(path)) return undefined
  const { sources, totalTokens, totalDocuments, contentHash, tokenizer } = TokenDataset.open(path).manifest
  return { sources, totalTokens, totalDocuments, contentHash, tokenizerHash: tokenizer.hash }
}

/** A card is made to be published: of a source outside of the working folder only its own name. */
function shown(source: CardData['sources'][number], { cwd }: RunContext): CardData['sources'][number] {
  const path = relative(cwd, resolve(cwd, source.name))
  return { ...source, name: path.startsWith('..') || isAbsolute(path) ? basename(path) : path }
}

async function cutoffOf(
  options: Config,
  data: CardData | undefined,
  { cwd }: RunContext,
): Promise<CardInput['knowledgeCutoff']> {
  const { knowledgeCutoff, dateField } = options
  if (knowledgeCutoff !== undefined) return { date: knowledgeCutoff, from: 'as its maker says' }
  const there = (data?.sources ?? []).map(({ name }) => resolve(cwd, name)).filter((path) => existsSync(path))
  const found = await newestDate(listSourceFiles(there, undefined, new ReadReport()), dateField)
  if (found === undefined) return undefined
  const without = found.undated === 0 ? '' : `, ${found.undated} have none`
  return { date: found.date, from: `newest ${dateField} of ${found.dated} documents${without}` }
}

function footprintOf(
  options: Config,
  batchTokens: unknown,
  actual: Readonly<Record<string, unknown>> | undefined,
  metrics: Parameters<typeof trainingSeconds>[0],
  { cwd }: RunContext,
): Footprint | undefined {
  // Also where no energy is known: a site that is not there is said at once.
  const prices = readPrices(options.prices === undefined ? undefined : resolve(cwd, options.prices))
  const site = prices.site(options.site)
  const seconds = trainingSeconds(metrics, typeof batchTokens === 'number' ? batchTokens : undefined) ?? 0
  const { energyJoulesOfThisSession: joules, secondsOfThisSession: measuredSeconds, energySources } = actual ?? {}
  let kilowattHours: number
  let from: string
  if (options.watts !== undefined) {
    kilowattHours = (options.watts * seconds) / 3.6e6
    from = `${options.watts} W as given, times hours`
  } else if (typeof joules === 'number' && typeof measuredSeconds === 'number' && measuredSeconds > 0) {
    // Other sessions of the run took as much for each of their seconds.
    const share = Math.max(1, seconds / measuredSeconds)
    kilowattHours = (joules * share) / 3.6e6
    from = `measured (${Array.isArray(energySources) ? energySources.join(', ') : 'unnamed'})${share > 1.05 ? ', for all sessions after the last' : ''}`
  } else return undefined
  const { siteKwh, dynamicKg, siteKg } = footprintAt(site, kilowattHours)
  return { kilowattHours, siteKilowattHours: siteKwh, carbonKg: dynamicKg + siteKg, site: site.name, from }
}
