// Numbers for people.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  formatBytes,
  formatCount,
  formatDuration,
  formatFlops,
  formatPercent,
  threeDigits,
} from '../../src/display/format.ts'

const CASES: readonly [name: string, format: (value: number) => string, pairs: readonly [number, string][]][] = [
  [
    'bytes',
    formatBytes,
    [
      [0, '0 B'],
      [1023, '1023 B'],
      [1024, '1 KiB'],
      [1536, '1.5 KiB'],
      [1024 * 1023.9, '1 MiB'],
      [3 * 2 ** 30, '3 GiB'],
      [-2048, '-2 KiB'],
      [Number.NaN, '-'],
    ],
  ],
  [
    'counts',
    formatCount,
    [
      [0, '0'],
      [0.0123, '0.0123'],
      [12.34, '12.3'],
      [999, '999'],
      [9876, '9,876'],
      [9999.4, '9,999'],
      [10_000, '10k'],
      [999_600, '1M'],
      [1_234_567, '1.23M'],
      [1.82e11, '182G'],
      [-1_234_567, '-1.23M'],
      [Number.POSITIVE_INFINITY, '-'],
    ],
  ],
  [
    'FLOP/s',
    formatFlops,
    [
      [1.82e11, '182 GFLOP/s'],
      [7.95e14, '795 TFLOP/s'],
      [5000, '5,000 FLOP/s'],
      [Number.NaN, '- FLOP/s'],
    ],
  ],
  [
    'durations',
    formatDuration,
    [
      [0, '0 s'],
      [0.00005, '50 us'],
      [0.85, '850 ms'],
      [12.34, '12.3 s'],
      [59.94, '59.9 s'],
      [59.96, '1m 00s'],
      [185, '3m 05s'],
      [7620, '2h 07m'],
      [356_400, '4d 03h'],
      [-3, '-3.0 s'],
      [Number.POSITIVE_INFINITY, '-'],
    ],
  ],
  [
    'shares',
    formatPercent,
    [
      [0.4273, '42.7%'],
      [1, '100.0%'],
      [Number.NaN, '-'],
    ],
  ],
  [
    'three digits',
    threeDigits,
    [
      [0, '0'],
      [1.2345, '1.23'],
      [1.2, '1.2'],
      [100, '100'],
      [0.012345, '0.0123'],
    ],
  ],
]

for (const [name, format, pairs] of CASES) {
  test(name, () => {
    for (const [value, text] of pairs) assert.equal(format(value), text)
  })
}

test('a written count or size is within half a percent of the value', () => {
  const counts: Record<string, number> = { k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15 }
  fc.assert(
    fc.property(fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }), (value) => {
      const text = formatCount(value)
      const back = Number(text.replaceAll(/[,a-zA-Z]/g, '')) * (counts[text.at(-1)!] ?? 1)
      assert.ok(Math.abs(back - value) <= value * 0.005, `${value} as ${text}`)
      const [number, unit] = formatBytes(value).split(' ') as [string, string]
      const bytes = Number(number) * 1024 ** ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'].indexOf(unit)
      assert.ok(Math.abs(bytes - value) <= value * 0.005, `${value} as ${number} ${unit}`)
    }),
  )
})
