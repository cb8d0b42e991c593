// 16-bit floats: every one of the 65536 words of both kinds, and rounding of float32 against a slow exact rule.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { bfloatToFloat, floatToBfloat, floatToHalf, halfToFloat, widened } from '../../src/checkpoint/half.ts'

const allWords = Uint16Array.from({ length: 65536 }, (_, i) => i)

/** The value of a word by its definition: sign, exponent and fraction of `fractionBits`. */
function wordValue(word: number, exponentBits: number, fractionBits: number): number {
  const sign = word >>> 15 === 1 ? -1 : 1
  const exponent = (word >>> fractionBits) & (2 ** exponentBits - 1)
  const fraction = (word & (2 ** fractionBits - 1)) / 2 ** fractionBits
  const bias = 2 ** (exponentBits - 1) - 1
  if (exponent === 2 ** exponentBits - 1) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  if (exponent === 0) return sign * fraction * 2 ** (1 - bias)
  return sign * (1 + fraction) * 2 ** (exponent - bias)
}

test('every f16 word widens to its defined value and narrows back to itself', () => {
  const floats = new Float32Array(65536)
  halfToFloat(floats, allWords)
  const back = floatToHalf(floats)
  for (let word = 0; word < 65536; word++) {
    const expected = wordValue(word, 5, 10)
    assert.ok(Object.is(floats[word], expected), `${word}: ${floats[word]} is not ${expected}`)
    // A signalling NaN may become quiet (bit 9), as every conversion instruction makes it.
    const same = Number.isNaN(expected) ? back[word] === (word | 0x200) : back[word] === word
    assert.ok(same, `${word} came back as ${back[word]}`)
  }
})

test('every bf16 word widens to its defined value and narrows back to itself', () => {
  const floats = new Float32Array(65536)
  bfloatToFloat(floats, allWords)
  const back = floatToBfloat(floats)
  for (let word = 0; word < 65536; word++) {
    const expected = wordValue(word, 8, 7)
    assert.ok(Object.is(floats[word], expected), `${word}: ${floats[word]} is not ${expected}`)
    const same = Number.isNaN(expected) ? back[word] === (word | 0x40) : back[word] === word
    assert.ok(same, `${word} came back as ${back[word]}`)
  }
})

/** Nearest of all finite words by search; a tie goes to the even word; past the middle to 2^top lies infinity. */
function nearest(x: number, exponentBits: number, fractionBits: number): number {
  const sign = Object.is(x, -0) || x < 0 ? 0x8000 : 0
  const infinity = (2 ** exponentBits - 1) << fractionBits
  const value = (word: number): number =>
    word === infinity ? 2 ** (2 ** (exponentBits - 1)) : wordValue(word, exponentBits, fractionBits)
  let low = 0
  let high = infinity
  const magnitude = Math.abs(x)
  if (magnitude >= value(infinity)) return sign | infinity
  while (high - low > 1) {
    const middle = (low + high) >>> 1
    if (value(middle) <= magnitude) low = middle
    else high = middle
  }
  const below = magnitude - value(low)
  const above = value(high) - magnitude
  const word = below < above || (below === above && low % 2 === 0) ? low : high
  return sign | word
}

test('float32 narrows to the nearest 16-bit float, ties to even', () => {
  const float32 = fc.integer({ min: 0, max: 0xffffffff }).map((bits) => {
    const view = new DataView(new ArrayBuffer(4))
    view.setUint32(0, bits)
    return view.getFloat32(0)
  })
  const midpoint = fc
    .integer({ min: 0, max: 0x7bfe })
    .map((word) => (wordValue(word, 5, 10) + wordValue(word + 1, 5, 10)) / 2)
  const smallFloat = fc.float({ min: -70000, max: 70000, noNaN: true })
  fc.assert(
    fc.property(fc.oneof(float32, midpoint, smallFloat), (x) => {
      if (Number.isNaN(x)) return
      assert.equal(floatToHalf(Float32Array.of(x))[0], nearest(x, 5, 10), `f16 of ${x}`)
      assert.equal(floatToBfloat(Float32Array.of(x))[0], nearest(x, 8, 7), `bf16 of ${x}`)
    }),
    { numRuns: 20000, seed: 1 },
  )
})

test('what a device gives is widened by its dtype, and otherwise left alone', () => {
  const values = [1, -2.5, 0.125, 384]
  assert.deepEqual(Array.from(widened(floatToHalf(values), 'f16')), values)
  assert.deepEqual(Array.from(widened(floatToBfloat(values), 'bf16')), values)
  const floats = Float32Array.from(values)
  assert.equal(widened(floats, 'f32'), floats)
})
