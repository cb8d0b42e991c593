// Our own runs: a run that cannot fit is refused, and fits and trains after the change that the refusal names; what is
// predicted of a run is held against what it took.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { ConfigError } from '../../src/core/errors.ts'
import { anonymousBytes } from '../../src/machine/memory.ts'
import { openDevice } from '../../src/open.ts'
import { type Reconciled, reconcile } from '../../src/plan/reconcile.ts'
import { initialLossOf } from '../../src/plan/run-outlook.ts'
import type { FitShape } from '../../src/train/fit.ts'
import { PeakMemory } from '../../src/train/memory.ts'
import { Pretraining } from '../../src/train/pretrain.ts'
import { modelConfig, modelFromDepth, type RunSettings } from '../../src/train/settings.ts'
import { emptyFolder, trainyard } from '../cli/program.ts'
import { temporaryFolder, writeDataset, writeRandomData } from '../data/fixtures.ts'
import { allowedError } from '../train/memory-run.ts'

const GIB = 2 ** 30
const MIB = 2 ** 20

const SETTINGS: RunSettings = {
  model: modelFromDepth(4, 128),
  seqLen: 128,
  batchTokens: 4096,
  microBatchSize: 32,
  packing: 'windows',
  seed: 1,
  dropout: 0,
  recompute: 'none',
  optimizer: { kind: 'adamw', weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0.9 },
  schedule: { kind: 'constant', lr: 1e-3, minLr: 1e-3, warmupSteps: 0, maxSteps: 8, decayFraction: 0 },
  gradClip: 1,
}

/** The options that a refusal names, as they are read from the command line. */
function fixIn(message: string): Partial<FitShape> {
  const advice = /the cheapest change that fits is (.*) \([\d.]+ \w+\)$/.exec(message)?.[1]
  assert.ok(advice !== undefined, message)
  const number = (flag: string): number | undefined => {
    const text = new RegExp(`--${flag} (\\d+)`).exec(advice)?.[1]
    return text === undefined ? undefined : Number(text)
  }
  const recompute = /--recompute (\w+)/.exec(advice)?.[1] as FitShape['recompute'] | undefined
  const [microBatchSize, seqLen] = [number('micro-batch-size'), number('seq-len')]
  return {
    ...(microBatchSize !== undefined && { microBatchSize }),
    ...(seqLen !== undefined && { seqLen }),
    ...(recompute !== undefined && { recompute }),
    ...(advice.includes('--no-async-save') && { asyncSave: false }),
  }
}

test('a run that cannot fit is refused; with the change that the refusal names it runs, in the memory that there was', async (t) => {
  if (process.platform !== 'linux') return t.skip('anonymous memory is read from /proc')
  const device = await openDevice('cpu', { threads: 1 })
  const dataset = writeDataset([Array.from({ length: 20_000 }, (_, i) => (i * i) % 61)], { vocabSize: 61 })
  const open = (changes: Partial<FitShape>, availableBytes: number): Promise<Pretraining> => {
    const { asyncSave = true, ...shape } = changes
    const settings = { ...SETTINGS, ...shape }
    const config = modelConfig(settings.model, { vocabSize: 61 })
    const run = { device, settings, config, dataset, tokenizerFiles: {}, numerics: {} }
    return Pretraining.open({ ...run, asyncSave, availableBytes })
  }
  const whole = await open({}, 100 * GIB)
  const needed = whole.memory.totalBytes - whole.memory.baseBytes
  whole.step.close()
  // First room for fewer activations, then for none of them.
  for (const share of [0.7, 0.4]) {
    const availableBytes = share * needed
    const refusal = await open({}, availableBytes).then(
      () => assert.fail('it was not refused'),
      (error: Error) => error,
    )
    assert.ok(refusal instanceof ConfigError, refusal.stack)
    const change = fixIn(refusal.message)
    const limit = anonymousBytes() + availableBytes
    const training = await open(change, availableBytes)
    const memory = new PeakMemory(device)
    let loss = Number.NaN
    for (let step = 0; step < 2; step++) {
      loss = (await training.trainStep()).loss
      memory.sample()
    }
    assert.ok(loss > 1 && loss < 6, String(loss))
    assert.ok(memory.bytes <= limit + 32 * MIB, `${memory.bytes} of ${limit}`)
    t.diagnostic(
      `${(share * 100).toFixed(0)} % of the memory: ${JSON.stringify(change)}, loss after two steps ${loss.toFixed(3)}`,
    )
    training.step.close()
  }
  device.close()
})

