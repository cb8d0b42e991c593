// Memory: what the machine and its control groups leave to the process, a run that does not fit and the change that makes
// it fit, and a real run of the char shape whose forecast is held against what it took, seen from outside.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import type { Device } from '../../src/core/device.ts'
import { ConfigError } from '../../src/core/errors.ts'
import { describeMemory } from '../../src/machine/memory.ts'
import { openDevice } from '../../src/open.ts'
import { CPU_SHAPES } from '../../src/train/bench-shapes.ts'
import { cheapestFit, type FitShape, refuse } from '../../src/train/fit.ts'
import { Pretraining } from '../../src/train/pretrain.ts'
import { modelConfig, modelFromDepth, type RunSettings } from '../../src/train/settings.ts'
import { temporaryFolder, writeDataset } from '../data/fixtures.ts'
import { allowedError, runForMemory } from './memory-run.ts'

const GIB = 2 ** 30
const MIB = 2 ** 20

/** A machine's files by path. */
function machine(files: Record<string, string>): (path: string) => string | undefined {
  const meminfo = 'MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\n'
  return (path) => ({ '/proc/meminfo': meminfo, ...files })[path]
}

test("available memory is the machine's, or less in a control group of either version", () => {
  assert.deepEqual(describeMemory(machine({})), { totalBytes: 16 * GIB, availableBytes: 8 * GIB })
  const second = {
    '/proc/self/cgroup': '0::/pod/job\n',
    '/sys/fs/cgroup/pod/job/memory.max': 'max\n',
    '/sys/fs/cgroup/pod/job/memory.current': `${1 * GIB}\n`,
    '/sys/fs/cgroup/pod/memory.max': `${4 * GIB}\n`,
    '/sys/fs/cgroup/pod/memory.current': `${3 * GIB}\n`,
    // Caches of files are given back; what is shared or dirty elsewhere is not counted among them.
    '/sys/fs/cgroup/pod/memory.stat': `anon ${2 * GIB}\nfile ${1 * GIB}\ninactive_file ${0.25 * GIB}\nactive_file ${0.5 * GIB}\n`,
  }
  assert.deepEqual(describeMemory(machine(second)), { totalBytes: 4 * GIB, availableBytes: 1.75 * GIB })
  const first = {
    '/proc/self/cgroup': '9:name=systemd:/\n4:cpu,memory:/job\n0::/\n',
    '/sys/fs/cgroup/memory/job/memory.limit_in_bytes': `${2 * GIB}\n`,
    '/sys/fs/cgroup/memory/job/memory.usage_in_bytes': `${3 * GIB}\n`,
    '/sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712\n',
    '/sys/fs/cgroup/memory/memory.usage_in_bytes': `${8 * GIB}\n`,
  }
  assert.deepEqual(describeMemory(machine(first)), { totalBytes: 2 * GIB, availableBytes: 0 })
})

test('what this machine says is between nothing and all of it', () => {
  const { totalBytes, availableBytes } = describeMemory()
  assert.ok(availableBytes > 0 && availableBytes <= totalBytes)
})

test('the cheapest change: micro-batches, then waiting for checkpoints, then recomputation, then shorter rows', () => {
  const shape: FitShape = { seqLen: 256, microBatchSize: 12, recompute: 'none', asyncSave: true }
  const activations = { none: 4, selective: 3, full: 1 }
  const bytesOf = ({ seqLen, microBatchSize, recompute, asyncSave }: FitShape): number =>
    10 + (asyncSave ? 3 : 0) + microBatchSize * activations[recompute] * (seqLen / 256)
  const fit = (limit: number): FitShape | undefined => cheapestFit(shape, 256 * 24, limit, bytesOf)?.shape
  // Any size that divides the 24 rows, the largest that fits.
  assert.deepEqual(fit(46), { ...shape, microBatchSize: 8 })
  assert.deepEqual(fit(37), { ...shape, microBatchSize: 6 })
  assert.deepEqual(fit(16), { ...shape, asyncSave: false, microBatchSize: 1 })
  assert.deepEqual(fit(13.5), { ...shape, asyncSave: false, recompute: 'selective', microBatchSize: 1 })
  assert.deepEqual(fit(11), { ...shape, asyncSave: false, recompute: 'full', microBatchSize: 1 })
  assert.deepEqual(fit(10.5), { ...shape, asyncSave: false, recompute: 'full', microBatchSize: 1, seqLen: 128 })
  assert.equal(fit(10), undefined)
})

