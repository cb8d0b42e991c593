// The verb: answers in milliseconds, bad input in one sentence, the picture, and the what-if at a prompt.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { RunContext } from '../../src/config/context.ts'
import { resolveConfig } from '../../src/config/resolve.ts'
import { DEVICES, findDevice, peakFlops } from '../../src/plan/devices.ts'
import { deviceMemory } from '../../src/plan/memory.ts'
import { memoryPicture } from '../../src/plan/memory-picture.ts'
import { ONE_DEVICE } from '../../src/plan/parallel.ts'
import { demandPreset, PRESETS } from '../../src/plan/presets.ts'
import { type Answer, answer, type Question } from '../../src/plan/what-if.ts'
import plan from '../../src/recipes/plan.ts'
import { trainyard } from '../cli/program.ts'

const GiB = 2 ** 30

function question(name: string, change: Partial<Question> = {}): Question {
  const { architecture: model, seqLen } = demandPreset(name)
  return {
    model,
    tokens: 1e12,
    device: findDevice('h100'),
    precision: 'bf16-mixed',
    optimizer: 'adamw',
    parallelism: ONE_DEVICE,
    microBatches: 64,
    microBatchSize: 1,
    seqLen,
    recompute: 'none',
    attention: 'flash',
    hasDropout: false,
    ...change,
  }
}

// Acceptance: less than a second for any dense model and cluster, the search for a fix included.
test('every published model on clusters of 1 to 16,384 devices: an answer takes less than a second', async (t) => {
  let slowest = 0
  for (const { architecture: model } of PRESETS) {
    for (const data of [1, 8, 1024, 16384]) {
      const start = performance.now()
      await answer(question(model.name, { parallelism: { ...ONE_DEVICE, data } }))
      slowest = Math.max(slowest, performance.now() - start)
    }
  }
  assert.ok(slowest < 1000, `${slowest} ms`)
  t.diagnostic(`${PRESETS.length * 4} answers, the slowest in ${slowest.toFixed(0)} ms`)
})

test('what an answer says follows from its parts', async () => {
  const parallelism = { ...ONE_DEVICE, data: 64, zeroStage: 1 } as const
  const full = await answer(question('Llama 3 8B', { parallelism, recompute: 'full' }))
  assert.equal(full.time.devices, 64)
  assert.ok(Math.abs(full.time.hfu / full.time.mfu - 4 / 3) < 0.03)
  assert.ok(Math.abs(full.time.seconds * full.time.tokensPerSecond - 1e12) < 1)
  assert.equal(full.fits, full.memory.total <= full.limitBytes)
  assert.equal(full.statesByZeroStage.length, 4)
  assert.equal(full.fix, undefined)
  const small = await answer(question('GPT-2 124M', { precision: 'fp8-mixed', seqLen: 512 }))
  assert.deepEqual(small.time.peak, { format: 'fp8', flops: peakFlops(findDevice('h100'), 'fp8') })
  // A device without units for a format computes in a wider one.
  const old = await answer(question('GPT-2 124M', { precision: 'fp8-mixed', device: findDevice('a100'), seqLen: 512 }))
  assert.deepEqual(old.time.peak, { format: 'bf16', flops: 312e12 })
})

test('time: recomputation and a pipeline cost some where the utilization is assumed, none where it is given', async () => {
  const parallelism = { ...ONE_DEVICE, data: 8, pipeline: 8 }
  const seconds = async (change: Partial<Question>): Promise<number> =>
    (await answer(question('Llama 3 8B', change))).time.seconds
  const plain = await seconds({ parallelism: { ...ONE_DEVICE, data: 64 } })
  // (p - 1) / m of the work, and of a v-th of it where stages are interleaved.
  assert.ok(Math.abs((await seconds({ parallelism })) / plain - (1 + 7 / 64)) < 1e-12)
  const interleaved = await seconds({ parallelism: { ...parallelism, virtualStages: 4 } })
  assert.ok(Math.abs(interleaved / plain - (1 + 7 / 256)) < 1e-12)
  const again = await seconds({ parallelism: { ...ONE_DEVICE, data: 64 }, recompute: 'full' })
  assert.ok(Math.abs(again / plain - 4 / 3) < 0.03, String(again / plain))
  assert.equal(await seconds({ parallelism, recompute: 'full', mfu: 0.4 }), plain)
})

