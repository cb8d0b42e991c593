// The cost model against speeds that others published: one set of constants a device, no figure of a row. Every group's score
// stands beside that of someone who predicts the group's average.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  FIGURE_11,
  FIGURE_12_INTERLEAVED,
  FIGURE_12_PLAIN,
  FIGURE_13,
  FIGURE_14,
  FIGURE_15,
  FIGURE_16,
  FIGURE_18,
  TABLE_1,
  TABLE_2_MODEL_PARALLEL,
  TABLE_2_ZERO_3,
} from './layout-megatron.ts'
import { LLAMA_3_ROWS, RECOMPUTATION, TORCHTITAN_8B, TORCHTITAN_70B, TORCHTITAN_405B } from './layout-others.ts'
import { type PublishedRow, predict, type Score, scoreRows, trivialScore } from './layout-score.ts'

const percent = (share: number): string => `${(100 * share).toFixed(1)}%`

/** Prints the group's score beside the trivial one, and gives both. */
function compare(name: string, rows: readonly PublishedRow[]): { ours: Score; trivial: Score } {
  const [ours, trivial] = [scoreRows(rows), trivialScore(rows)]
  const line = ({ mean, worst, rank }: Score): string =>
    `mean ${percent(mean)}, worst ${percent(worst)}, rank ${rank.toFixed(2)}`
  console.log(`${name}: ${line(ours)}; the average of the group: ${line(trivial)}`)
  return { ours, trivial }
}

test('Megatron-LM, table 1: 1.7 B to 1 T parameters on up to 3072 A100 (arXiv:2104.04473)', () => {
  const { ours, trivial } = compare('table 1', TABLE_1)
  assert.ok(ours.mean <= 0.05, `mean error ${percent(ours.mean)}`)
  assert.ok(ours.worst <= 0.08, `worst error ${percent(ours.worst)}`)
  assert.ok(ours.rank >= 0.8, `rank correlation ${ours.rank}`)
  assert.ok(ours.mean < trivial.mean / 2)
  // Four rows set constants; the other six did not enter that fit.
  const { ours: held } = compare(
    'table 1, rows held out',
    TABLE_1.filter(({ isFitted }) => !isFitted),
  )
  assert.ok(held.mean <= 0.05 && held.worst <= 0.08)
})

test("the A100's matrix share is the one that four rows of table 1 alone prefer, the other constants as they are", () => {
  const rows = TABLE_1.filter(({ isFitted }) => isFitted)
  const meanAt = (matrixEfficiency: number): number =>
    scoreRows(rows.map((row) => ({ ...row, on: { ...row.on, constants: { ...row.on.constants, matrixEfficiency } } })))
      .mean
  const shares = Array.from({ length: 13 }, (_, index) => (72 + index) / 100)
  const best = shares.reduce((least, share) => (meanAt(share) < meanAt(least) ? share : least))
  assert.equal(rows[0]!.on.constants.matrixEfficiency, best)
})

test('Megatron-LM, table 2: the same constants predict model parallelism and ZeRO-3', () => {
  const { ours } = compare('table 2, model parallel', TABLE_2_MODEL_PARALLEL)
  assert.ok(ours.worst <= 0.15)
  const { ours: zero, trivial } = compare('table 2, ZeRO-3', TABLE_2_ZERO_3)
  assert.ok(zero.worst <= 0.15)
  assert.ok(zero.mean < trivial.mean / 2)
})

test('Megatron-LM, figures 11, 12, 13 and 18: pipelines, interleaving, tensor against pipeline parallelism', () => {
  const groups = { FIGURE_11, FIGURE_12_PLAIN, FIGURE_12_INTERLEAVED, FIGURE_13, FIGURE_18 }
  for (const [name, rows] of Object.entries(groups)) {
    const { ours, trivial } = compare(name.toLowerCase().replaceAll('_', ' '), rows)
    assert.ok(ours.worst <= 0.15, `${name}: worst ${percent(ours.worst)}`)
    assert.ok(ours.mean < trivial.mean)
  }
  // What the figures are for: interleaving helps at every batch, and less at larger ones.
  const gains = FIGURE_12_PLAIN.map((row, index) => predict(FIGURE_12_INTERLEAVED[index]!) / predict(row))
  for (const [index, gain] of gains.entries()) {
    assert.ok(gain > 1.05 && (index === 0 || gain < gains[index - 1]!), `gains ${gains}`)
  }
  // "up to 11%" by scattering (section 5.7).
  const scattered = FIGURE_18.map((row, index) => predict(FIGURE_12_INTERLEAVED[index]!) / predict(row) - 1)
  assert.ok(Math.max(...scattered) > 0.06 && Math.max(...scattered) < 0.14, `gains ${scattered}`)
})

test('Megatron-LM, figures 14 to 16: pipeline and tensor against data parallelism, micro-batches', () => {
  for (const [name, rows] of Object.entries({ FIGURE_14, FIGURE_15, FIGURE_16 })) {
    const { ours } = compare(name.toLowerCase().replaceAll('_', ' '), rows)
    assert.ok(ours.worst <= 0.15, `${name}: worst ${percent(ours.worst)}`)
  }
  // What its point at a batch of 32 is about: groups that share a node without filling it contend for adapters.
  const free = FIGURE_15.map((row) => ({ ...row, software: { ...row.software, collectiveRails: 'all' as const } }))
  assert.ok(compare('figure 15, every device its own adapter', free).ours.worst > 0.3)
})

test('Megatron-LM, recomputation, full and selective: model FLOP/s (arXiv:2205.05198, table 5)', () => {
  const { ours } = compare('recomputation', RECOMPUTATION)
  assert.ok(ours.worst <= 0.15)
  for (let index = 0; index < RECOMPUTATION.length; index += 2) {
    const [full, selective] = [predict(RECOMPUTATION[index]!), predict(RECOMPUTATION[index + 1]!)]
    const published = RECOMPUTATION[index + 1]!.published / RECOMPUTATION[index]!.published
    assert.ok(Math.abs(selective / full / published - 1) < 0.05, `${RECOMPUTATION[index]!.name}: ${selective / full}`)
  }
})

test('Llama 3 405B on 8192 and 16384 H100 (arXiv:2407.21783, table 4)', () => {
  const { ours } = compare('Llama 3 405B', LLAMA_3_ROWS)
  assert.ok(ours.worst <= 0.05, `worst ${percent(ours.worst)}`)
  assert.equal(ours.rank, 1)
})

test('torchtitan, 8 B, 70 B and 405 B on 8 to 512 H100 (arXiv:2410.06511)', () => {
  for (const [name, rows] of Object.entries({ TORCHTITAN_8B, TORCHTITAN_70B, TORCHTITAN_405B })) {
    const { ours, trivial } = compare(name.toLowerCase().replaceAll('_', ' '), rows)
    assert.ok(ours.worst <= 0.15, `${name}: worst ${percent(ours.worst)}`)
    // The two rows of 70 B are 6 % apart, so that their average is hard to beat.
    if (rows !== TORCHTITAN_70B) assert.ok(ours.mean < trivial.mean / 2)
  }
})
