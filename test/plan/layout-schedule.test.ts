// The simulated pipeline against the papers' formulas of its bubble, and its picture.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Schedule } from '../../src/plan/layout/layout.ts'
import { bubbleFormula, workOrder, zeroBubbleLimit } from '../../src/plan/layout/schedule.ts'
import { type PipelineRun, simulate, type Timeline } from '../../src/plan/layout/timeline.ts'
import { timelineSvg } from '../../src/plan/layout/timeline-svg.ts'

const SHAPES = [
  [2, 4],
  [4, 8],
  [4, 12],
  [8, 32],
  [16, 64],
] as const

interface Times {
  forward: number
  input: number
  weight: number
}

function run(schedule: Schedule, ranks: number, microBatches: number, chunks: number, times: Times): PipelineRun {
  const { forward, input, weight } = times
  const isParted = schedule === 'zero-bubble'
  const time = isParted
    ? { forward, backward: input, weight }
    : { forward: forward / chunks, backward: (input + weight) / chunks, weight: 0 }
  return {
    schedule,
    shape: { ranks, microBatches, chunks },
    times: Array.from({ length: ranks * chunks }, () => time),
    transfer: 0,
    isBlocking: false,
  }
}

const EQUAL = { forward: 1, input: 1, weight: 1 }
const UNEQUAL = { forward: 1, input: 1.2, weight: 0.8 }

test('GPipe and 1F1B wait (p - 1) / m of their work; v interleaved chunks a v-th of that (arXiv:2104.04473)', () => {
  for (const [ranks, microBatches] of SHAPES) {
    for (const [schedule, chunks] of [
      ['gpipe', 1],
      ['1f1b', 1],
      ['interleaved', 2],
      ['interleaved', 4],
    ] as const) {
      for (const times of [EQUAL, UNEQUAL]) {
        const { bubble, seconds } = simulate(run(schedule, ranks, microBatches, chunks, times))
        const expected = (ranks - 1) / (chunks * microBatches)
        assert.ok(Math.abs(bubble - expected) < 1e-9, `${schedule} ${ranks} ${microBatches} ${chunks}: ${bubble}`)
        assert.equal(bubbleFormula(schedule, { ranks, microBatches, chunks }, times), expected)
        assert.ok(Math.abs(seconds - 3 * microBatches * (1 + expected)) < 1e-6)
      }
    }
  }
})

test('zero-bubble: H1 waits (p - 1) (F + B - W), H2 not at all where forward and both backwards are equal (arXiv:2401.10241)', () => {
  for (const [ranks, microBatches] of SHAPES) {
    for (const variant of ['h1', 'h2'] as const) {
      const { bubble, ranks: events } = simulate({ ...run('zero-bubble', ranks, microBatches, 1, EQUAL), variant })
      const name = variant === 'h1' ? 'zero-bubble' : 'zero-bubble-h2'
      const expected = bubbleFormula(name, { ranks, microBatches, chunks: 1 })
      // H2 needs more micro-batches than a rank may hold.
      if (variant === 'h1' || microBatches >= 2 * ranks - 1) {
        assert.ok(Math.abs(bubble - expected) < 1e-9, `${variant} ${ranks} ${microBatches}: ${bubble}, not ${expected}`)
      }
      for (const [rank, list] of events.entries()) {
        let held = 0
        for (const { kind } of list) {
          if (kind === 'forward') held++
          if (kind === 'backward') held--
          assert.ok(held <= zeroBubbleLimit(variant, ranks, rank))
        }
      }
    }
    // A third of 1F1B's with equal times; never more than the formula with others.
    const h1 = simulate(run('zero-bubble', ranks, microBatches, 1, EQUAL)).bubble
    assert.ok(Math.abs(3 * h1 - (ranks - 1) / microBatches) < 1e-9)
    const other = simulate(run('zero-bubble', ranks, microBatches, 1, UNEQUAL)).bubble
    assert.ok(other <= bubbleFormula('zero-bubble', { ranks, microBatches, chunks: 1 }, UNEQUAL) + 1e-9)
  }
})