test('recomputation in some layers becomes recomputation in all before it becomes a dearer one', () => {
  const shape: FitShape = {
    seqLen: 32,
    microBatchSize: 1,
    recompute: 'selective',
    recomputeLayers: 2,
    asyncSave: false,
  }
  const bytesOf = ({ recompute, recomputeLayers = 4 }: FitShape): number =>
    recompute === 'full' ? 1 : 10 - recomputeLayers
  const fit = (limit: number): FitShape => cheapestFit(shape, 32, limit, bytesOf)!.shape
  assert.deepEqual(fit(8), shape)
  assert.deepEqual(fit(6), { seqLen: 32, microBatchSize: 1, recompute: 'selective', asyncSave: false })
  assert.deepEqual(fit(5), { seqLen: 32, microBatchSize: 1, recompute: 'full', asyncSave: false })
  // As flags to paste, all layers have a number.
  const advice = (limitBytes: number) => (): never =>
    refuse(
      shape,
      { batchTokens: 32, layers: 4 },
      { what: 'memory', whose: 'this process', neededBytes: 8, parts: 'activations', limitBytes },
      bytesOf,
    )
  assert.throws(advice(6), /the cheapest change that fits is --recompute-layers 4 \(6 B\)/)
  assert.throws(advice(5), /the cheapest change that fits is --recompute full --recompute-layers 4 \(1 B\)/)
})

test('a step of one micro-batch is found where it needs less than smaller ones, whose gradients have memory of their own', () => {
  const shape: FitShape = { seqLen: 32, microBatchSize: 2, recompute: 'none', asyncSave: false }
  const bytesOf = ({ microBatchSize, recompute }: FitShape): number =>
    (microBatchSize === 2 ? 0 : 8) + microBatchSize * (recompute === 'none' ? 5 : 3)
  assert.deepEqual(cheapestFit(shape, 64, 7, bytesOf)?.shape, { ...shape, recompute: 'selective' })
})

