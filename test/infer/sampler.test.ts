// Sampling: each filter against its definition, the order of the filters, seeds, and frequencies of draws.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { distribution, GREEDY, Sampler } from '../../src/infer/sampler.ts'
import { StopStrings } from '../../src/infer/stop-strings.ts'

const PROBABILITIES = [0.5, 0.25, 0.125, 0.0625, 0.0625]
const logits = (): Float32Array => Float32Array.from(PROBABILITIES, Math.log)
const plain = { ...GREEDY, temperature: 1 }
const ids = (config: Partial<typeof plain>): number[] =>
  distribution(logits(), { ...plain, ...config }).map((c) => c.id)

test('filters keep what their definitions say', () => {
  assert.deepEqual(ids({}), [0, 1, 2, 3, 4])
  assert.deepEqual(ids({ topK: 2 }), [0, 1])
  assert.deepEqual(ids({ topP: 0.6 }), [0, 1])
  assert.deepEqual(ids({ topP: 0.49 }), [0])
  assert.deepEqual(ids({ minP: 0.2 }), [0, 1, 2])
  // top-p counts after top-k has renormalised: 0.5/0.75 = 0.67 reaches 0.6 alone.
  assert.deepEqual(ids({ topK: 2, topP: 0.6 }), [0])
  assert.deepEqual(ids({ temperature: 0 }), [0])
})

test('probabilities are those of the softmax at the temperature, renormalised', () => {
  for (const temperature of [0.5, 1, 2]) {
    const weights = PROBABILITIES.slice(0, 3).map((p) => p ** (1 / temperature))
    const total = weights.reduce((a, b) => a + b)
    const result = distribution(logits(), { ...plain, temperature, topK: 3 })
    result.forEach(({ probability }, i) => {
      assert.ok(Math.abs(probability - weights[i]! / total) < 1e-6)
    })
  }
})

test('the repetition penalty divides positive and multiplies negative logits of seen tokens', () => {
  const row = Float32Array.from([2, 1.5, -1])
  const sampler = new Sampler({ ...GREEDY, repetitionPenalty: 2 })
  assert.equal(sampler.next(row, [0, 0, 2]), 1)
  assert.deepEqual([...row], [1, 1.5, -2])
})

test('draws follow the distribution, and a seed gives the same draws again', () => {
  const draw = (seed: number): number[] => {
    const sampler = new Sampler({ ...plain, seed })
    return Array.from({ length: 20_000 }, () => sampler.next(logits()))
  }
  const first = draw(7)
  assert.deepEqual(draw(7), first)
  assert.notDeepEqual(draw(8), first)
  PROBABILITIES.forEach((p, id) => {
    const share = first.filter((x) => x === id).length / first.length
    assert.ok(Math.abs(share - p) < 4 * Math.sqrt((p * (1 - p)) / first.length), `${id}: ${share} for ${p}`)
  })
})

test('top-k of a large vocabulary equals sorting', () => {
  const row = Float32Array.from({ length: 5000 }, (_, i) => Math.sin(i * 12.9898) * 10)
  const sorted = [...row.keys()].sort((a, b) => row[b]! - row[a]! || a - b).slice(0, 40)
  assert.deepEqual(
    distribution(row, { ...plain, topK: 40 }).map((c) => c.id),
    sorted,
  )
})

test('a stop string is cut exactly, across pieces, and a false start is given out', () => {
  const stops = new StopStrings(['END', 'stop here'])
  assert.equal(stops.push('abE'), 'ab')
  assert.equal(stops.push('Nx st'), 'ENx ')
  assert.equal(stops.push('op hex'), 'stop hex')
  assert.equal(stops.push(' sto'), ' ')
  assert.equal(stops.push('p here and more'), '')
  assert.equal(stops.isStopped, true)
  const open = new StopStrings(['END'])
  assert.equal(open.push('the EN'), 'the ')
  assert.equal(open.flush(), 'EN')
})
