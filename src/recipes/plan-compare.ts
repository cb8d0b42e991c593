// trainyard plan compare: what pretrain predicted of a run, beside what was measured.
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { z } from 'zod'
import { readJsonObject } from '../checkpoint/files.ts'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { ConfigError } from '../core/errors.ts'
import { formatBytes, formatCount, formatDuration, formatPercent } from '../display/format.ts'
import { table } from '../display/text.ts'
import { type Reconciled, reconcile } from '../plan/reconcile.ts'
import { IDLE_LOAD } from '../train/plan-report.ts'
import { readMetrics } from '../train/run-dir.ts'

export default defineRecipe({
  name: 'plan compare',
  summary: 'hold what was predicted of a run against what was measured',
  description:
    'Reads plan.json, which pretrain writes before a run, actual.json, which it writes after, and the metrics. Beside each prediction stands a simple guess, so that it is seen what planning is worth.',
  examples: [
    { command: 'plan compare runs/books', does: 'a table' },
    { command: 'plan compare runs/books --json', does: 'the same for a program' },
  ],
  config: z.object({
    run: field(z.string().min(1), { describe: 'folder of a run of pretrain', example: 'runs/books' }),
    json: field(z.boolean().default(false), { describe: 'print JSON instead of text' }),
  }),
  positional: ['run'],
  async run(options, context) {
    const folder = resolve(context.cwd, options.run)
    const read = (name: string, when: string) => {
      const path = join(folder, name)
      if (existsSync(path)) return readJsonObject(path)
      throw new ConfigError(
        `plan compare: expected a run of pretrain, but ${options.run} has no ${name}, which is written ${when}`,
      )
    }
    const plan = read('plan.json', 'before the first step')
    const actual = read('actual.json', 'when a run ends or is stopped')
    const rows = reconcile(plan, actual, readMetrics(folder))
    if (options.json) context.log(JSON.stringify(rows, null, 2))
    else for (const line of [...lines(rows), ...busyNote(plan)]) context.log(line)
  },
})

function lines(rows: readonly Reconciled[]): string[] {
  const heading = ['', 'predicted', 'measured', 'error', 'a simple guess', 'its error']
  const cells = rows.map((row) => [
    row.name,
    formatQuantity(row.predicted, row.unit),
    formatQuantity(row.measured, row.unit),
    signed(row.error),
    row.guess === undefined ? '-' : row.guess.what,
    row.guess === undefined ? '-' : signed(row.guess.error),
  ])
  return table([heading, ...cells], { hasHeading: true, align: ['left', 'right', 'right', 'right', 'left', 'right'] })
}

/** Estimates of time are of a machine that has nothing else to do. */
function busyNote({ loadAverage: load }: Readonly<Record<string, unknown>>): string[] {
  if (typeof load !== 'number' || load <= IDLE_LOAD) return []
  return [
    `${load.toFixed(1)} other programs computed here when the run was planned: its time is that of a machine with none`,
  ]
}

function formatQuantity(value: number, unit: Reconciled['unit']): string {
  switch (unit) {
    case 'bytes':
      return formatBytes(value)
    case 'seconds':
      return formatDuration(value)
    case 'nats':
      return value.toFixed(3)
    default:
      return formatCount(value)
  }
}

function signed(error: number): string {
  return `${error < 0 ? '' : '+'}${formatPercent(error)}`
}
