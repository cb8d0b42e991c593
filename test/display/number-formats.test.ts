// `numbers`: bits and stored values against the machine's own floats, the formats' published ranges, and all 8-bit codes.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ConfigError } from '../../src/core/errors.ts'
import {
  BLOCK_FORMATS,
  FLOAT_FORMATS,
  parseTyped,
  type Stored,
  storeFloat,
  storeInBlock,
} from '../../src/display/number-formats.ts'
import { formatRational, parseRational, rationalOf } from '../../src/display/rational.ts'
import { trainyard } from '../cli/program.ts'

const format = (name: string) => FLOAT_FORMATS.find((known) => known.name === name)!
const store = (name: string, text: string): Stored => storeFloat(format(name), parseTyped(text))
const block = (name: string, text: string, absmax: number): Stored =>
  storeInBlock(BLOCK_FORMATS.find((known) => known.name === name)!, parseTyped(text), absmax)

/** Doubles of all sizes, ties between halves, and their neighbours. */
function samples(): number[] {
  let state = 2024
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
  const values = [0, -0, 1, -1, 65504, 65519.99, 65520, 2 ** -24, 2 ** -25, 1.5 * 2 ** -25]
  for (let count = 0; count < 3000; count++) values.push((random() - 0.5) * 2 ** Math.floor(random() * 90 - 45))
  for (let count = 0; count < 500; count++) values.push((2 * Math.floor(random() * 2048) + 1) * 2 ** -12)
  return values
}

test('fp64, fp32 and fp16 are the machine, bit for bit', () => {
  const view = new DataView(new ArrayBuffer(8))
  for (const value of samples()) {
    // As a fraction: the shortest decimal of a double may lie on the other side of a tie.
    const { numerator, denominator } = rationalOf(value)
    const text = Object.is(value, -0) ? '-0' : `${numerator}/${denominator}`
    const wide = store('fp64', text)
    assert.ok(Object.is(wide.stored, value), text)
    view.setFloat64(0, value)
    assert.equal(wide.bits.join(''), view.getBigUint64(0).toString(2).padStart(64, '0'))
    const single = store('fp32', text)
    assert.ok(Object.is(single.stored, Math.fround(value)), `${text}: ${single.stored}`)
    view.setFloat32(0, value)
    assert.equal(single.bits.join(''), view.getUint32(0).toString(2).padStart(32, '0'))
    const half = store('fp16', text)
    assert.ok(Object.is(half.stored, Math.f16round(value)), `${text}: ${half.stored}`)
  }
})

test('bf16 and tf32 are fp32 cut to fewer digits, rounded once', () => {
  const view = new DataView(new ArrayBuffer(4))
  const rounded = (value: number, dropped: number): number => {
    view.setFloat32(0, value)
    const bits = view.getUint32(0)
    const half = 2 ** (dropped - 1) - 1 + ((bits >>> dropped) & 1)
    view.setUint32(0, Math.floor((bits + half) / 2 ** dropped) * 2 ** dropped)
    return view.getFloat32(0)
  }
  for (const value of samples()) {
    // Doubles that are floats: else the reference would round twice.
    const single = Math.fround(value)
    assert.ok(Object.is(store('bf16', String(single)).stored + 0, rounded(single, 16) + 0), `${single}`)
    assert.ok(Object.is(store('tf32', String(single)).stored + 0, rounded(single, 13) + 0), `${single}`)
  }
})

test('every code of both 8-bit formats comes back; ties go to even; ranges are the published ones (arXiv:2209.05433)', () => {
  for (const name of ['fp8 e4m3', 'fp8 e5m2']) {
    const { mantissaBits, exponentBits } = format(name)
    const finite: number[] = []
    for (let code = 0; code < 128; code++) {
      const exponent = code >> mantissaBits
      const mantissa = code & (2 ** mantissaBits - 1)
      const unit = 2 ** (Math.max(exponent, 1) - (2 ** (exponentBits - 1) - 1) - mantissaBits)
      const value = (mantissa + (exponent === 0 ? 0 : 2 ** mantissaBits)) * unit
      if (value > (name === 'fp8 e4m3' ? 448 : 57344)) continue
      finite.push(value)
      const stored = store(name, `-${value}`)
      assert.equal(stored.stored, -value)
      assert.equal(stored.bits.join(''), (128 + code).toString(2))
      assert.equal(stored.outcome, value !== 0 && value < stored.smallestNormal! ? 'subnormal' : 'exact')
    }
    for (let index = 1; index < finite.length; index++) {
      const middle = (finite[index - 1]! + finite[index]!) / 2
      assert.equal(store(name, String(middle)).stored, finite[index % 2 === 0 ? index : index - 1]!)
      const { neighbours } = store(name, String(finite[index]!))
      assert.equal(neighbours[0], finite[index - 1]!)
    }
  }
  const ranges = ['fp8 e4m3', 'fp8 e5m2', 'fp16', 'bf16'].map((name) => {
    const { largest, smallestNormal, smallest, epsilon } = store(name, '1')
    return [largest, smallestNormal, smallest, epsilon]
  })
  assert.deepEqual(ranges, [
    [448, 2 ** -6, 2 ** -9, 2 ** -3],
    [57344, 2 ** -14, 2 ** -16, 2 ** -2],
    [65504, 2 ** -14, 2 ** -24, 2 ** -10],
    [(2 - 2 ** -7) * 2 ** 127, 2 ** -126, 2 ** -133, 2 ** -7],
  ])
})

