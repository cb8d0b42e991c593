// Scaling fits against data and results that others published: the isoFLOP runs of Porian et al. 2024 (arXiv:2406.19146,
// formll/resolving-scaling-law-discrepancies) and the over-training runs of Gadre et al. 2024 (arXiv:2403.08540,
// mlfoundations/scaling). The files are not part of the repository; where they are not, these tests skip.
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { gunzipSync } from 'node:zlib'
import { fitIsoflops, isoflopGroups } from '../../src/plan/scaling/isoflop.ts'
import { fitParametric } from '../../src/plan/scaling/parametric-fit.ts'
import { lossOf } from '../../src/plan/scaling/parametric-law.ts'
import { parseCsv, parsePoints, type RunPoint } from '../../src/plan/scaling/points.ts'

const FOLDER = join(import.meta.dirname, '../../../shared/data/scaling')
const skip = existsSync(FOLDER) ? false : '../shared/data/scaling is not here'

const table = (name: string): string[][] => parseCsv(gunzipSync(readFileSync(join(FOLDER, name))).toString('utf8'))

interface PublishedFit {
  dataset: string
  hparams: string
  warmup: string
  decay: string
  param_count: string
  val: string
  fit: { basic: { n_exponent: number; t_exponent: number } }
  optimal: { flops: number; n: number | null; t: number | null; loss: number | null }[]
}

for (const name of ['isoflop-refinedweb', 'isoflop-refinedweb-kaplan-tuned']) {
  test(`${name}: optima and exponents as published`, { skip }, () => {
    const rows = table(`${name}.csv.gz`)
    const fits = JSON.parse(readFileSync(join(FOLDER, `${name}-fits.json`), 'utf8')) as PublishedFit[]
    assert.ok(fits.length > 0)
    for (const published of fits) {
      const { dataset, hparams, warmup, decay, param_count, val, fit, optimal } = published
      const key = [dataset, hparams, warmup, decay, param_count, val].join()
      const mine = rows.filter((row, i) => i === 0 || row.slice(0, 6).join() === key)
      const groups = isoflopGroups(parsePoints(mine.map((row) => row.join()).join('\n')).points)
      const got = fitIsoflops(groups, 'interpolation')
      for (const { flops, n, t, loss } of optimal) {
        const optimum = got.optima.find((one) => Math.abs(one.flops / flops - 1) < 0.05)
        assert.equal(optimum === undefined, n === null, `${key} at ${flops}`)
        if (optimum === undefined) continue
        // They take the lowest of a grid of 1.5 to 2 % steps, and the median of 1000 noisy ones.
        assert.ok(Math.abs(optimum.parameters / n! - 1) < 0.05, `${key} at ${flops}: ${optimum.parameters} and ${n}`)
        assert.ok(Math.abs(optimum.tokens / t! - 1) < 0.05, `${key} at ${flops}: ${optimum.tokens} and ${t}`)
        assert.ok(Math.abs(optimum.loss / loss! - 1) < 2e-3, `${key} at ${flops}: ${optimum.loss} and ${loss}`)
      }
      const { n_exponent, t_exponent } = fit.basic
      assert.ok(Math.abs(got.parameters.exponent - n_exponent) < 0.002, `${key}: ${got.parameters.exponent}`)
      assert.ok(Math.abs(got.tokens.exponent - t_exponent) < 0.002, `${key}: ${got.tokens.exponent}`)
      // Hoffmann et al.'s parabolas see the same, less exactly: curves of seven sizes are no parabolas.
      const parabola = fitIsoflops(groups, 'parabola')
      assert.ok(Math.abs(parabola.parameters.exponent - n_exponent) < 0.035, `${key}: ${parabola.parameters.exponent}`)
    }
  })
}

for (const [trainedOn, validation] of [
  ['c4_original', 'c4_val/'],
  ['rpj', 'c4_val/'],
] as const) {
  test(`over-training runs on ${trainedOn}: the 1.4 B and 6.9 B runs from those below 0.5 B`, { skip }, () => {
    const [header = [], ...rows] = table('overtraining-c4-redpajama.csv.gz')
    const cell = (row: string[], column: string): string => row[header.indexOf(column)]!
    const points = rows
      .filter((row) => cell(row, 'train_set') === trainedOn && cell(row, 'val_set').includes(validation))
      .map((row): RunPoint => {
        const [parameters, tokens] = [Number(cell(row, 'params')), Number(cell(row, 'tokens'))]
        return { parameters, tokens, flops: 6 * parameters * tokens, loss: Number(cell(row, 'loss')) }
      })
    const small = points.filter((point) => point.parameters < 0.5e9)
    const large = points.filter((point) => point.parameters > 1e9)
    assert.ok(small.length >= 30 && large.length === 3, `${small.length} and ${large.length}`)
    const { law } = fitParametric(small, { hasEqualExponents: true })
    const lowest = Math.min(...small.map((point) => point.loss))
    const average = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length
    const error = average(large.map((p) => Math.abs(lossOf(law, p.parameters, p.tokens) / p.loss - 1)))
    const trivial = average(large.map((p) => Math.abs(lowest / p.loss - 1)))
    console.log(
      `${trainedOn}: mean error ${(100 * error).toFixed(2)} %, of predicting no change ${(100 * trivial).toFixed(2)} %`,
    )
    assert.ok(error < 0.025, `mean error ${error}`)
    assert.ok(error < trivial / 3, `mean error ${error}, trivial ${trivial}`)
  })
}
