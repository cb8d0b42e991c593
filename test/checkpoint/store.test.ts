// Checkpoint folders: complete or not there, every flipped bit found, pruning that keeps what can be resumed from.
import assert from 'node:assert/strict'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { findModelFolder } from '../../src/checkpoint/model-folder.ts'
import {
  bestComplete,
  checkpointsFolder,
  cleanTemporary,
  type Keep,
  listCheckpoints,
  newestComplete,
  pruneCheckpoints,
  verifyCheckpoint,
  writeCheckpoint,
} from '../../src/checkpoint/store.ts'
import { CheckpointError } from '../../src/core/errors.ts'

const root = mkdtempSync(join(tmpdir(), 'trainyard-store-'))
const newRun = (): string => mkdtempSync(join(root, 'run-'))

async function writeStep(run: string, step: number, keep?: Keep, loss?: number, tokens = 1000): Promise<string> {
  return await writeCheckpoint(
    run,
    step,
    async (folder) => {
      writeFileSync(join(folder, 'model.safetensors'), `weights of ${step}`)
      mkdirSync(join(folder, 'state'))
      writeFileSync(join(folder, 'state', 'trainer.json'), JSON.stringify({ step }))
    },
    { keep, heldOut: loss === undefined ? undefined : { loss, tokens } },
  )
}

const steps = (run: string): number[] => listCheckpoints(run).map(({ step }) => step)

test('a written checkpoint is complete, listed in the order of steps, and the newest is found', async () => {
  const run = newRun()
  assert.deepEqual(newestComplete(run), { skipped: [] })
  for (const step of [5, 100, 20]) await writeStep(run, step)
  assert.deepEqual(steps(run), [5, 20, 100])
  const path = join(checkpointsFolder(run), 'step-100')
  assert.deepEqual(newestComplete(run), { checkpoint: { step: 100, path }, skipped: [] })
  verifyCheckpoint(path)
  writeFileSync(join(path, 'note.txt'), 'files of the user are no fault')
  verifyCheckpoint(path)
})

test('every flipped bit of every file is found, and the one before is taken', async () => {
  const run = newRun()
  await writeStep(run, 1)
  const path = await writeStep(run, 2)
  const files = ['model.safetensors', 'state/trainer.json', 'complete.json']
  fc.assert(
    fc.property(fc.constantFrom(...files), fc.nat(), fc.nat({ max: 7 }), (name, at, bit) => {
      const file = join(path, name)
      const bytes = readFileSync(file)
      const damaged = Uint8Array.from(bytes)
      damaged[at % bytes.length]! ^= 1 << bit
      writeFileSync(file, damaged)
      const { checkpoint, skipped } = newestComplete(run)
      assert.equal(checkpoint?.step, 1, `${name} byte ${at % bytes.length} bit ${bit}`)
      assert.equal(skipped.length, 1)
      assert.ok(skipped[0]!.problem!.includes(path), skipped[0]!.problem)
      writeFileSync(file, bytes)
    }),
    { numRuns: 400, seed: 4 },
  )
  assert.equal(newestComplete(run).checkpoint?.step, 2)
})

test('missing, cut and swapped files say what is wrong', async () => {
  const run = newRun()
  const path = await writeStep(run, 3)
  const damage = (change: () => void, message: RegExp): void => {
    const saved = `${path}-saved`
    cpSync(path, saved, { recursive: true })
    change()
    assert.throws(
      () => verifyCheckpoint(path),
      (error: Error) => error instanceof CheckpointError && message.test(error.message),
    )
    assert.equal(newestComplete(run).checkpoint, undefined)
    rmSync(path, { recursive: true })
    cpSync(saved, path, { recursive: true })
    rmSync(saved, { recursive: true })
  }
  damage(() => rmSync(join(path, 'complete.json')), /there is no complete.json, so it was never finished/)
  damage(() => rmSync(join(path, 'state/trainer.json')), /trainer.json: expected 10 bytes, found no file/)
  damage(() => writeFileSync(join(path, 'model.safetensors'), 'short'), /expected 12 bytes, found 5/)
  damage(() => writeFileSync(join(path, 'model.safetensors'), 'weights of 4'), /SHA-256/)
  damage(() => writeFileSync(join(path, 'complete.json'), '{}'), /not as they were written/)
  damage(() => writeFileSync(join(path, 'complete.json'), '{'), /not readable JSON/)
  cpSync(path, join(checkpointsFolder(run), 'step-9'), { recursive: true })
  assert.match(listCheckpoints(run)[1]!.problem!, /says step 3; the folder was renamed/)
})

test('pruning keeps the newest, and never the damaged in place of the whole', async () => {
  const run = newRun()
  for (const step of [1, 2, 3, 4]) await writeStep(run, step, { keepLast: 3 })
  assert.deepEqual(steps(run), [2, 3, 4])
  // The newest rots: with keepLast 1 the one before must stay.
  writeFileSync(join(checkpointsFolder(run), 'step-4', 'model.safetensors'), 'weights of X')
  await pruneCheckpoints(run, { keepLast: 1 })
  assert.deepEqual(steps(run), [3, 4])
  assert.equal(newestComplete(run).checkpoint?.step, 3)
  await writeStep(run, 5, { keepLast: 1 })
  assert.deepEqual(steps(run), [5])
  await pruneCheckpoints(run, { keepLast: 0 })
  assert.deepEqual(steps(run), [5])
})

