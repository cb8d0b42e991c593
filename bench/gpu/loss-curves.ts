// The loss curves of runs as one SVG: training loss as means of a few steps, held-out loss as a dashed line between its
// measurements.
//   node bench/gpu/loss-curves.ts RUN... --out FILE.svg [--title TEXT] [--every 10] [--most LOSS]
import { readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import { type Curve, curvesSvg } from './svg-curves.ts'

const COLORS = ['#3b82f6', '#e8590c', '#2b8a3e', '#9c36b5']

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: 'string' },
    title: { type: 'string', default: 'loss, nats per token' },
    /** Steps that one point of the training curve is the mean of. */
    every: { type: 'string', default: '10' },
    /** Losses above this one are left out: the first ones would press the rest flat. */
    most: { type: 'string', default: 'Infinity' },
  },
})
const every = Number(values.every)

interface Point {
  readonly step: number
  readonly loss: number
}

function pointsOf(records: readonly Record<string, number>[], key: string): Point[] {
  return records.flatMap((record) => {
    const [step, loss] = [record.step, record[key]]
    return step !== undefined && loss !== undefined ? [{ step, loss }] : []
  })
}

/** The loss at the end of each group of steps, on straight lines between the points; NaN outside of them. */
function between(points: readonly Point[], count: number): number[] {
  return Array.from({ length: count }, (_, i) => {
    const step = (i + 1) * every
    const next = points.findIndex((point) => point.step >= step)
    const [a, b] = [points[next - 1], points[next]]
    if (b === undefined) return Number.NaN
    if (b.step === step || a === undefined) return b.step === step ? b.loss : Number.NaN
    return a.loss + ((b.loss - a.loss) * (step - a.step)) / (b.step - a.step)
  })
}

function curvesOf(run: string, color: string): Curve[] {
  const lines = readFileSync(join(run, 'metrics.jsonl'), 'utf8').trim().split('\n')
  const records = lines.map((line) => JSON.parse(line) as Record<string, number>)
  const train = pointsOf(records, 'train/loss')
  const means = Array.from({ length: Math.floor(train.length / every) }, (_, i) => {
    const group = train.slice(i * every, (i + 1) * every)
    return group.reduce((sum, { loss }) => sum + loss, 0) / every
  })
  const name = basename(run)
  const heldOut = between(pointsOf(records, 'val/loss'), means.length)
  return [
    { name: `${name}, training`, color, values: means },
    { name: `${name}, held out`, color, isDashed: true, values: heldOut },
  ]
}

if (positionals.length === 0 || values.out === undefined) {
  throw new Error('loss-curves: expected folders of runs and --out FILE.svg')
}
const curves = positionals.flatMap((run, i) => curvesOf(run, COLORS[i % COLORS.length]!))
writeFileSync(values.out, curvesSvg(values.title, `optimizer steps, ${every} a point`, curves, Number(values.most)))
