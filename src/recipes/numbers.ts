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
import { paint, table } from '../display/text.ts'

/** Of e4m3. */
const FP8_LARGEST = 448

export default defineRecipe({
  name: 'numbers',
  summary: 'show a number in fp64 to nf4, bit by bit, and what is stored in its place',
  description:
    'For every format: sign, exponent and mantissa, the number that is stored, the error, the numbers beside it, and the range. Rounding is to nearest, halves to even, from the decimal number as you typed it.\n\nint8, int4 and nf4 hold weights in blocks that share a scale, their largest magnitude; give it with --absmax.',
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
        stored: String(stored),
        neighbours: neighbours.map(String),
        ...(error !== undefined && { error: formatRational(error, 17) }),
      }))
      context.log(JSON.stringify(plain, null, 2))
      return
    }
    const heading = ['format', 'sign, exponent, mantissa', 'stored', '', 'error', 'relative']
    const rows = all.map((stored) => [
      stored.name,
      bitsOf(stored, context.hasColor),
      exact(stored.stored),
      stored.outcome,
      stored.error === undefined ? '-' : formatRational(stored.error, 3),
      relative(stored),
    ])
    for (const line of table([heading, ...rows], { hasHeading: true })) context.log(line)
    context.log('')
    const ranges = all.map((stored) => [
      stored.name,
      ...stored.neighbours.map((value) => (Number.isNaN(value) ? '-' : exact(value, stored.name === 'fp64' ? 17 : 9))),
      exact(stored.largest, 5),
      exact(stored.smallestNormal, 4),
      exact(stored.smallest, 4),
      exact(stored.epsilon, 4),
    ])
    const names = ['format', 'next smaller', 'next larger', 'largest', 'smallest normal', 'smallest', 'step after 1']
    for (const line of table([names, ...ranges], { hasHeading: true })) context.log(line)
    if (all.some(({ name, outcome }) => name === 'fp8 e4m3' && outcome === 'overflow')) {
      context.log(`fp8 e4m3 has no infinity: casts that saturate store ${FP8_LARGEST} instead of NaN`)
    }
    context.log(
      `int8, int4, nf4: shares of the block's largest magnitude, here ${absmax}; their step is that at the end`,
    )
  },
})

function bitsOf({ bits }: Stored, color: boolean): string {
  const [sign, exponent, mantissa] = bits
  if (exponent === undefined) return paint(sign!, 'cyan', color)
  return [paint(sign!, 'red', color), paint(exponent, 'green', color), paint(mantissa!, 'blue', color)].join(' ')
}

function relative({ relativeError }: Stored): string {
  if (relativeError === undefined) return '-'
  return relativeError === 0 ? '0' : relativeError.toExponential(1)
}

function exact(value: number, digits = 17): string {
  if (Object.is(value, -0)) return '-0'
  return Number.isFinite(value) ? formatRational(rationalOf(value), digits) : String(value).replace('Infinity', 'inf')
}