test('overflow, underflow and what is no number', () => {
  assert.deepEqual([store('fp16', '70000').outcome, store('fp16', '70000').stored], ['overflow', Infinity])
  assert.deepEqual([store('fp8 e4m3', '-1000').outcome, store('fp8 e4m3', '-1000').stored], ['overflow', Number.NaN])
  assert.equal(store('fp8 e4m3', '464').stored, 448)
  assert.equal(store('fp16', '1e-8').outcome, 'underflow to 0')
  assert.equal(store('fp16', '1e-7').outcome, 'subnormal')
  assert.ok(Number.isNaN(store('bf16', 'nan').stored))
  assert.equal(store('fp32', '-inf').stored, -Infinity)
  assert.equal(store('fp64', '1e400').stored, Infinity)
  assert.deepEqual([store('fp8 e4m3', 'inf').outcome, store('fp8 e5m2', 'inf').outcome], ['overflow', 'special'])
  for (const wrong of ['', 'one', '1/0', '1/2/3', '.', '1e999999']) assert.throws(() => parseTyped(wrong), ConfigError)
})

test('errors are those of the typed decimal, not of its double', () => {
  assert.equal(formatRational(store('fp64', '0.1').error!, 17), '5.5511151231257827e-18')
  // A third is not 0.333...33 of a double: its error in fp64 is a third of a unit.
  assert.equal(formatRational(store('fp64', '1/3').error!, 6), '-1.85037e-17')
  // Just above a tie in fp16, by less than a double can say: still rounded up.
  const above = `1.00048828125${'0'.repeat(30)}1`
  assert.equal(store('fp16', '1.00048828125').stored, 1)
  assert.equal(store('fp16', above).stored, 1 + 2 ** -10)
  assert.equal(store('fp32', '0.1').relativeError!.toExponential(3), '1.490e-8')
})

test('blocks: codes, levels and what is beyond the largest magnitude', () => {
  assert.deepEqual(
    [block('int8', '-1', 1), block('int8', '0.5', 0.5), block('int4', '0.3', 0.7)].map(({ bits, stored }) => [
      bits[0],
      stored,
    ]),
    [
      ['10000001', -1],
      ['01111111', 0.5],
      ['0011', 0.7 * (3 / 7)],
    ],
  )
  const normal = BLOCK_FORMATS.find(({ name }) => name === 'nf4')!
  for (const [code, level] of normal.levels.entries()) {
    const stored = block('nf4', String(2 * level), 2)
    assert.deepEqual([stored.bits[0], stored.stored], [code.toString(2).padStart(4, '0'), 2 * level])
  }
  assert.equal(block('nf4', '3', 2).outcome, 'overflow')
  assert.equal(block('int4', 'nan', 1).bits[0], '-')
})

test('decimals are read and written exactly', () => {
  for (const [text, shown] of [
    ['0.1', '0.1'],
    ['-12.50', '-12.5'],
    ['1_000', '1000'],
    ['1/8', '0.125'],
    ['-1/-4', '0.25'],
    ['1e-7', '1e-7'],
    ['999999999999.6', '1000000000000'],
    ['123456789012345678', '1.23456789012e17'],
  ] as const) {
    assert.equal(formatRational(parseRational(text)), shown)
  }
  for (const value of [5e-324, 1.7976931348623157e308, 0.1]) {
    assert.equal(Number(formatRational(rationalOf(value), 17)), value)
  }
})

test('the command shows every format, as text and as JSON', () => {
  const { stdout, status } = trainyard(['numbers', '0.1'])
  assert.equal(status, 0)
  assert.match(stdout, /fp32 +0 01111011 10011001100110011001101\n/)
  assert.match(stdout, /fp32 +0\.10000000149011612 +rounded +1\.49e-9 +1\.5e-8/)
  assert.match(stdout, /fp8 e4m3 +0 0011 101\n/)
  for (const line of stdout.split('\n')) assert.ok(line.length <= 100, line)
  const list = JSON.parse(trainyard(['numbers', '-70000', '--json', '--absmax', '70000']).stdout) as Stored[]
  assert.equal(list.length, 10)
  assert.deepEqual(list.find(({ name }) => name === 'fp16')!.outcome, 'overflow')
  assert.match(trainyard(['numbers', 'ten']).stderr, /expected a number such as 0.1/)
})
