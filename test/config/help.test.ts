// The help text and the JSON schema of a recipe.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { inputSchema } from '../../src/config/field.ts'
import { flagName } from '../../src/config/flags.ts'
import { recipeHelp, wrap } from '../../src/config/help.ts'
import { sample } from './sample.ts'

const lines = recipeHelp(sample).split('\n')

test('help names every option with its default, unit and description', () => {
  const text = lines.join('\n')
  for (const { key, description } of sample.fields) {
    assert.match(text, new RegExp(`--(no-)?${flagName(key).slice(2).replace('.', '\\.')}\\b`), key)
    assert.ok(text.includes(description), description)
  }
  const line = (start: string): string => lines.find((candidate) => candidate.trim().startsWith(start)) ?? ''
  assert.match(line('--lr'), /^ {2}--lr <number> +0\.0003 +highest learning rate$/)
  assert.match(line('--max-steps'), /^ {2}--max-steps <steps> +- +optimizer steps$/)
  assert.match(line('--packing'), /^ {2}--packing packed\|windows +packed +how rows are filled$/)
  assert.match(line('--resume'), /^ {2}--resume +off +go on from a checkpoint$/)
  assert.match(line('--no-shuffle'), /^ {2}--no-shuffle +on +mix the documents$/)
  assert.match(line('--model.hidden-size'), /^ {2}--model\.hidden-size <channels> +64 channels +width$/)
  assert.match(line('[--files]'), /^ {2}\[--files\] <text,\.\.\.> +- +texts to read$/)
})

test('help opens with the summary and usage, and has both paragraphs and the example', () => {
  assert.equal(lines[0], 'trainyard sample: shows what options can be')
  assert.equal(lines[2], 'Usage: trainyard sample [files ...] [options]')
  for (const text of ['First paragraph.', 'Second paragraph.']) assert.ok(lines.includes(text))
  assert.ok(lines.includes('  trainyard sample a.txt b.txt --lr 0.1   # two files'), lines.join('\n'))
})

test('descriptions stand in one column', () => {
  const table = lines.slice(lines.findIndex((line) => line.startsWith('Options')) + 1)
  const columns = sample.fields.map(({ description }) =>
    table.find((line) => line.includes(description))!.indexOf(description),
  )
  assert.equal(new Set(columns).size, 1)
})

test('help is never wider than the terminal or 100 columns', () => {
  for (const columns of [60, 100, 250]) {
    const widest = Math.max(
      ...recipeHelp(sample, columns)
        .split('\n')
        .map((line) => line.length),
    )
    assert.ok(widest <= Math.min(columns, 100), `${widest} in ${columns}`)
  }
})

test('wrap keeps words whole and all of them', () => {
  const text = '  one two three four five'
  assert.deepEqual(wrap(text, 12), ['  one two', '  three four', '  five'])
  assert.deepEqual(wrap('extraordinarily long', 5), ['extraordinarily', 'long'])
})

test('the JSON schema has types, bounds, defaults, units and descriptions', () => {
  const { properties } = inputSchema(sample.config)
  assert.ok(properties !== undefined)
  assert.deepEqual(
    { ...properties.microBatchSize },
    { type: 'integer', minimum: 1, maximum: 64, default: 4, description: 'sequences of one forward' },
  )
  assert.deepEqual(properties.packing!.enum, ['packed', 'windows'])
  assert.equal(properties.maxSteps!.unit, 'steps')
  assert.equal(properties.model!.properties!.hiddenSize!.default, 64)
  assert.equal(inputSchema(sample.config).required, undefined)
})
