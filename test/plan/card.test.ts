// `card` on a run that was just made, and the newest date of JSON lines.
import assert from 'node:assert/strict'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { newestDate } from '../../src/data/newest-date.ts'
import { type Card, trainingSeconds } from '../../src/plan/card.ts'
import { emptyFolder, trainyard } from '../cli/program.ts'

function lines(count: number, date: (index: number) => unknown): string {
  const record = (index: number) => ({
    text: `The whale of number ${index} swims in the sea. `.repeat(12),
    date: date(index),
  })
  return Array.from({ length: count }, (_, index) => `${JSON.stringify(record(index))}\n`).join('')
}

test('card collects a run: data, newest document, compute, energy, evaluation, and what only its maker knows', () => {
  const folder = emptyFolder()
  const ok = (words: string[]) => {
    const answer = trainyard(words, {}, folder)
    assert.equal(answer.status, 0, answer.stderr)
    return answer
  }
  writeFileSync(
    join(folder, 'docs.jsonl'),
    lines(120, (index) => `19${10 + (index % 13)}-05-${10 + (index % 9)}`),
  )
  ok(['data', 'prepare', 'docs.jsonl', '--out', 'data', '--train-tokenizer', '280', '--validation-fraction', '0.1'])
  ok([
    'pretrain',
    '--data',
    'data',
    '--out',
    'run',
    '--depth',
    '1',
    '--max-steps',
    '4',
    '--seq-len',
    '64',
    '--batch-tokens',
    '1024',
  ])
  const { stdout } = ok([
    'card',
    'run',
    '--license',
    'mit',
    '--watts',
    '100',
    '--site',
    'us',
    '--intended-use',
    'tests',
  ])
  const card = JSON.parse(readFileSync(join(folder, 'run/card.json'), 'utf8')) as Card
  assert.equal(readFileSync(join(folder, 'run/card.md'), 'utf8').trim(), stdout.trim())
  assert.deepEqual([card.license, card.intendedUse, card.limitations], ['mit', 'tests', null])
  assert.equal(card.knowledgeCutoff?.date, '1922-05-18')
  assert.equal(card.training.tokens, 4 * 1024)
  const plan = JSON.parse(readFileSync(join(folder, 'run/plan.json'), 'utf8'))
  assert.equal(card.model.parameters, plan.parameterCount)
  assert.equal(card.compute.flops, 4 * plan.flopsPerStep)
  const hours = card.compute.seconds! / 3600
  assert.ok(Math.abs(card.energy!.kilowattHours / (0.1 * hours) - 1) < 1e-9)
  assert.ok(Math.abs(card.energy!.carbonKg / (0.1 * hours * 1.1 * 0.385) - 1) < 1e-9)
  assert.ok(Number(card.evaluation?.loss) > 0)
  for (const part of [
    /license: mit/,
    /\*\*Limitations\*\*: not stated/,
    /1922-05-18 \(newest date of 120 documents\)/,
  ]) {
    assert.match(stdout, part)
  }
  const given = JSON.parse(ok(['card', 'run', '--knowledge-cutoff', '1950', '--json']).stdout) as Card
  assert.deepEqual(given.knowledgeCutoff, { date: '1950', from: 'as its maker says' })
  // A published card says no path of this machine.
  assert.deepEqual(
    card.data?.sources.map(({ name }) => name),
    ['docs.jsonl'],
  )
  // A run that has not ended, and whose data is gone, says what is still known.
  rmSync(join(folder, 'data'), { recursive: true })
  rmSync(join(folder, 'run/actual.json'))
  const rest = JSON.parse(ok(['card', 'run', '--knowledge-cutoff', '1950', '--json']).stdout) as Card
  assert.deepEqual([rest.data, rest.knowledgeCutoff?.date, rest.training.tokens], [null, '1950', 4 * 1024])
  assert.match(trainyard(['card', 'metrics'], {}, folder).stderr, /expected a run of pretrain/)
  for (const wrong of ['May', '1950-13-01']) {
    assert.match(trainyard(['card', 'run', '--knowledge-cutoff', wrong], {}, folder).stderr, /2024-05-01/)
  }
  assert.match(trainyard(['card', 'run', '--watts', '9', '--site', 'mars'], {}, folder).stderr, /expected a site/)
})

test('newest date: texts, seconds and milliseconds; what is no date is counted', async () => {
  const folder = emptyFolder()
  const write = (name: string, text: string | Buffer) => {
    writeFileSync(join(folder, name), text)
    return { path: join(folder, name), format: 'jsonl' } as const
  }
  const texts = write(
    'a.jsonl',
    `${lines(3, (index) => ['2020-02-03T10:00:00Z', 'yesterday', '2019'][index])}{"broken\n`,
  )
  assert.deepEqual(await newestDate([texts], 'date'), { date: '2020-02-03', dated: 2, undated: 2 })
  const numbers = write('b.jsonl.gz', gzipSync(lines(2, (index) => [1700000000, 1600000000000][index]).trimEnd()))
  assert.deepEqual(await newestDate([numbers, texts], 'date'), { date: '2023-11-14', dated: 4, undated: 2 })
  assert.equal(await newestDate([texts], 'published'), undefined)
  assert.equal(await newestDate([], 'date'), undefined)
})

test('seconds of a run are those of all its steps', () => {
  const records = [{ 'perf/tokensPerSecond': 100 }, { 'val/loss': 3 }, { 'perf/tokensPerSecond': 50 }]
  assert.equal(trainingSeconds(records, 100), 3)
  assert.equal(trainingSeconds([], 100), undefined)
})
