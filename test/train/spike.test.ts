// Runs that go wrong: a loss that is no number or far above the last stops training and leaves what explains it; a step
// replayed is the step that was, and changes nothing.
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { before, test } from 'node:test'
import type { StepReport } from '../../src/train/pretrain.ts'
import { SpikeDetector } from '../../src/train/spike.ts'
import { emptyFolder, trainyard } from '../cli/program.ts'

const report = (loss: number, isGradientFinite = true): StepReport => ({
  step: 1,
  loss,
  lr: 1,
  gradNorm: 1,
  isFinite: isGradientFinite,
  usedGradScale: 1,
  gradScale: 1,
  skippedSteps: 0,
  trainedTokens: 1,
  epoch: 0,
  seconds: 1,
})

test('a loss far above the last fifty is a spike, one at their upper edge is not', () => {
  const detector = new SpikeDetector(8)
  for (let i = 0; i < 50; i++) assert.equal(detector.check(report(3 + (i % 2) / 10)), undefined)
  assert.equal(detector.check(report(3.3)), undefined)
  assert.match(detector.check(report(5)) ?? '', /its loss 5\.0000 is more than 8 standard deviations above/)
})

test('before fifty losses, and with 0, only what is no number stops a run', () => {
  const [early, never] = [new SpikeDetector(8), new SpikeDetector(0)]
  for (let i = 0; i < 49; i++) assert.equal(early.check(report(1)), undefined)
  assert.equal(early.check(report(100)), undefined)
  for (let i = 0; i < 60; i++) assert.equal(never.check(report(1)), undefined)
  assert.equal(never.check(report(100)), undefined)
  assert.equal(never.check(report(Number.NaN)), 'its loss is NaN')
  assert.match(never.check(report(1, false)) ?? '', /gradient norm/)
})

const folder = emptyFolder()
const train = (out: string, ...more: string[]) =>
  trainyard(
    [
      ...['pretrain', '--data', 'data', '--out', out, '--depth', '1', '--seq-len', '32', '--batch-tokens', '256'],
      ...['--micro-batch-size', '4', '--eval-every-steps', '0', '--threads', '1', '--max-steps', '12', ...more],
    ],
    {},
    folder,
  )

before(() => {
  mkdirSync(join(folder, 'in'))
  for (let i = 0; i < 20; i++)
    writeFileSync(join(folder, 'in', `${i}.txt`), `Text ${i} ${'goes on and on, '.repeat(40)}`)
  const words = ['data', 'prepare', 'in', '--out', 'data', '--train-tokenizer', '300', '--validation-fraction', '0']
  const { status, stderr } = trainyard(words, {}, folder)
  assert.equal(status, 0, stderr)
})

test('training that diverges stops with one sentence, its documents and norms, and can be replayed', () => {
  const wild = ['--optimizer', 'sgd', '--lr', '1e6', '--warmup-steps', '0', '--grad-clip', '0']
  const { status, stderr } = train('wild', ...wild)
  assert.equal(status, 1)
  const stop =
    /training stopped at step (\d+): its (?:loss|gradient norm) is (?:NaN|Infinity); .* --replay \1 runs exactly this step again/.exec(
      stderr,
    )
  assert.ok(stop !== null, stderr)
  const step = stop[1]!
  const path = join(folder, 'wild', 'spikes', `step-${step}.json`)
  const spike = JSON.parse(readFileSync(path, 'utf8')) as {
    layers: { unit: string; gradNorm: string }[]
    documents: { document: number; from: number; to: number }[]
  }
  assert.deepEqual(
    spike.layers.map(({ unit }) => unit),
    ['shared', 'model.layers.0'],
  )
  assert.equal(
    spike.documents.reduce((sum, { from, to }) => sum + to - from, 0),
    256,
  )
  assert.match(train('wild', ...wild, '--replay', step).stdout, /, as it was; gradient norm/)
})

test('a replayed step has the loss that it had, from a checkpoint or from the start, and the run stays as it is', () => {
  assert.equal(train('good', '--save-every-steps', '5').status, 0)
  const state = (): string =>
    ['metrics.jsonl', 'config.json']
      .map((name) => readFileSync(join(folder, 'good', name), 'utf8'))
      .concat(readdirSync(join(folder, 'good', 'checkpoints')))
      .join()
  const before = state()
  const late = train('good', '--save-every-steps', '5', '--replay', '12')
  assert.match(late.stdout, /replaying step 12 from step 10\nstep 12: loss [\d.]+, as it was/)
  const early = train('good', '--save-every-steps', '5', '--replay', '3')
  assert.match(early.stdout, /replaying step 3 from step 0\nstep 3: loss [\d.]+, as it was/)
  assert.equal(state(), before)
  assert.ok(existsSync(join(folder, 'good', 'spikes', 'step-3.json')))
})