/** Every micro-batch goes through every chunk once in each direction, after what it needs, and no rank does two things. */
function checkTimeline({ ranks }: Timeline, chunks: number, microBatches: number): void {
  const at = new Map<string, { start: number; end: number }>()
  for (const events of ranks) {
    for (const [index, event] of events.entries()) {
      const key = `${event.kind} ${event.chunk} ${event.microBatch}`
      assert.ok(!at.has(key), `${key} twice`)
      at.set(key, event)
      if (index > 0) assert.ok(event.start >= events[index - 1]!.end - 1e-12)
    }
  }
  for (let chunk = 0; chunk < chunks; chunk++) {
    for (let microBatch = 0; microBatch < microBatches; microBatch++) {
      const [forward, backward] = [
        at.get(`forward ${chunk} ${microBatch}`)!,
        at.get(`backward ${chunk} ${microBatch}`)!,
      ]
      assert.ok(backward.start >= forward.end - 1e-12)
      if (chunk > 0) assert.ok(forward.start >= at.get(`forward ${chunk - 1} ${microBatch}`)!.end - 1e-12)
      if (chunk < chunks - 1) assert.ok(backward.start >= at.get(`backward ${chunk + 1} ${microBatch}`)!.end - 1e-12)
    }
  }
}

test('every schedule runs every micro-batch through every chunk, in order, one at a time', () => {
  for (const [schedule, chunks] of [
    ['gpipe', 1],
    ['gpipe', 2],
    ['1f1b', 1],
    ['interleaved', 3],
    ['zero-bubble', 1],
  ] as const) {
    checkTimeline(simulate(run(schedule, 4, 8, chunks, UNEQUAL)), 4 * chunks, 8)
  }
  // 1F1B holds at most as many micro-batches as there are ranks from this one on; GPipe all of them.
  for (const [rank, order] of workOrder('1f1b', { ranks: 4, microBatches: 12, chunks: 1 }).entries()) {
    let [held, most] = [0, 0]
    for (const { kind } of order) {
      held += kind === 'forward' ? 1 : -1
      most = Math.max(most, held)
    }
    assert.equal(most, 4 - rank)
  }
})

test('transfers delay; a program that waits for them is slower still', () => {
  const plain = run('1f1b', 4, 8, 1, EQUAL)
  const [none, beside, blocking] = [
    simulate(plain).seconds,
    simulate({ ...plain, transfer: 0.1 }).seconds,
    simulate({ ...plain, transfer: 0.1, isBlocking: true }).seconds,
  ]
  assert.ok(none < beside && beside < blocking)
})

test('the picture has a row a rank, a box a work, and is whole XML', () => {
  const timeline = simulate(run('interleaved', 4, 8, 2, EQUAL))
  const svg = timelineSvg(timeline, { title: 'a < b & c', chunks: 2 })
  assert.equal(svg.match(/>rank \d</g)?.length, 4)
  assert.equal(svg.match(/<title>(forward|backward) of micro-batch/g)?.length, 2 * 4 * 8 * 2)
  assert.match(svg, /a &lt; b &amp; c/)
  const open: string[] = []
  for (const [, slash, name, rest] of svg.matchAll(/<(\/?)(\w+)([^>]*)>/g)) {
    if (slash === '/') assert.equal(open.pop(), name)
    else if (!rest!.endsWith('/')) open.push(name!)
  }
  assert.deepEqual(open, [])
})

test('no box of the picture lies beyond its axis, also where steps overlap', () => {
  for (const schedule of ['gpipe', 'zero-bubble'] as const) {
    const plain = run(schedule, 4, 8, 1, EQUAL)
    // The last rank has the head: its work ends after that of the others.
    const times = plain.times.map((time, rank) =>
      rank < 3 ? time : { ...time, forward: 1.5, backward: 1.5 * time.backward },
    )
    const { ranks, seconds } = simulate({ ...plain, times })
    const svg = timelineSvg({ ranks, seconds, bubble: 0 }, { title: schedule })
    const boxes = [...svg.matchAll(/<rect x="([\d.]+)" y="\d+" width="([\d.]+)" height="22"/g)]
    const ends = boxes.map(([, x, width]) => Number(x) + Number(width))
    const axis = ends[0]!
    assert.ok(boxes.length > 4 * 8 * 2 && ends.every((end) => end <= axis + 0.5), `${Math.max(...ends)} beyond ${axis}`)
    assert.equal(/steps overlap/.test(svg), schedule === 'zero-bubble')
  }
})
