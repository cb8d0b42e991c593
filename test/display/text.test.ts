// Widths, cutting, colours and tables.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { stripVTControlCharacters } from 'node:util'
import { clip, pad, paint, table, visibleWidth } from '../../src/display/text.ts'

test('colours take no columns and can be off', () => {
  const red = paint('hot', 'red', true)
  assert.notEqual(red, 'hot')
  assert.equal(stripVTControlCharacters(red), 'hot')
  assert.equal(visibleWidth(red), 3)
  assert.equal(paint('hot', 'red', false), 'hot')
  assert.equal(paint('', 'red', true), '')
})

test('clip keeps the first columns, colours closed, text that fits untouched', () => {
  assert.equal(clip('abcdef', 3), 'abc')
  assert.equal(clip('abc', 3), 'abc')
  assert.equal(clip('a\u2588b\u28ffc', 4), 'a\u2588b\u28ff')
  const red = paint('abcdef', 'red', true)
  const cut = clip(`${red}g`, 3)
  assert.equal(stripVTControlCharacters(cut), 'abc')
  assert.ok(cut.endsWith('\u001b[0m'))
  assert.equal(clip(red, 6), red)
})

test('pad fills to the visible width on either side', () => {
  assert.equal(pad('ab', 4), 'ab  ')
  assert.equal(pad('ab', 4, 'right'), '  ab')
  assert.equal(pad('abcdef', 4), 'abcdef')
  assert.equal(visibleWidth(pad(paint('ab', 'red', true), 4)), 4)
})

test('a table has straight columns, a rule under its heading, and no blanks at line ends', () => {
  const rows = [
    ['name', 'size'],
    ['a', '1,000'],
    [paint('long name', 'red', true), '7', 'note'],
  ]
  assert.deepEqual(table(rows, { align: ['left', 'right'], hasHeading: true }).map(stripVTControlCharacters), [
    'name        size',
    `${'\u2500'.repeat(9)}  ${'\u2500'.repeat(5)}  ${'\u2500'.repeat(4)}`,
    'a          1,000',
    'long name      7  note',
  ])
  assert.deepEqual(table([]), [])
})
