// A slice of the fuzz campaign through the program (tools/fuzz.ts --cli runs the long one), and good files, which must
// go through.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { cliTargets, runCli } from './cli.ts'
import { makeSeeds } from './seeds.ts'

const INPUTS = 20
const targets = cliTargets(await makeSeeds())

test(`${INPUTS} damaged inputs: success or one sentence, nothing changed that was there`, async () => {
  const inputs = Array.from({ length: INPUTS }, (_, k) => ({
    target: targets[k % targets.length]!,
    index: Math.floor(k / targets.length),
  }))
  const lane = async (): Promise<void> => {
    for (let next = inputs.pop(); next !== undefined; next = inputs.pop()) {
      const { kind, detail } = await runCli(next.target, 2, next.index)
      assert.notEqual(
        kind,
        'wrong',
        `node tools/fuzz.ts --cli --seed 2 --only "${next.target.name}" --input ${next.index}: ${detail}`,
      )
    }
  }
  await Promise.all([lane(), lane()])
})

test('good files go through, unless their result would fall on an earlier one', async () => {
  for (const target of targets) {
    const { kind, detail } = await runCli({ ...target, mutate: () => new Map() }, 2, 0)
    if (kind === 'accepted') continue
    assert.ok(kind === 'refused' && /already/.test(detail), `${target.name}: ${detail}`)
  }
})
