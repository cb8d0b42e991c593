// Curves and bars: shape, size, where points land, and what happens with no points, one, or points that are not finite.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { stripVTControlCharacters } from 'node:util'
import fc from 'fast-check'
import { type Point, renderBar, renderBarChart, renderCurve, ticks } from '../../src/display/chart.ts'
import { visibleWidth } from '../../src/display/text.ts'

const SIZE = { width: 60, height: 14 }

/** Falls from 5 towards 1, as losses do. */
const LOSSES: Point[] = Array.from({ length: 500 }, (_, step) => ({ x: step, y: 1 + 4 * Math.exp(-step / 80) }))

test('a falling curve goes from the top left to the bottom right', () => {
  const lines = renderCurve(LOSSES, { ...SIZE, xLabel: 'step', yLabel: 'loss' })
  assert.equal(lines.length, SIZE.height)
  for (const line of lines) assert.ok(visibleWidth(line) <= SIZE.width, line)
  assert.match(lines[0]!, /^ +loss$/)
  const plot = lines.slice(1, -2).map((line) => line.slice(line.search(/[\u2502\u2524]/) + 1))
  const isDrawn = (text: string): boolean => /[\u2801-\u28ff]/.test(text)
  assert.ok(isDrawn(plot[0]!.slice(0, 3)), 'top left')
  assert.ok(!isDrawn(plot[0]!.slice(10)), 'top right is empty')
  assert.ok(isDrawn(plot.at(-1)!.slice(-3)), 'bottom right')
  assert.ok(!isDrawn(plot.at(-1)!.slice(0, 10)), 'bottom left is empty')
  assert.match(lines.at(-1)!, /step 0 .*\b400\b/)
})

test('every column of the plot is crossed by the curve', () => {
  const few = [0, 200, 499].map((step) => LOSSES[step]!)
  for (const points of [LOSSES, few]) {
    const rows = renderCurve(points, SIZE).slice(0, -2)
    const start = rows[0]!.search(/[\u2502\u2524]/) + 1
    for (let column = start; column < SIZE.width; column++) {
      assert.ok(
        rows.some((row) => /[\u2801-\u28ff]/.test(row[column] ?? '')),
        `column ${column}`,
      )
    }
  }
})

test('marks are drawn over the curve where they belong', () => {
  const lines = renderCurve(LOSSES, { ...SIZE, marks: [{ x: 499, y: 5 }] })
  assert.equal(lines[0]!.at(-1), 'o', 'the top right corner')
  assert.equal(lines.join('').split('o').length, 2)
})

test('colours change nothing that is seen', () => {
  const marks = [{ x: 100, y: 3 }]
  const colored = renderCurve(LOSSES, { ...SIZE, marks, color: true })
  assert.notEqual(colored.join(''), stripVTControlCharacters(colored.join('')))
  assert.deepEqual(colored.map(stripVTControlCharacters), renderCurve(LOSSES, { ...SIZE, marks }))
})

test('no points, one point, equal points and points that are not finite', () => {
  assert.deepEqual(renderCurve([], { width: 40, height: 3 }), ['(nothing to draw yet)', '', ''])
  const broken = [
    { x: 0, y: Number.NaN },
    { x: 1, y: 2 },
    { x: 2, y: Number.POSITIVE_INFINITY },
  ]
  assert.deepEqual(renderCurve(broken, SIZE), renderCurve([{ x: 1, y: 2 }], SIZE))
  const flat = renderCurve(
    [
      { x: 0, y: 2 },
      { x: 9, y: 2 },
    ],
    SIZE,
  )
  assert.equal(flat.filter((line) => /[\u2801-\u28ff]/.test(line)).length, 1, 'a level line')
})

test('any curve fits the size that was asked for', () => {
  const number = fc.double({ min: -1e6, max: 1e6, noNaN: true })
  const point = fc.record({ x: number, y: number })
  fc.assert(
    fc.property(
      fc.array(point, { minLength: 1, maxLength: 30 }),
      fc.integer({ min: 30, max: 120 }),
      fc.integer({ min: 6, max: 30 }),
      (points, width, height) => {
        const lines = renderCurve(
          [...points].sort((a, b) => a.x - b.x),
          { width, height, yLabel: 'y', xLabel: 'x' },
        )
        assert.equal(lines.length, height)
        for (const line of lines) assert.ok(visibleWidth(line) <= width, `${visibleWidth(line)} > ${width}: ${line}`)
      },
    ),
    { numRuns: 300 },
  )
})

test('ticks are round, inside, rising, at least two, and their labels differ', () => {
  assert.deepEqual(ticks(0, 10, 5), { values: [0, 2, 4, 6, 8, 10], labels: ['0', '2', '4', '6', '8', '10'] })
  assert.deepEqual(ticks(1.13, 1.43, 3).labels, ['1.2', '1.3', '1.4'])
  assert.deepEqual(ticks(0, 12_000, 3).labels, ['0', '5,000', '10k'])
  const low = fc.double({ min: -1e5, max: 1e5, noNaN: true })
  const span = fc.double({ min: 1e-3, max: 1e5, noNaN: true })
  fc.assert(
    fc.property(low, span, fc.integer({ min: 2, max: 10 }), (start, length, count) => {
      const { values, labels } = ticks(start, start + length, count)
      assert.ok(values.length >= 2, `${values.length} ticks in ${start} + ${length}`)
      const step = values[1]! - values[0]!
      for (const [index, value] of values.entries()) {
        assert.ok(value >= start - step * 1e-6 && value <= start + length + step * 1e-6)
        assert.ok(index === 0 || value > values[index - 1]!)
      }
      assert.equal(labels.length, values.length)
    }),
  )
})

test('a bar is as long as its share, to an eighth of a column', () => {
  assert.equal(renderBar(0, 10), '')
  assert.equal(renderBar(1, 10), '\u2588'.repeat(10))
  assert.equal(renderBar(7, 4), '\u2588'.repeat(4))
  assert.equal(renderBar(0.5, 5), '\u2588\u2588\u258c')
  assert.equal(renderBar(1 / 80, 10), '\u258f')
  assert.equal(renderBar(79 / 80, 10), `${'\u2588'.repeat(9)}\u2589`)
})

test('bars have labels, numbers and notes in columns', () => {
  const bars = [
    { label: 'ours', value: 1.8, note: 'the model' },
    { label: 'bzip2 -9', value: 2 },
    { label: 'none', value: -1 },
  ]
  const lines = renderBarChart(bars, { width: 50, format: (value) => value.toFixed(2) })
  for (const line of lines) assert.ok(visibleWidth(line) <= 50, line)
  const length = (line: string): number => line.split(/[^\u2588]/).join('').length
  assert.ok(length(lines[1]!) > length(lines[0]!))
  assert.equal(length(lines[2]!), 0)
  assert.match(lines[0]!, /^ours {6}\u2588.* 1\.80 {2}the model$/)
  assert.match(lines[2]!, /^none .* -1\.00$/)
  assert.deepEqual(renderBarChart([], { width: 50 }), [])
})
