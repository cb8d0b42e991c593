// trainyard numbers: a number in every format of machine learning, bit by bit, with what is stored in its place.
import { z } from 'zod'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import {
  BLOCK_FORMATS,
  FLOAT_FORMATS,
  parseTyped,
  type Stored,
  storeFloat,
  storeInBlock,
} from '../display/number-formats.ts'
import { formatRational, rationalOf } from '../display/rational.ts'
import { paint, table, visibleWidth } from '../display/text.ts'

/** Of e4m3. */
const FP8_LARGEST = 448

export default defineRecipe({
  name: 'numbers',
  summary: 'show a number in fp64 to nf4, bit by bit, and what is stored in its place',
  description:
    'For every format: sign, exponent and mantissa, the number that is stored, the error (stored minus typed), the numbers beside it, and the range. Rounding is to nearest, halves to even, from the decimal number as you typed it.\n\nint8, int4 and nf4 hold weights in blocks that share a scale, the largest magnitude of the block; give it with --absmax.',
  examples: [
    { command: 'numbers 0.1', does: 'one tenth, which no binary format has' },
    { command: 'numbers 70000', does: 'too large for fp16' },
    { command: 'numbers 1/3 --absmax 0.5', does: 'a third, in blocks whose largest weight is 0.5' },
  ],
  config: z.object({
    value: field(z.string().min(1), {
      describe: 'number, fraction, inf or nan',
      example: '0.1',
    }),
    absmax: field(z.number().positive().default(1), { describe: 'largest magnitude of a block of int8, int4 and nf4' }),
    json: field(z.boolean().default(false), { describe: 'print JSON instead of text' }),
  }),
  positional: ['value'],
  async run({ value, absmax, json }, context) {
    const typed = parseTyped(value)
    const all = [
      ...FLOAT_FORMATS.map((format) => storeFloat(format, typed)),
      ...BLOCK_FORMATS.map((format) => storeInBlock(format, typed, absmax)),
    ]
    if (json) {
      const plain = all.map(({ error, stored, neighbours, ...rest }) => ({
        ...rest,
        stored: plainNumber(stored),
        neighbours: neighbours.map(plainNumber),
        ...(error !== undefined && { error: formatRational(error, 17) }),
      }))
      context.log(JSON.stringify(plain, null, 2))
      return
    }
    for (const line of sideBySide(sectionsOf(all, context.hasColor), context.columns)) context.log(line)
    if (all.some(({ name, outcome }) => name === 'fp8 e4m3' && outcome === 'overflow')) {
      context.log(`fp8 e4m3 has no infinity: casts that saturate store ${FP8_LARGEST} instead of NaN`)
    }
    context.log(`int8, int4, nf4: in a block whose largest magnitude is ${absmax} (--absmax)`)
  },
})

/** Rows of cells under a heading; the first section names the rows. */
type Section = readonly (readonly string[])[]

function sectionsOf(all: readonly Stored[], color: boolean): [names: Section, ...others: Section[]] {
  return [
    [['format'], ...all.map(({ name }) => [name])],
    [['sign, exponent, mantissa'], ...all.map((stored) => [bitsOf(stored, color)])],
    [
      ['stored', '', 'error', 'relative'],
      ...all.map((stored) => [
        Number.isNaN(stored.stored) ? 'NaN' : exact(stored.stored),
        stored.outcome,
        stored.error === undefined ? '-' : formatRational(stored.error, 3),
        relative(stored),
      ]),
    ],
    [
      ['next smaller', 'next larger'],
      ...all.map(({ name, neighbours }) => neighbours.map((value) => exact(value, name === 'fp64' ? 17 : 9))),
    ],
    [
      ['largest', 'smallest normal', 'smallest', 'step after 1'],
      ...all.map(({ largest, smallestNormal, smallest, epsilon }) => [
        exact(largest, 5),
        exact(smallestNormal, 4),
        exact(smallest, 4),
        exact(epsilon, 4),
      ]),
    ],
  ]
}

/** As many sections beside each other as the terminal has room for, the names at the left of each row of them. */
function sideBySide([names, ...sections]: [names: Section, ...others: Section[]], columns: number): string[] {
  const join = (parts: readonly Section[]): string[] =>
    table(
      names.map((name, row) => [...name, ...parts.flatMap((part) => part[row]!)]),
      { hasHeading: true },
    )
  const groups: Section[][] = []
  for (const section of sections) {
    const last = groups.at(-1)
    if (last !== undefined && visibleWidth(join([...last, section])[1]!) <= columns) last.push(section)
    else groups.push([section])
  }
  return groups.flatMap((group) => [...join(group), ''])
}

function bitsOf({ bits }: Stored, color: boolean): string {
  const [sign, exponent, mantissa] = bits
  if (exponent === undefined) return paint(sign!, 'cyan', color)
  return [paint(sign!, 'red', color), paint(exponent, 'green', color), paint(mantissa!, 'blue', color)].join(' ')
}

function relative({ relativeError }: Stored): string {
  if (relativeError === undefined) return '-'
  return relativeError === 0 ? '0' : relativeError.toExponential(1)
}

function exact(value: number | undefined, digits = 17): string {
  if (value === undefined || Number.isNaN(value)) return '-'
  if (Object.is(value, -0)) return '-0'
  return Number.isFinite(value) ? formatRational(rationalOf(value), digits) : String(value).replace('Infinity', 'inf')
}

/** JSON has neither -0 nor numbers that are not finite: as text. */
function plainNumber(value: number): string {
  return Object.is(value, -0) ? '-0' : String(value)
}
