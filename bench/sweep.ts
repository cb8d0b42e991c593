// Whether sweeps predict: for each seed a sweep of the budget, then a model four times its largest, trained outside of the
// budget, beside the prediction and beside predicting that nothing changes. Interrupted, it goes on with the same command.
//   node bench/sweep.ts [--budget 10m] [--seeds 1,2,3] [--folder runs/sweeps]
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { formatCount, formatDuration } from '../src/display/format.ts'
import { table } from '../src/display/text.ts'

const { values } = parseArgs({
  options: {
    budget: { type: 'string', default: '10m' },
    seeds: { type: 'string', default: '1,2,3' },
    folder: { type: 'string', default: 'runs/sweeps' },
  },
})
const PROGRAM = fileURLToPath(new URL('../tools/trainyard.mjs', import.meta.url))
/** What issue 5 asks for: within 1.5 %, and a third of the error of the trivial predictor. */
const [LARGEST_ERROR, LARGEST_SHARE] = [0.015, 1 / 3]

interface Report {
  check: {
    parameters: number
    tokens: number
    predicted: number
    measured: number
    error: number
    trivialError: number
  }
  fit: { heldOut: { meanError: number; trivialMeanError: number } }
  grid: { sizes: { parameters: number }[] }
  spentFlops: number
  cpuSeconds: number
}

const percent = (value: number): string => `${(100 * value).toFixed(2)} %`
const rows = [
  ['seed', 'largest fitted', 'predicted model', 'tokens', 'predicted', 'measured', 'error', 'no change', ''],
]
for (const seed of values.seeds.split(',')) {
  const out = join(values.folder, `seed-${seed}`)
  const words = ['sweep', '--budget', values.budget, '--seed', seed, '--check', '--out', out]
  const { status } = spawnSync(process.execPath, [PROGRAM, ...words], { stdio: 'inherit' })
  const path = join(out, 'report.json')
  if (status !== 0 || !existsSync(path)) throw new Error(`the sweep of seed ${seed} ended with exit code ${status}`)
  const { check, grid, cpuSeconds, spentFlops } = JSON.parse(readFileSync(path, 'utf8')) as Report
  const { error, trivialError } = check
  const isGood = Math.abs(error) < LARGEST_ERROR && Math.abs(error) < LARGEST_SHARE * Math.abs(trivialError)
  rows.push([
    seed,
    formatCount(grid.sizes.at(-1)!.parameters),
    formatCount(check.parameters),
    formatCount(check.tokens),
    check.predicted.toFixed(4),
    check.measured.toFixed(4),
    percent(error),
    percent(trivialError),
    isGood ? 'ok' : 'MISSED',
  ])
  console.log(
    `seed ${seed}: the sweep took ${spentFlops.toExponential(2)} FLOPs, ${formatDuration(cpuSeconds)} of processor time`,
  )
}
for (const line of table(rows)) console.log(line)
