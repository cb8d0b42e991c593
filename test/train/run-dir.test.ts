// Run folders: the configuration guards a run, logs survive a cut last line, metrics rewind.
import assert from 'node:assert/strict'
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { CheckpointError, ConfigError } from '../../src/core/errors.ts'
import { RunDir } from '../../src/train/run-dir.ts'

const newPath = (): string => join(mkdtempSync(join(tmpdir(), 'trainyard-run-')), 'runs', 'tiny')
const config = { lr: 1e-3, maxSteps: 10, model: { hiddenSize: 64, layers: [1, 2] }, note: undefined }

test('a new run holds its configuration and what is written to it', async () => {
  const path = newPath()
  const run = await RunDir.open(path, config)
  run.appendMetrics({ step: 1, 'train/loss': 3.5 })
  run.appendMetrics({ step: 2, 'train/loss': Number.NaN })
  run.appendLog({ time: '2026-01-01T00:00:00Z', message: 'started' })
  await run.writeSample(2, 'Once upon a time')
  await run.writePlan({ parameters: 12 })
  await run.writeActual({ parameters: 12 })
  assert.deepEqual(readdirSync(path).sort(), [
    'actual.json',
    'config.json',
    'log.jsonl',
    'metrics.jsonl',
    'plan.json',
    'samples',
  ])
  assert.deepEqual(run.metrics(), [
    { step: 1, 'train/loss': 3.5 },
    { step: 2, 'train/loss': null },
  ])
  assert.equal(readFileSync(join(path, 'samples', 'step-2.txt'), 'utf8'), 'Once upon a time')
})

test('a folder that is removed while a run writes to it is one sentence', async () => {
  const path = newPath()
  const run = await RunDir.open(path, config)
  rmSync(path, { recursive: true })
  assert.throws(
    () => run.appendMetrics({ step: 1 }),
    (error: Error) =>
      error instanceof CheckpointError && /^\/.*: the folder of the run was removed or moved/.test(error.message),
  )
})

test('another configuration is refused by the keys that differ, harmless ones pass', async () => {
  const path = newPath()
  await RunDir.open(path, config)
  await assert.rejects(RunDir.open(path, config), /there is a run already; go on with --resume/)
  await RunDir.open(path, { ...config, note: undefined }, { resume: true })
  const changed = { ...config, lr: 2e-3, model: { hiddenSize: 32, layers: [1, 3] }, seed: 1 }
  await assert.rejects(RunDir.open(path, changed, { resume: true }), (error: Error) => {
    assert.ok(error instanceof ConfigError)
    assert.match(error.message, /lr was 0.001, now 0.002, model.hiddenSize was 64, now 32, model.layers was \[1,2\]/)
    assert.match(error.message, /and 1 more/)
    return true
  })
  const harmless = ['lr', 'model', 'seed']
  await RunDir.open(path, changed, { resume: true, harmless })
  assert.equal(JSON.parse(readFileSync(join(path, 'config.json'), 'utf8')).lr, 2e-3)
  await assert.rejects(RunDir.open(path, { ...changed, lrx: 1 }, { resume: true, harmless }), /lrx was not set, now 1/)
  // An option that came after the run was started, at what it means where it is not given.
  const defaults = { lrx: 1 }
  await assert.rejects(
    RunDir.open(path, { ...changed, lrx: 2 }, { resume: true, harmless, defaults }),
    /lrx was 1, now 2/,
  )
  await RunDir.open(path, { ...changed, lrx: 1 }, { resume: true, harmless, defaults })
})

test('metrics rewind to the step a run goes on from, without the line that a crash cut', async () => {
  const path = newPath()
  const run = await RunDir.open(path, config)
  for (let step = 1; step <= 5; step++) run.appendMetrics({ step, loss: step })
  appendFileSync(join(path, 'metrics.jsonl'), '{"step":6,"lo')
  mkdirSync(join(path, 'checkpoints', '.step-6.tmp-0123456789ab'), { recursive: true })
  const again = await RunDir.open(path, config, { resume: true })
  assert.deepEqual(readdirSync(join(path, 'checkpoints')), [])
  assert.equal(again.metrics().length, 5)
  again.appendMetrics({ step: 6, loss: 6 })
  assert.equal(again.metrics().length, 6)
  await again.rewindMetrics(3)
  again.appendMetrics({ step: 4, loss: 40 })
  assert.deepEqual(
    again.metrics().map(({ loss }) => loss),
    [1, 2, 3, 40],
  )
  assert.ok(readFileSync(join(path, 'metrics.jsonl'), 'utf8').endsWith('}\n'))
})