/** `--a 1 --no-b --c` as options, to be laid over others. */
function optionsIn(words: string): Record<string, string> {
  return Object.fromEntries(
    [...words.matchAll(/--([\w-]+)(?: (\w+))?/g)].map(([, name, value]) => [name!, value ?? '']),
  )
}

test('the program: a run over its memory limit is refused in a sentence; with the change that it names the run trains within the limit', (t) => {
  if (process.platform !== 'linux') return t.skip('anonymous memory is read from /proc')
  const cwd = emptyFolder()
  writeRandomData(join(cwd, 'data'), { vocabSize: 256, trainTokens: 20_000, validationTokens: 0 })
  const pretrain = (options: Record<string, string>) => {
    const flags = Object.entries(options).flatMap(([name, value]) => [`--${name}`, ...(value === '' ? [] : [value])])
    return trainyard(['pretrain', '--data', 'data', ...flags], {}, cwd)
  }
  const shape = '--depth 2 --seq-len 128 --batch-tokens 8192 --micro-batch-size 64 --max-steps 1 --threads 2'
  // Little enough for a smaller micro-batch, and for a far smaller one.
  for (const gibibytes of ['0.18', '0.12']) {
    const wanted = { ...optionsIn(shape), out: `run-${gibibytes}`, 'memory-limit': gibibytes }
    const refused = pretrain(wanted)
    assert.equal(refused.status, 2, refused.stdout)
    const sentence =
      /^pretrain: the run needs [\d.]+ MiB of memory \(activations [^)]*\), this process can have [\d.]+ MiB \(--memory-limit\); the cheapest change that fits is (--.*) \([\d.]+ MiB\)\n$/
    const change = sentence.exec(refused.stderr)?.[1]
    assert.ok(change !== undefined, refused.stderr)
    const trained = pretrain({ ...wanted, ...optionsIn(change) })
    assert.equal(trained.status, 0, trained.stderr)
    assert.match(trained.stdout, /step 1\/1 /)
    const read = (name: string) =>
      JSON.parse(readFileSync(join(cwd, wanted.out, name), 'utf8')) as Record<string, number>
    const { peakAnonymousBytes, steps } = read('actual.json')
    assert.equal(steps, 1)
    assert.ok(peakAnonymousBytes! <= Number(gibibytes) * GIB, `${peakAnonymousBytes} of ${gibibytes} GiB, ${change}`)
    t.diagnostic(`${gibibytes} GiB: ${change}, then ${(peakAnonymousBytes! / MIB).toFixed(0)} MiB at most`)
  }
  // Without the limit the machine's memory counts.
  const { 'memory-limit': _, ...unlimited } = { ...optionsIn(shape), out: 'whole', 'memory-limit': '0.12' }
  assert.equal(pretrain(unlimited).status, 0)
})