test('the best by held-out loss stay beside the newest, whatever comes after', async () => {
  const run = newRun()
  const keep = { keepLast: 2, keepBest: 2 }
  const losses = [3.9, 3.1, undefined, 3.3, 3.2, 3.5, undefined, 3.6]
  for (const [i, loss] of losses.entries()) await writeStep(run, i + 1, keep, loss)
  assert.deepEqual(steps(run), [2, 5, 7, 8])
  assert.deepEqual(
    listCheckpoints(run).map(({ heldOut }) => heldOut?.loss),
    [3.1, 3.2, undefined, 3.6],
  )
  assert.equal(bestComplete(run).checkpoint?.step, 2)
  // A tie: the earlier one is the best.
  await writeStep(run, 9, keep, 3.1)
  assert.equal(bestComplete(run).checkpoint?.step, 2)
  assert.deepEqual(steps(run), [2, 8, 9])
  await pruneCheckpoints(run, { keepLast: 1, keepBest: 1 })
  assert.deepEqual(steps(run), [2, 9])
  await pruneCheckpoints(run, { keepLast: 1 })
  assert.deepEqual(steps(run), [9])
})

test('a best that rots is passed over, and the next best is kept in its place', async () => {
  const run = newRun()
  const keep = { keepLast: 1, keepBest: 2 }
  for (const [i, loss] of [3.1, 3.2, 3.3].entries()) await writeStep(run, i + 1, keep, loss)
  assert.deepEqual(steps(run), [1, 2, 3])
  writeFileSync(join(checkpointsFolder(run), 'step-1', 'model.safetensors'), 'weights of X')
  const { checkpoint, skipped } = bestComplete(run)
  assert.equal(checkpoint?.step, 2)
  assert.match(skipped[0]!.problem!, /step-1.*SHA-256/)
  // Sizes alone do not show it: it counts as evaluated, and must not push a whole one out.
  await writeStep(run, 4, keep, 3.4)
  assert.deepEqual(steps(run), [2, 3, 4])
})

test('a held-out loss is guarded by the marker, and is compared only over as much text', async () => {
  const run = newRun()
  const keep = { keepLast: 1, keepBest: 1 }
  await writeStep(run, 1, keep, 2, 500)
  await writeStep(run, 2, keep, 3.3)
  assert.deepEqual(steps(run), [2], 'a loss over another text is no reason to stay')
  const marker = join(await writeStep(run, 3, keep, 3.4), 'complete.json')
  assert.deepEqual(steps(run), [2, 3])
  writeFileSync(marker, readFileSync(marker, 'utf8').replace('3.4', '2.4'))
  assert.match(listCheckpoints(run)[1]!.problem!, /not as they were written/)
  assert.equal(bestComplete(run).checkpoint?.step, 2)
})

test('<run>/best names the best checkpoint', async () => {
  const run = newRun()
  await writeStep(run, 1)
  assert.throws(
    () => findModelFolder(join(run, 'best')),
    /no complete checkpoint of the run has a held-out loss.*keep-best/,
  )
  await writeStep(run, 2, undefined, 3)
  await writeStep(run, 3, undefined, 4)
  assert.equal(findModelFolder(join(run, 'best')).folder, join(checkpointsFolder(run), 'step-2'))
  assert.equal(findModelFolder(run).folder, join(checkpointsFolder(run), 'step-3'))
  assert.throws(() => findModelFolder(join(run, 'worst')), /no such folder/)
})

test('a step written again replaces the old one; a failing writer leaves it', async () => {
  const run = newRun()
  const path = await writeStep(run, 7)
  await writeCheckpoint(run, 7, async (folder) => writeFileSync(join(folder, 'other'), 'new'))
  assert.deepEqual(readdirSync(path).sort(), ['complete.json', 'other'])
  const failing = writeCheckpoint(run, 7, async () => {
    throw new Error('disk full')
  })
  await assert.rejects(failing, /disk full/)
  assert.equal(newestComplete(run).checkpoint?.step, 7)
  assert.deepEqual(readdirSync(checkpointsFolder(run)), ['step-7'])
})

test('leftovers of a crash are cleaned up, and a half-done replacement is undone', async () => {
  const run = newRun()
  const path = await writeStep(run, 7)
  const parent = checkpointsFolder(run)
  for (const name of ['.step-8.tmp-00ff00ff00ff', '.step-6.removed-00ff00ff00ff', '.step-7.replaced-aaaaaaaaaaaa']) {
    cpSync(path, join(parent, name), { recursive: true })
  }
  mkdirSync(join(parent, '.mine'))
  await cleanTemporary(run)
  assert.deepEqual(readdirSync(parent).sort(), ['.mine', 'step-7'])
  cpSync(path, join(parent, '.step-7.replaced-aaaaaaaaaaaa'), { recursive: true })
  rmSync(path, { recursive: true })
  await cleanTemporary(run)
  verifyCheckpoint(path)
  assert.ok(!existsSync(join(parent, '.step-7.replaced-aaaaaaaaaaaa')))
})