test('a run that does not fit is refused, and with the change it names it fits', async () => {
  const device = await openDevice('cpu', { threads: 1 })
  const settings: RunSettings = {
    model: modelFromDepth(4, 128),
    seqLen: 128,
    batchTokens: 2048,
    microBatchSize: 16,
    packing: 'windows',
    seed: 1,
    dropout: 0,
    recompute: 'none',
    optimizer: { kind: 'adamw', weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0.9 },
    schedule: { kind: 'constant', lr: 1e-3, minLr: 1e-3, warmupSteps: 0, maxSteps: 1, decayFraction: 0 },
    gradClip: 1,
  }
  const dataset = writeDataset([Array.from({ length: 5000 }, (_, i) => i % 61)], { vocabSize: 61 })
  const config = modelConfig(settings.model, { vocabSize: 61 })
  const open = (changes: Partial<FitShape>, availableBytes: number): Promise<Pretraining> => {
    const { asyncSave = true, ...shape } = changes
    const run = { device, settings: { ...settings, ...shape }, config, dataset, tokenizerFiles: {}, numerics: {} }
    return Pretraining.open({ ...run, asyncSave, availableBytes })
  }
  const whole = await open({}, 100 * GIB)
  const { plan, memory } = whole
  assert.equal(memory.stagingBytes, plan.parameterBytes + plan.optimizerBytes)
  assert.equal(memory.totalBytes, memory.baseBytes + memory.deviceBytes + memory.scratchBytes + memory.stagingBytes)
  const needed = memory.totalBytes - memory.baseBytes
  const refused = async (availableBytes: number): Promise<string> => {
    const error = await open({}, availableBytes).then(
      () => assert.fail('it was not refused'),
      (problem: Error) => problem,
    )
    assert.ok(error instanceof ConfigError, error.stack)
    assert.match(error.message, /^pretrain: the run needs .* of memory \(activations .*\), this process can have /)
    return error.message
  }
  // The heap's room belongs to what is needed.
  await open({}, needed + 64 * MIB)
  const smaller = /the cheapest change that fits is --micro-batch-size (\d+) \(/.exec(await refused(0.6 * needed))
  const microBatchSize = Number(smaller?.[1])
  assert.ok(microBatchSize >= 1 && microBatchSize < 16, String(smaller))
  const changed = await open({ microBatchSize }, 0.6 * needed + 64 * MIB)
  assert.equal(changed.microBatchesPerStep, 16 / microBatchSize)
  // Parameters, gradients, optimizer and little else: the copy must go, and then activations be made again.
  const { parameterBytes, gradientBytes, optimizerBytes } = plan
  const least = parameterBytes + gradientBytes + optimizerBytes + memory.scratchBytes
  assert.match(await refused(least + 16 * MIB), /fits is .*--no-async-save \(/)
  assert.match(await refused(parameterBytes), /no micro-batch, .* makes it fit: take a smaller model/)
  device.close()
})

test('on a card too: with the named change, whose gradients may no longer lie among activations, the run fits', async () => {
  const cpu = await openDevice('cpu', { threads: 1 })
  const device: Device = cpu
  const settings: RunSettings = {
    model: modelFromDepth(2, 256, { hiddenSize: 64 }),
    seqLen: 256,
    batchTokens: 256,
    microBatchSize: 1,
    packing: 'windows',
    seed: 1,
    dropout: 0,
    recompute: 'full',
    optimizer: { kind: 'adamw', weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0.9 },
    schedule: { kind: 'constant', lr: 1e-3, minLr: 1e-3, warmupSteps: 0, maxSteps: 1, decayFraction: 0 },
    gradClip: 1,
  }
  const dataset = writeDataset([Array.from({ length: 5000 }, (_, i) => i % 64)], { vocabSize: 64 })
  const config = modelConfig(settings.model, { vocabSize: 64 })
  /** The CPU as a card of so many bytes, all of them free. */
  const open = (bytes: number, seqLen = settings.seqLen, memoryLimitBytes?: number): Promise<Pretraining> => {
    device.ownMemory = () => ({ freeBytes: bytes, totalBytes: bytes, tensorBytes: 0, scratchBytes: 0 })
    const run = { settings: { ...settings, seqLen }, config, dataset, tokenizerFiles: {}, numerics: {} }
    return Pretraining.open({ device, ...run, memoryLimitBytes })
  }
  const whole = await open(GIB)
  assert.ok(whole.plan.sharedGradientBytes > 0)
  const needed = whole.memory.ownTotalBytes!
  // A limit is of the card's memory there, not of the process's, which takes more.
  await open(GIB, settings.seqLen, needed)
  await assert.rejects(
    open(GIB, settings.seqLen, 0.9 * needed),
    /of memory of the card .*, cpu can have [\d.]+ MiB \(--memory-limit\); /,
  )
  let isShorterNamed = false
  for (let share = 0.99; share > 0.6; share -= 0.01) {
    const bytes = Math.floor(share * needed)
    const problem = await open(bytes).then(
      () => assert.fail('it was not refused'),
      (error: Error) => error,
    )
    assert.ok(problem instanceof ConfigError, problem.stack)
    const shorter = /fits is --seq-len (\d+) \(/.exec(problem.message)
    if (shorter === null) continue
    isShorterNamed = true
    await open(bytes, Number(shorter[1]))
  }
  assert.ok(isShorterNamed)
  cpu.close()
})

test('the char shape with checkpoints: the forecast is within max(3 %, 32 MiB) of what the process took', async (t) => {
  if (process.platform !== 'linux') return t.skip('anonymous memory is read from /proc')
  const cwd = temporaryFolder()
  const days = { maxSteps: 24, saveEverySteps: 6, evalEverySteps: 8, threads: 2 }
  const { status, stdout, seen, recorded, predicted } = await runForMemory(CPU_SHAPES.char!, days, cwd)
  assert.equal(status, 0)
  const plan = JSON.parse(readFileSync(join(cwd, 'run', 'plan.json'), 'utf8')) as Record<string, number>
  assert.equal(plan.peakAnonymousBytes, predicted)
  const shown = `predicted ${predicted}, measured ${recorded}, seen from outside ${seen}`
  assert.ok(Math.abs(predicted - seen) <= allowedError(seen), shown)
  assert.ok(Math.abs(recorded - seen) <= 8 * MIB, shown)
  assert.match(stdout, /\nmemory: \d+ MiB at most, \d+ MiB predicted \([+-][\d.]+ ?%\)\n/)
})