test('adapters: frozen weights need no gradients, so the step takes two thirds; nothing is said of optimal tokens', async () => {
  const whole = await answer(question('Llama 2 70B', { seqLen: 512 }))
  const adapted = await answer(question('Llama 2 70B', { seqLen: 512, adapter: { rank: 16, base: 'nf4' } }))
  const ratio = adapted.flops.exact / whole.flops.exact
  assert.ok(ratio > 2 / 3 && ratio < 2 / 3 + 0.02, String(ratio))
  assert.equal(adapted.verdict, undefined)
  assert.equal(adapted.flops['6ND'], undefined)
})

test('this processor: a model of ours is timed op by op, at rates that are measured here', () => {
  const model = ['plan', 'depth-2', '--device', 'cpu', '--precision', 'fp32', '--seq-len', '64', '--vocab-size', '512']
  const { status, stdout, stderr } = trainyard([...model, '--json'])
  assert.equal(status, 0, stderr)
  const { time, own } = JSON.parse(stdout) as Answer
  assert.equal(time.basis, 'measured')
  assert.ok(time.mfu > 0.02 && time.mfu < 1, String(time.mfu))
  assert.ok(Math.abs(time.secondsPerStep / own!.secondsPerStep! - 1) < 1e-9)
})

test('the picture is as wide as asked, marks the limit, and names every part with its bytes', () => {
  const { architecture: model, seqLen } = demandPreset('Llama 3 8B')
  const memory = deviceMemory(model, { ...question('Llama 3 8B'), seqLen })
  const over = memoryPicture(memory, 80 * GiB, 60, false)
  assert.equal(over[0]!.length, 60)
  assert.match(over[1]!, /^ +\^ 80 GiB$/)
  assert.equal(over[1]!.indexOf('^') - 1, Math.round((80 * GiB * 58) / memory.total))
  const key = over.slice(2).join('  ')
  for (const part of ['weights', 'masters', 'gradients', 'optimizer', 'activations', 'logits'])
    assert.ok(key.includes(part))
  assert.ok(over.every((line) => line.length <= 60))
  const under = memoryPicture(memory, 800 * GiB, 60, false)
  assert.ok(under[0]!.endsWith(' ]') && !under.join('').includes('^'))
})

test('devices: by name, alias or spelling of a driver; figures are there; the unknown is told the nearest', () => {
  for (const name of ['h100', 'NVIDIA H100 80GB HBM3', 'h100-sxm', 'H100 SXM5'])
    assert.equal(findDevice(name).name, 'H100 SXM')
  assert.equal(findDevice('rtx-4090').name, 'RTX 4090')
  assert.equal(findDevice('h100 sxm mig 3g.40gb').memoryBytes, 40 * GiB)
  assert.throws(() => findDevice('H300'), /got "H300"; did you mean "H.00.*"\?$/)
  for (const spec of DEVICES) {
    assert.ok(spec.memoryBytes > 2 ** 30 && spec.memoryBandwidth > 1e10 && spec.source.length > 10, spec.name)
    assert.ok(Math.max(...Object.values(spec.peakFlops)) > 1e12, spec.name)
  }
  const names = DEVICES.flatMap(({ name, aliases }) => [name, ...aliases])
  assert.equal(new Set(names.map((name) => name.toLowerCase())).size, names.length)
})

