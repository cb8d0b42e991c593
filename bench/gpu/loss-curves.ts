// The loss curves of runs as one SVG: training loss as means of a few steps, held-out loss as a dashed line between its
// measurements.
//   node bench/gpu/loss-curves.ts RUN... --out FILE.svg [--title TEXT] [--every 10] [--most LOSS]
import { readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import { type PlotSeries, renderSvgPlot } from '../../src/display/svg-plot.ts'

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

/** Losses that are not above the one given by --most, as points of a plot. */
function drawn(points: readonly Point[]): PlotSeries['points'] {
  return points.filter(({ loss }) => loss <= Number(values.most)).map(({ step, loss }) => ({ x: step, y: loss }))
}

function curvesOf(run: string, color: number): PlotSeries[] {
  const lines = readFileSync(join(run, 'metrics.jsonl'), 'utf8').trim().split('\n')
  const records = lines.map((line) => JSON.parse(line) as Record<string, number>)
  const train = pointsOf(records, 'train/loss')
  const means = Array.from({ length: Math.floor(train.length / every) }, (_, i): Point => {
    const group = train.slice(i * every, (i + 1) * every)
    return { step: group.at(-1)!.step, loss: group.reduce((sum, { loss }) => sum + loss, 0) / every }
  })
  const name = basename(run)
  return [
    { name: `${name}, training`, color, style: 'line', points: drawn(means) },
    { name: `${name}, held out`, color, style: 'dashed', points: drawn(pointsOf(records, 'val/loss')) },
  ]
}

if (positionals.length === 0 || values.out === undefined) {
  throw new Error('loss-curves: expected folders of runs and --out FILE.svg')
}
const xLabel = `optimizer steps, ${every} a point`
const curves = positionals.flatMap((run, i) => curvesOf(run, i))
writeFileSync(values.out, renderSvgPlot(curves, { title: values.title, xLabel, yLabel: 'loss', hasLogX: false }))
