// SVG plots: where points land, what stands in the legend, and text that is made harmless.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { renderSvgPlot } from '../../src/display/svg-plot.ts'

const options = { title: 'a < b & c', xLabel: 'x', yLabel: 'y' }
const circles = (svg: string): number[][] =>
  [...svg.matchAll(/<circle cx="([\d.]+)" cy="([\d.]+)" r/g)].map((match) => [Number(match[1]), Number(match[2])])

test('a decade is as wide as the next, and larger y stands higher', () => {
  const points = [1, 10, 100].map((x) => ({ x, y: x }))
  const svg = renderSvgPlot([{ name: 'runs', style: 'dots', color: 0, points }], options)
  const [a, b, c] = circles(svg) as [number[], number[], number[]]
  assert.ok(Math.abs(b[0]! - a[0]! - (c[0]! - b[0]!)) < 0.2)
  assert.ok(a[1]! > b[1]! && b[1]! > c[1]!)
  const linear = circles(
    renderSvgPlot([{ name: 'runs', style: 'dots', color: 0, points }], { ...options, hasLogX: false }),
  )
  assert.ok(Math.abs((linear[1]![0]! - linear[0]![0]!) / (linear[2]![0]! - linear[0]![0]!) - 1 / 11) < 0.01)
})

test('the legend names series that are not quiet; text is escaped; points that are no numbers are left out', () => {
  const points = [
    { x: 1, y: 2 },
    { x: 2, y: Number.NaN },
    { x: 3, y: 4 },
  ]
  const svg = renderSvgPlot(
    [
      { name: 'law <1>', style: 'dashed', color: 1, points },
      { name: 'hidden', style: 'line', color: 2, isQuiet: true, points },
    ],
    options,
  )
  assert.match(svg, />a &lt; b &amp; c<\/text>/)
  assert.match(svg, />law &lt;1&gt;<\/text>/)
  assert.doesNotMatch(svg, /hidden|NaN/)
  assert.equal(svg.match(/<polyline[^>]*points="([^"]*)"/)![1]!.split(' ').length, 2)
  assert.match(svg, /stroke-dasharray/)
})

test('nothing to draw is an empty frame', () => {
  assert.doesNotMatch(renderSvgPlot([], options), /NaN|Infinity/)
})
