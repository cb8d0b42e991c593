// trainyard plan fit: fits scaling laws to a table of runs, with standard errors, and says what they mean for a budget.
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { z } from 'zod'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { ConfigError, DataError } from '../core/errors.ts'
import { describeFit, reportFit } from '../plan/scaling/fit-report.ts'
import { parsePoints, type RunPoint } from '../plan/scaling/points.ts'
import { ProgressLine } from './progress.ts'

const column = (what: string, example: string) =>
  field(z.string().min(1).optional(), { describe: `column of ${what}; default by its name`, example })

export default defineRecipe({
  name: 'plan fit',
  summary: 'fit a scaling law to the runs of a CSV file, with intervals',
  description:
    'Reads a CSV file with columns for parameters, tokens or FLOPs, and loss, fits L(N, D) = E + A / N^alpha + B / D^beta as Hoffmann et al. 2022 (approach 3) and gives standard errors and 95 % intervals by resampling the runs, as Besiroglu et al. 2024. Where runs share their compute, the isoFLOP optima (approach 2) stand beside it.\n\nThe largest runs are held out once and predicted by a fit of the others: how far the law can be trusted.',
  examples: [
    { command: 'plan fit points.csv', does: 'fit the runs of a table' },
    { command: 'plan fit points.csv --budget 1e21,1e23', does: 'and divide two budgets between parameters and tokens' },
  ],
  config: z.object({
    points: field(z.string().min(1), { describe: 'CSV file of runs, plain or .gz', example: 'points.csv' }),
    parameters: column('parameters', 'Model Size'),
    tokens: column('training tokens', 'tokens'),
    flops: column('training FLOPs', 'Training FLOP'),
    loss: column('the loss, in nats per token', 'loss'),
    budget: field(z.array(z.number().positive()).default([]), {
      describe: 'compute to divide between parameters and tokens',
      unit: 'FLOPs',
      example: 1e21,
    }),
    delta: field(z.number().positive().default(1e-3), {
      describe: 'log residuals above this count by their size, below by their square',
    }),
    equalExponents: field(z.boolean().default(false), {
      describe: 'fit with alpha = beta, as Muennighoff et al. 2023: steadier with few runs',
    }),
    excludeHighest: field(z.number().int().min(0).default(0), {
      describe: 'leave out this many runs of the highest loss',
      unit: 'runs',
    }),
    holdOut: field(z.number().min(0).max(0.9).default(0.1), {
      describe: 'part of the runs, those of most compute, that a second fit leaves out and predicts; 0 for none',
    }),
    resamples: field(z.number().int().min(100).default(4000), { describe: 'bootstrap resamples of the runs' }),
    seed: field(z.number().int().min(0).default(42), { describe: 'of the resamples' }),
    json: field(z.boolean().default(false), { describe: 'print the result as JSON' }),
  }),
  positional: ['points'],
  async run(options, context) {
    const { budget, delta, equalExponents, holdOut, resamples, seed } = options
    const named = { parameters: options.parameters, tokens: options.tokens, flops: options.flops, loss: options.loss }
    const file = parsePoints(readText(resolve(context.cwd, options.points)), named, options.points)
    const points = withoutHighest(file.points, options.excludeHighest)
    const line = new ProgressLine(context, 'fitting resamples')
    const settings = { delta, hasEqualExponents: equalExponents, resamples, seed, holdOut, budgets: budget }
    // Standard output is the result alone when it is JSON.
    const report = await reportFit(points, settings, async (done, all) => {
      if (!options.json) await line.show(() => `${done} of ${all}`)
    })
    line.stop()
    if (options.json) {
      context.log(JSON.stringify({ file: options.points, columns: file.columns, ...report }, undefined, 2))
      return
    }
    const columns = Object.entries(file.columns).map(([quantity, name]) => `${quantity} = ${name}`)
    const left = points.length < file.points.length ? `, without the ${options.excludeHighest} of the highest loss` : ''
    const empty = file.emptyRows > 0 ? `, ${file.emptyRows} rows with empty cells left out` : ''
    context.log(`${options.points}: ${points.length} runs (${columns.join(', ')}${left}${empty})`)
    for (const text of describeFit(report)) context.log(text)
  },
})

function readText(path: string): string {
  let bytes: Buffer
  try {
    bytes = readFileSync(path)
    if (path.endsWith('.gz')) bytes = gunzipSync(bytes)
  } catch (cause) {
    throw new DataError(`plan fit: ${path} cannot be read (${(cause as Error).message}); name a CSV file`, { cause })
  }
  return bytes.toString('utf8')
}

/** In the order of the file. */
function withoutHighest(points: readonly RunPoint[], count: number): readonly RunPoint[] {
  if (count === 0) return points
  if (count >= points.length) {
    throw new ConfigError(`plan fit: excludeHighest must be below the ${points.length} runs of the file, got ${count}`)
  }
  const dropped = new Set([...points].sort((a, b) => b.loss - a.loss).slice(0, count))
  return points.filter((point) => !dropped.has(point))
}
