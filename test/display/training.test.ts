// The picture of a training run, large and small, and its one line for logs.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { visibleWidth } from '../../src/display/text.ts'
import { renderTraining, type TrainingStatus, trainingLine } from '../../src/display/training.ts'

const STATUS: TrainingStatus = {
  title: 'pretrain runs/books',
  step: 120,
  maxSteps: 600,
  losses: Array.from({ length: 120 }, (_, step) => ({ x: step + 1, y: 6 - step / 40 })),
  valLosses: [{ x: 100, y: 3.75 }],
  lr: 2e-3,
  gradNorm: 0.8125,
  tokens: 983_040,
  tokensPerSecond: 12_345,
  peakShare: 0.456,
  memoryBytes: 300 * 2 ** 20,
  memoryTotalBytes: 2 ** 34,
  elapsedSeconds: 80,
  etaSeconds: 320,
  hint: 'Ctrl-C: checkpoint and stop',
}

test('everything that is known is shown', () => {
  const lines = renderTraining(STATUS, { columns: 100, rows: 30 })
  const text = lines.join('\n')
  assert.equal(lines[0], 'pretrain runs/books')
  assert.equal(lines.at(-1), 'Ctrl-C: checkpoint and stop')
  for (const part of [
    'loss (nats per token)   o validation',
    'step 120/600',
    '20.0%',
    'loss 3.0250',
    'val 3.7500',
    'lr 2.00e-3',
    'grad 0.813',
    'tokens 983k',
    'speed 12.3k tok/s',
    'of peak 45.6%',
    'memory 300 MiB of 16 GiB',
    'elapsed 1m 20s',
    'left 5m 20s',
  ]) {
    assert.ok(text.includes(part), `${part} in\n${text}`)
  }
  assert.match(text, /[\u2801-\u28ff]/)
})

test('what is not known is left out', () => {
  const { title, step, maxSteps, losses, tokens, tokensPerSecond, elapsedSeconds } = STATUS
  const known = { title, step, maxSteps, losses, tokens, tokensPerSecond, elapsedSeconds }
  const text = renderTraining(known, { columns: 100, rows: 30 }).join('\n')
  for (const part of ['val', 'lr ', 'grad', 'of peak', 'memory', 'left', 'undefined', 'NaN']) {
    assert.ok(!text.includes(part), part)
  }
})

test('it fits every terminal, and gives up the curve where there is no room', () => {
  for (const columns of [20, 40, 80, 200]) {
    for (const rows of [1, 3, 8, 12, 24, 60]) {
      const lines = renderTraining(STATUS, { columns, rows, color: true })
      assert.ok(lines.length <= rows, `${lines.length} lines in ${rows}`)
      if (columns >= 40) for (const line of lines) assert.ok(visibleWidth(line) <= columns, `${columns}: ${line}`)
    }
  }
  assert.doesNotMatch(renderTraining(STATUS, { columns: 80, rows: 8 }).join(''), /[\u2801-\u28ff]/)
})

test('the line for logs has the same facts', () => {
  assert.equal(
    trainingLine(STATUS),
    'step 120/600 (20.0%)  loss 3.0250  val 3.7500  lr 2.00e-3  grad 0.813  tokens 983k  speed 12.3k tok/s  of peak 45.6%  memory 300 MiB of 16 GiB  elapsed 1m 20s  left 5m 20s',
  )
})
