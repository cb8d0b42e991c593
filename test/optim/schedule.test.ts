// Learning-rate schedules: against the schedulers of torch and transformers (tools/make-golden.py; their step counts
// from 0, so their rate after s steps is ours of step s), against the closed forms, and at the edges.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, test } from 'node:test'
import { learningRate, type ScheduleConfig } from '../../src/optim/schedule.ts'

interface ScheduleGolden {
  schedules: { name: string; config: ScheduleConfig; rates: number[] }[]
}

const golden = JSON.parse(readFileSync(new URL('../golden/optimizers.json', import.meta.url), 'utf8')) as ScheduleGolden

function assertClose(actual: number, expected: number, what: string): void {
  assert.ok(Math.abs(actual - expected) <= 1e-12 * 3e-4, `${what}: ${actual} instead of ${expected}`)
}

describe('against other libraries', () => {
  for (const { name, config, rates } of golden.schedules) {
    test(name, () => {
      assert.equal(rates.length, config.maxSteps)
      rates.forEach((rate, i) => {
        assertClose(learningRate(config, i + 1), rate, `step ${i + 1}`)
      })
    })
  }
})

const config: ScheduleConfig = {
  kind: 'cosine',
  lr: 3e-4,
  minLr: 3e-5,
  warmupSteps: 10,
  maxSteps: 110,
  decayFraction: 0.2,
}

test('warm-up is linear and reaches the highest rate at its last step', () => {
  for (const kind of ['cosine', 'linear', 'wsd', 'constant'] as const) {
    for (let step = 1; step <= 10; step++) assertClose(learningRate({ ...config, kind }, step), 3e-5 * step, kind)
  }
})

test('cosine: half way down in the middle, lowest at the end and after', () => {
  assertClose(learningRate(config, 60), (3e-4 + 3e-5) / 2, 'middle')
  assertClose(learningRate(config, 35), 3e-5 + 2.7e-4 * ((1 + Math.SQRT1_2) / 2), 'a quarter')
  for (const step of [110, 111, 1000]) assertClose(learningRate(config, step), 3e-5, `step ${step}`)
})

test('linear: equal differences down to the lowest rate', () => {
  const linear: ScheduleConfig = { ...config, kind: 'linear' }
  for (let step = 10; step < 110; step++) {
    assertClose(learningRate(linear, step) - learningRate(linear, step + 1), 2.7e-6, `step ${step}`)
  }
  assertClose(learningRate(linear, 110), 3e-5, 'end')
})

test('wsd: the highest rate until the last fifth, then a line', () => {
  const wsd: ScheduleConfig = { ...config, kind: 'wsd' }
  for (let step = 10; step <= 88; step++) assert.equal(learningRate(wsd, step), 3e-4)
  for (let step = 88; step <= 110; step++) {
    assertClose(learningRate(wsd, step), 3e-4 - (2.7e-4 * (step - 88)) / 22, `step ${step}`)
  }
})

test('no schedule jumps after its warm-up, also where wsd would fall from within it', () => {
  for (const kind of ['cosine', 'linear', 'wsd'] as const) {
    for (const decayFraction of [0, 0.2, 0.95, 1]) {
      for (const warmupSteps of [0, 10]) {
        const one: ScheduleConfig = { ...config, kind, decayFraction, warmupSteps }
        const fallSteps = kind === 'wsd' ? Math.min(110 - warmupSteps, 110 * decayFraction) : 110 - warmupSteps
        // A cosine is steepest in its middle: pi / 2 times the slope of the line.
        const largest = 2.7e-4 * (Math.PI / 2 / Math.max(1, Math.floor(fallSteps)))
        for (let step = Math.max(1, warmupSteps); step < 115; step++) {
          const fall = learningRate(one, step) - learningRate(one, step + 1)
          assert.ok(fall >= 0 && fall <= largest * (1 + 1e-9), `${kind} ${decayFraction} ${warmupSteps}: step ${step}`)
        }
      }
    }
  }
})

test('no warm-up starts one step down the curve; a run that is all warm-up ends at the highest rate', () => {
  assertClose(learningRate({ ...config, warmupSteps: 0, kind: 'linear' }, 1), 3e-4 - 2.7e-4 / 110, 'first')
  assertClose(learningRate({ ...config, warmupSteps: 110 }, 110), 3e-4, 'all warm-up')
  assert.equal(learningRate({ ...config, kind: 'constant', warmupSteps: 0 }, 1), 3e-4)
})