test('a run of the program: parameters and arena exact, memory within max(3 %, 32 MiB), the first loss to 3 %', async (t) => {
  if (process.platform !== 'linux') return t.skip('anonymous memory is read from /proc')
  const cwd = emptyFolder()
  const docs = new URL('../../docs', import.meta.url).pathname
  const prepare = ['data', 'prepare', docs, '--split', 'blank-lines', '--train-tokenizer', '512', '--out', 'data']
  assert.equal(trainyard(prepare, {}, cwd).status, 0)
  const options = '--depth 2 --max-steps 6 --seq-len 64 --batch-tokens 1024 --eval-every-steps 0 --threads 2'
  const trained = trainyard(['pretrain', '--data', 'data', '--out', 'run', ...options.split(' ')], {}, cwd)
  assert.equal(trained.status, 0, trained.stderr)
  assert.match(trained.stdout, /\n {6}[\d.]+ tokens per parameter: under-trained by .*; first loss about \d\.\d\d\n/)
  const compared = trainyard(['plan', 'compare', 'run', '--json'], {}, cwd)
  assert.equal(compared.status, 0, compared.stderr)
  const rows = JSON.parse(compared.stdout) as Reconciled[]
  const row = (name: string): Reconciled => rows.find((candidate) => candidate.name === name)!
  assert.equal(row('parameters').error, 0)
  assert.equal(row('activations of a step').error, 0)
  const memory = row('memory of the process')
  assert.ok(Math.abs(memory.predicted - memory.measured) <= allowedError(memory.measured), JSON.stringify(memory))
  const loss = row('loss of the first step')
  // The targets' own logits are random too: a few frequent tokens move the mean by a tenth.
  assert.ok(Math.abs(loss.error) < 0.03, JSON.stringify(loss))
  assert.ok(Math.abs(loss.guess!.error) > 1.5 * Math.abs(loss.error), JSON.stringify(loss))
  assert.ok(row('tokens per second').measured > 0)
  assert.ok(row('time of training').measured > 0)
  for (const { name, error, guess } of rows) {
    t.diagnostic(
      `${name}: ${(100 * error).toFixed(1)} %; ${guess === undefined ? 'no simple guess' : `${guess.what}: ${(100 * guess.error).toFixed(1)} %`}`,
    )
  }
  const table = trainyard(['plan', 'compare', 'run'], {}, cwd).stdout.split('\n')
  assert.match(table[0]!, /predicted +measured +error +a simple guess +its error/)
  // What the run wrote is what was compared.
  const plan = JSON.parse(readFileSync(join(cwd, 'run', 'plan.json'), 'utf8')) as Record<string, unknown>
  const isBusy = Number(plan.loadAverage) > 1
  const note = table.filter((line) => line.includes('other programs computed here'))
  assert.equal(note.length, isBusy ? 1 : 0)
  assert.equal(table.filter((line) => line !== '').length, rows.length + 2 + note.length)
  assert.equal(plan.initialLoss, loss.predicted)
  assert.match(String(plan.verdict), /under-trained/)
})

test('the loss of random weights: ln V and half the variance of the logits', () => {
  const config = modelConfig(modelFromDepth(4, 64), { vocabSize: 1000 })
  assert.ok(Math.abs(initialLossOf(config) - (Math.log(1000) + 0.5)) < 1e-3)
})

test('a plan with no measurement yet, a stopped run and a run without losses are compared as far as they go', () => {
  const plan = { parameterCount: 100, maxSteps: 10, estimatedSeconds: 5, estimatedTokensPerSecond: 50, peakFlops: 1e6 }
  assert.deepEqual(reconcile(plan, {}, []), [])
  const stopped = reconcile(plan, { parameterCount: 100, steps: 4, secondsOfThisSession: 2, tokensPerSecond: 40 }, [])
  assert.deepEqual(
    stopped.map(({ name }) => name),
    ['parameters', 'tokens per second'],
  )
  assert.equal(stopped[1]!.error, 0.25)
  assert.deepEqual(stopped[1]!.guess, { what: '6 N D at the whole peak', value: 1e6 / 600, error: 1e6 / 600 / 40 - 1 })
})

test('plan compare of what is no run says what it expected', () => {
  const cwd = temporaryFolder()
  const { status, stderr } = trainyard(['plan', 'compare', '.'], {}, cwd)
  assert.equal(status, 2)
  assert.match(
    stderr,
    /^plan compare: expected a run of pretrain, but \. has no plan\.json, which is written before the first step\n$/,
  )
})
