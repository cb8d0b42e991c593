// trainyard plan fit, as a user runs it: a table in, constants with intervals out; what it refuses, it refuses in a sentence.
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { BESIROGLU_2024, computeOptimal } from '../../src/plan/scaling/parametric-law.ts'
import { emptyFolder, trainyard } from '../cli/program.ts'
import { chinchillaRuns } from './scaling-design.ts'

const folder = emptyFolder()
const runs = chinchillaRuns(BESIROGLU_2024, 0.003, 1)
const rows = runs.map((run) => `${run.parameters},${run.flops},${run.loss}`)
writeFileSync(join(folder, 'points.csv'), ['Model Size,Training FLOP,loss', ...rows, '1e9,1e20,9.5'].join('\n'))
const words = ['plan', 'fit', 'points.csv', '--resamples', '100', '--exclude-highest', '1']

test('the fit as JSON: constants, errors, intervals, optimum, held-out error', () => {
  const { status, stdout, stderr } = trainyard([...words, '--budget', '1e22', '--json'], {}, folder)
  assert.equal(status, 0, stderr)
  const json = JSON.parse(stdout) as {
    runs: number
    columns: Record<string, string>
    estimates: Record<string, { value: number; standardError: number; interval: { low: number; high: number } }>
    optima: { parameters: { value: number } }[]
    heldOut: { meanError: number; trivialMeanError: number }
  }
  assert.equal(json.runs, runs.length)
  assert.deepEqual(json.columns, { parameters: 'Model Size', flops: 'Training FLOP', loss: 'loss' })
  for (const [name, { value, standardError, interval }] of Object.entries(json.estimates)) {
    const truth = BESIROGLU_2024[name as keyof typeof BESIROGLU_2024] as number
    assert.ok(Math.abs(value - truth) < 4 * standardError, `${name}: ${value} (${standardError})`)
    assert.ok(interval.low < value && value < interval.high, name)
  }
  const { parameters } = computeOptimal(BESIROGLU_2024, 1e22)
  assert.ok(Math.abs(json.optima[0]!.parameters.value / parameters - 1) < 0.1)
  assert.ok(json.heldOut.meanError < json.heldOut.trivialMeanError / 3)
})

test('the fit as text names its columns, its form and its uncertainty', () => {
  const { status, stdout, stderr } = trainyard(words, {}, folder)
  assert.equal(status, 0, stderr)
  assert.match(
    stdout,
    /points\.csv: \d+ runs \(parameters = Model Size, flops = Training FLOP, loss = loss, without the 1/,
  )
  assert.match(stdout, /\n +estimate +standard error +95 % interval\nE +1\.8/)
  assert.match(stdout, /held out: the \d+ largest runs/)
  assert.match(stdout, /isoFLOP curves, parabola: N grows as C\^0\.5/)
})

test('what cannot be fitted is refused in one sentence', () => {
  const refuse = (more: string[], message: RegExp): void => {
    const { status, stderr } = trainyard(['plan', 'fit', ...more], {}, folder)
    assert.notEqual(status, 0)
    assert.match(stderr, message)
    assert.equal(stderr.trim().split('\n').length, 1, stderr)
  }
  refuse(['none.csv'], /none\.csv cannot be read .*; name a CSV file/)
  writeFileSync(join(folder, 'empty.csv'), '\n')
  refuse(['empty.csv'], /empty\.csv: expected CSV text with .*, got no line at all; add the runs/)
  writeFileSync(join(folder, 'header.csv'), 'n,d,loss\n')
  refuse(['header.csv'], /header\.csv: expected CSV text with .*, got the line "n,d,loss" alone; add the runs/)
  refuse(['points.csv', '--loss', 'lost'], /there is no column lost for loss; its columns are Model Size/)
  refuse(['points.csv', '--exclude-highest', '100000'], /excludeHighest must be below the \d+ runs/)
  writeFileSync(join(folder, 'few.csv'), 'n,d,loss\n1e9,2e10,2.5\n2e9,2e10,2.4\n')
  refuse(['few.csv'], /at least 6 runs of 3 sizes and 3 amounts of tokens, got 2 runs/)
})
