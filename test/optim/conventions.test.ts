// Adam by the paper and by the lecture notes: their first steps against the formulas, and docs/optimizers.md against
// what tools/adam-conventions.ts measures.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { constantGradient, constantGradientTable, tinyModel, tinyModelTable } from '../../tools/adam-conventions.ts'

const [beta1, beta2, eps] = [0.9, 0.999, 1e-8]

for (const gradient of [1, -3, 1e-4]) {
  test(`under a constant gradient of ${gradient} each step is what its formula gives`, async () => {
    const paper = await constantGradient('paper', gradient, 6)
    const notes = await constantGradient('notes', gradient, 6)
    for (let step = 1; step <= 6; step++) {
      // Corrected moments of a constant gradient are the gradient and its square.
      assert.ok(Math.abs(paper[step - 1]! - gradient / (Math.abs(gradient) + eps)) < 1e-12)
      const m = (1 - beta1 ** (step - 1)) * gradient
      const v = (1 - beta2 ** (step - 1)) * gradient ** 2
      assert.ok(Math.abs(notes[step - 1]! - m / Math.sqrt(v + eps)) < 1e-10, `step ${step}: ${notes[step - 1]}`)
    }
  })
}

test("the notes' first step leaves a model as it was, the paper's does not", async () => {
  const [before, after] = (await tinyModel('notes', 0.01, 1)) as [number, number]
  assert.equal(after, before)
  const [start, moved] = (await tinyModel('paper', 0.01, 1)) as [number, number]
  assert.equal(start, before)
  assert.ok(moved < start)
})

test('docs/optimizers.md shows what the tool prints', async () => {
  const text = readFileSync(new URL('../../docs/optimizers.md', import.meta.url), 'utf8')
  for (const table of [await constantGradientTable(), await tinyModelTable()]) {
    assert.ok(text.includes(table), `expected in docs/optimizers.md (node tools/adam-conventions.ts):\n${table}`)
  }
})