test('bad input: one sentence that says what would work', () => {
  const cases: [string, RegExp][] = [
    ['gpt2 --tokens -4', /^plan: --tokens must be a number, above 0 \(tokens\), got -4; for example --tokens 300e9\n$/],
    ['gpt2 --device h1000', /^plan: expected cpu or a device such as .*, got "h1000"; did you mean "H100"\?\n$/],
    ['llama-3-8', /^plan: expected a published model such as .*, got "llama-3-8"; did you mean "Llama 3 8B"\?\n$/],
    [
      'gpt-3-medium --tensor 7',
      /^plan: tensor parallelism must divide the 16 attention heads, got 7; 1, 2, 4, 8, 16 work\n$/,
    ],
    [
      'gpt2 --devices 6 --tensor 4',
      /^plan: devices must be a multiple of tensor x pipeline x context = 4, got 6; try 8\n$/,
    ],
    ['gpt2 --mfu 3', /^plan: mfu must be at most 1, the whole of the peak, got 3; 0\.4 is usual\n$/],
    ['gpt2 --mfu 0', /^plan: mfu must be a number above 0, got 0\n$/],
    ['gpt2 --seq-len 4096', /^plan: seqLen must be at most the 1024 positions that GPT-2 124M has, got 4096\n$/],
    [
      'gpt2 --sequence',
      /^plan: sequence cuts .* of which there is none: set tensor to 2 or more, or leave sequence out\n$/,
    ],
    [
      'gpt2 --virtual-stages 2',
      /^plan: virtualStages .* of which there is one: set pipeline to 2 or more, or leave it out\n$/,
    ],
    [
      'gpt2 --lora-rank 1000',
      /^plan: loraRank must be at most the width 768 of GPT-2 124M, got 1000; 8 to 64 are usual\n$/,
    ],
    [
      'gpt2 --num-attention-heads 7',
      /hiddenSize must be a multiple of .*, got 768 and 7; give headDim, or take a width of 770\n$/,
    ],
    ['nowhere/model', /^plan: expected a folder with a config\.json, .* got "nowhere\/model", which is not there\n$/],
    ['depth-0', /^plan: a model by its depth has at least one layer, got depth-0; try depth-4\n$/],
    [
      'mixtral --expert 3 --devices 8',
      /^plan: expert parallelism must divide the 8 experts, got 3; 1, 2, 4, 8 work\n$/,
    ],
    ['gpt2 --device cuda', /^plan: expected cpu or a device such as H100 SXM/],
  ]
  for (const [words, sentence] of cases) {
    const { status, stdout, stderr } = trainyard(['plan', ...words.split(' ')])
    assert.equal(status, 2, words)
    assert.equal(stdout, '')
    assert.match(stderr, sentence)
  }
})

test('--json is one object; a model that Trainyard trains is planned exactly too', () => {
  const { status, stdout, stderr } = trainyard(['plan', 'depth-4', '--precision', 'fp32', '--seq-len', '256', '--json'])
  assert.equal(status, 0, stderr)
  const result = JSON.parse(stdout) as Answer
  assert.equal(result.own?.floatDtype, 'f32')
  assert.equal(result.own?.parameterBytes, 4 * result.parameters.total)
  assert.equal(result.verdict?.tokensPerParameter, 20)
  assert.equal(result.fits, true)
})

/** A context whose user types these lines. */
function typing(lines: string[]): { context: RunContext; shown: string[]; complaints: string[] } {
  const shown: string[] = []
  const complaints: string[] = []
  const context = {
    cwd: '/',
    env: {},
    hasColor: false,
    canPrompt: true,
    columns: 100,
    signal: new AbortController().signal,
    log: (line: string) => shown.push(line),
    warn: (line: string) => complaints.push(line),
    prompt: () => Promise.resolve(lines.shift()),
  } as unknown as RunContext
  return { context, shown, complaints }
}

test('--memory-limit: of each device, in GiB; more than there is changes nothing', () => {
  const ask = (...words: string[]): Answer => {
    const { status, stdout, stderr } = trainyard([
      'plan',
      'llama-3-8b',
      '--devices',
      '8',
      '--zero',
      '3',
      '--json',
      ...words,
    ])
    assert.equal(status, 0, stderr)
    return JSON.parse(stdout) as Answer
  }
  const [whole, less, more] = [ask(), ask('--memory-limit', '24'), ask('--memory-limit', '1000')]
  assert.ok(whole.fits && !less.fits)
  assert.ok(Math.abs(less.limitBytes / whole.limitBytes - 24 / 80) < 1e-12)
  assert.ok(less.fix!.bytes <= less.limitBytes)
  assert.equal(more.limitBytes, whole.limitBytes)
})

test('at a prompt: a change gives a new picture, an impossible one a sentence, and the old state stays', async () => {
  const { context, shown, complaints } = typing(['devices=64 zero=1', 'tensor=7', '--recompute full', 'nonsense=1', ''])
  const options = resolveConfig('plan', plan.config, [{ source: 'flags', values: { model: 'llama-3-8b' } }])
  await plan.run(options, context)
  const times = shown.filter((line) => line.startsWith('time'))
  assert.equal(times.length, 3)
  assert.match(times[0]!, / on H100 SXM: 40\.0% MFU \(assumed\) of 989 TFLOP\/s$/)
  assert.match(times[1]!, / on 64 H100 SXM: 40\.0% MFU \(assumed\) of 989 TFLOP\/s each$/)
  assert.match(times[2]!, / on 64 H100 SXM: 3\d\.\d% MFU \(assumed; 40\.0% HFU, with what is computed again\) of/)
  assert.equal(complaints.length, 2)
  assert.match(complaints[0]!, /tensor parallelism must divide the 32 attention heads, got 7/)
  assert.match(complaints[1]!, /unknown option --nonsense/)
})
