// Attention by tiles beside the vanilla form over the length N of a sequence: time, FLOPs, and bytes through device memory
// (counted, and read from the card's counters where ncu may), for 16384 tokens, 16 heads of 128, bf16, not causal, so
// that both forms do the same forward. The vanilla form is PyTorch's two products and a softmax (torch_attention.py).
//   node bench/gpu/attention.ts [--sizes 256,1024,4096,16384] [--attention own] [--ncu 1024,4096] [--longest]
//     [--svg FOLDER] [--python python3]
//   node bench/gpu/attention.ts --from LOG [--svg FOLDER]: table and plots of the rows that runs printed, of this and of
//     `trainyard bench attention --device cuda --json`, whose vanilla form is our own
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { CudaDevice } from '../../src/backends/cuda/device.ts'
import { standaloneTensor } from '../../src/core/allocator.ts'
import type { AttentionOptions } from '../../src/core/kernels.ts'
import { randomKey } from '../../src/core/random.ts'
import { type PlotSeries, renderSvgPlot } from '../../src/display/svg-plot.ts'
import { type CudaOptions, openDevice } from '../../src/open.ts'
import type { AttentionComparison, FormTimes } from '../../src/train/attention-bench.ts'

const [TOKENS, HEADS, HEAD_DIM] = [16384, 16, 128]
const WIDTH = HEADS * HEAD_DIM
const PASSES = ['forward', 'backward'] as const
const { values } = parseArgs({
  options: {
    sizes: { type: 'string', default: '256,512,1024,2048,4096,8192,16384' },
    attention: { type: 'string', default: 'own' },
    python: { type: 'string', default: 'python3' },
    /** Lengths at which ncu reads the card's counters. */
    ncu: { type: 'string' },
    from: { type: 'string' },
    longest: { type: 'boolean', default: false },
    svg: { type: 'string' },
    /** Under ncu: one forward and one backward of this length. */
    once: { type: 'string' },
  },
})
const sizes = values.sizes.split(',').map(Number)
const counted = values.ncu?.split(',').map(Number) ?? []

interface Row {
  who: string
  length: number
  forwardMs?: number
  backwardMs?: number
  peakBytes?: number
  /** Through device memory, by the card's counters. */
  readBytes?: { forward: number; backward: number }
  error?: string
}

/** Bytes that have to pass through device memory, each matrix read and written by the operations that use it. */
function countedBytes(length: number, isVanilla: boolean): { forward: number; backward: number } {
  const vectors = 2 * TOKENS * WIDTH
  const scores = 2 * (TOKENS / Math.min(length, TOKENS)) * HEADS * length * length
  const lse = 4 * TOKENS * HEADS
  if (isVanilla) {
    // Scores written, read by the softmax, probabilities written and read: 4. Backward: dP written and read, P read
    // twice, dS written and read twice: 7.
    return { forward: 4 * vectors + 4 * scores, backward: 9 * vectors + 7 * scores }
  }
  // q, k, v, out and the log-sums; backward: those, dOut, and dq, dk, dv.
  return { forward: 4 * vectors + lse, backward: 8 * vectors + 3 * lse }
}

/** Per pass, of all tokens; the backward by tiles makes the scores a second time. */
function flops(length: number, isVanilla: boolean): { forward: number; backward: number } {
  const product = 2 * TOKENS * length * WIDTH
  return { forward: 2 * product, backward: (isVanilla ? 4 : 5) * product }
}

function attentionOf(device: CudaDevice, batch: number, length: number, isCausal = false) {
  let streams = 0
  const empty = (): ReturnType<typeof standaloneTensor> => standaloneTensor(device, [batch, length, WIDTH])
  const random = (): ReturnType<typeof standaloneTensor> => {
    const tensor = empty()
    device.kernels.randomNormal(tensor, randomKey(3, `attention ${streams++}`), 0, 0, 1)
    return tensor
  }
  const [q, k, v, dOut] = [random(), random(), random(), random()]
  const [out, dq, dk, dv] = [empty(), empty(), empty(), empty()]
  const statistic = (): ReturnType<typeof standaloneTensor> => standaloneTensor(device, [batch, HEADS, length], 'f32')
  const [lse, delta] = [statistic(), statistic()]
  const options: AttentionOptions = {
    numHeads: HEADS,
    numKeyValueHeads: HEADS,
    headDim: HEAD_DIM,
    scale: HEAD_DIM ** -0.5,
    isCausal,
    window: 0,
  }
  return {
    forward: () => device.kernels.attention(out, lse, q, k, v, options),
    backward: () => device.kernels.attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options),
    release() {
      for (const tensor of [q, k, v, dOut, out, dq, dk, dv, lse, delta]) device.release(tensor.storage.buffer!)
    },
  }
}

function medianMs(device: CudaDevice, call: () => void): number {
  call()
  call()
  const times = Array.from({ length: 9 }, () => device.runtime.time(call)).sort((a, b) => a - b)
  return times[4]!
}

async function openOurs(): Promise<CudaDevice> {
  return await openDevice('cuda', { attention: values.attention as NonNullable<CudaOptions['attention']> })
}

async function timeOurs(): Promise<Row[]> {
  const device = await openOurs()
  const rows: Row[] = []
  for (const length of sizes) {
    device.peakBytes = device.allocatedBytes
    const before = device.allocatedBytes
    const run = attentionOf(device, Math.max(1, TOKENS / length), length)
    const [forwardMs, backwardMs] = [medianMs(device, run.forward), medianMs(device, run.backward)]
    const peakBytes = device.peakBytes - before + device.runtime.scratchBytes
    run.release()
    rows.push({ who: `trainyard ${values.attention}`, length, forwardMs, backwardMs, peakBytes })
  }
  device.close()
  return rows
}

function linesOf(command: string, args: readonly string[]): string[] {
  const { stdout, stderr, status } = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 26 })
  if (status !== 0)
    console.log(`FAIL ${command} ${args.slice(0, 3).join(' ')}: status ${status}: ${(stderr ?? '').slice(-400)}`)
  return (stdout ?? '').split('\n')
}

function torchRows(command: string, lengths: readonly number[]): (Row & { longest?: number })[] {
  const script = join(import.meta.dirname, 'torch_attention.py')
  return linesOf(values.python, [script, command, lengths.join(',')])
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Row & { longest?: number })
}

/** Bytes through device memory by the card's counters, or undefined where they may not be read. */
function readCounters(filter: readonly string[], program: readonly string[]): number | undefined {
  const flags = ['--metrics', 'dram__bytes.sum', '--csv', '--print-units', 'base', '--target-processes', 'all']
  const rows = linesOf('ncu', [...flags, ...filter, ...program]).filter((line) => line.includes('dram__bytes.sum'))
  if (rows.length === 0) return undefined
  return rows.reduce((sum, row) => sum + Number(row.split('","').at(-1)!.replaceAll(/[",]/g, '')), 0)
}

function measuredBytes(length: number, isVanilla: boolean, pass: 'forward' | 'backward'): number | undefined {
  if (isVanilla) {
    const script = join(import.meta.dirname, 'torch_attention.py')
    return readCounters(['--profile-from-start', 'off'], [values.python, script, 'once', String(length), pass])
  }
  const self = [process.execPath, import.meta.filename, '--attention', values.attention, '--once', String(length)]
  // The kernels of the other pass do not match.
  const pattern = pass === 'forward' ? 'regex:attention_forward' : 'regex:attention_backward'
  return readCounters(['--kernel-name', pattern], self)
}

function measureBandwidth(): void {
  const binary = join(mkdtempSync(join(tmpdir(), 'trainyard-bandwidth-')), 'bandwidth')
  linesOf('nvcc', ['-O3', '-arch=native', join(import.meta.dirname, 'bandwidth.cu'), '-o', binary])
  console.log(linesOf(binary, []).join('').trim())
}

async function findLongest(): Promise<void> {
  for (const row of torchRows('longest', [16384, 20480, 24576, 28672, 32768, 40960])) console.log(JSON.stringify(row))
  const device = await openOurs()
  for (const length of [131072, 262144]) {
    const before = device.allocatedBytes
    const run = attentionOf(device, 1, length, true)
    const forwardMs = device.runtime.time(run.forward)
    const backwardMs = device.runtime.time(run.backward)
    const bytes = device.allocatedBytes - before + device.runtime.scratchBytes
    const { totalBytes } = device.ownMemory()
    const most = Math.floor((totalBytes * 0.95 * length) / bytes)
    console.log(
      JSON.stringify({ who: 'trainyard, causal', longest: length, forwardMs, backwardMs, bytes, mostThatFits: most }),
    )
    run.release()
  }
  device.close()
}

function print(rows: readonly Row[]): void {
  console.log(
    '| N | who | forward ms | TFLOP/s | backward ms | TFLOP/s | GB counted fw, bw | GB read fw, bw | peak GiB |',
  )
  console.log('|---|---|---|---|---|---|---|---|---|')
  for (const { who, length, forwardMs, backwardMs, peakBytes, readBytes, error } of rows) {
    if (error !== undefined || forwardMs === undefined || backwardMs === undefined) {
      console.log(`| ${length} | ${who} | ${error} |`)
      continue
    }
    const isVanilla = who.startsWith('vanilla')
    const work = flops(length, isVanilla)
    const bytes = countedBytes(length, isVanilla)
    const isOurs = who.startsWith('trainyard')
    const read = (pass: 'forward' | 'backward'): string =>
      readBytes === undefined ? '-' : (readBytes[pass] / 1e9).toFixed(2)
    const toPass =
      isVanilla || isOurs ? `${(bytes.forward / 1e9).toFixed(2)}, ${(bytes.backward / 1e9).toFixed(2)}` : '-'
    const cells = [
      String(length),
      who,
      forwardMs.toFixed(3),
      (work.forward / forwardMs / 1e9).toFixed(0),
      backwardMs.toFixed(3),
      (work.backward / backwardMs / 1e9).toFixed(0),
      toPass,
      `${read('forward')}, ${read('backward')}`,
      peakBytes === undefined ? '-' : (peakBytes / 2 ** 30).toFixed(2),
    ]
    console.log(`| ${cells.join(' | ')} |`)
  }
}

/** Rows of what the verb printed. */
function rowsOfVerb({ rows }: { rows: readonly AttentionComparison[] }): Row[] {
  const rowOf = (who: string, length: number, { forward, backward, heldBytes }: FormTimes): Row => ({
    who,
    length,
    forwardMs: forward.milliseconds,
    backwardMs: backward.milliseconds,
    peakBytes: heldBytes,
  })
  return rows.flatMap(({ length, tiles, vanilla }) => [
    rowOf('trainyard', length, tiles),
    ...('problem' in vanilla ? [] : [rowOf('vanilla, ours', length, vanilla)]),
  ])
}

/** Time, and bytes counted (lines) and read by the card's counters (dots), over N as two plots. */
function draw(rows: readonly Row[], folder: string): void {
  const kinds = [...new Set(rows.map(({ who }) => who))]
  const lengths = [...new Set(rows.map(({ length }) => length))]
  const time = kinds.map((who, color): PlotSeries => {
    const timed = rows.filter((row) => row.who === who && row.forwardMs !== undefined && row.backwardMs !== undefined)
    const points = timed.map(({ length, forwardMs, backwardMs }) => ({ x: length, y: forwardMs! + backwardMs! }))
    return { name: who, color, style: 'line', points }
  })
  const forms = [
    { isVanilla: true, form: 'vanilla', color: 1 },
    { isVanilla: false, form: 'by tiles', color: 0 },
  ]
  const counted = forms.flatMap(({ isVanilla, form, color }) =>
    PASSES.map((pass): PlotSeries => {
      const points = lengths.map((length) => ({ x: length, y: countedBytes(length, isVanilla)[pass] / 1e9 }))
      return { name: `${form}, ${pass}`, color, style: pass === 'backward' ? 'dashed' : 'line', points }
    }),
  )
  const read = forms.map(({ isVanilla, form, color }): PlotSeries => {
    const points = rows
      .filter(({ who }) => who.startsWith('vanilla') === isVanilla)
      .flatMap(({ length, readBytes }) =>
        readBytes === undefined ? [] : PASSES.map((pass) => ({ x: length, y: readBytes[pass] / 1e9 })),
      )
    return { name: `${form}, read`, color, style: 'dots', points }
  })
  const shape = `${TOKENS} tokens, ${HEADS} heads of ${HEAD_DIM}, bf16`
  const axes = { xLabel: 'length of a sequence', hasLogY: true, xTicks: lengths }
  const plot = (name: string, title: string, yLabel: string, series: readonly PlotSeries[]): void =>
    writeFileSync(join(folder, name), renderSvgPlot(series, { ...axes, title: `${title}, ${shape}`, yLabel }))
  plot('attention-time.svg', 'Attention forward + backward', 'ms', time)
  plot('attention-bytes.svg', 'Bytes through device memory', 'GB', [
    ...counted,
    ...read.filter(({ points }) => points.length > 0),
  ])
}

if (values.once !== undefined) {
  const device = await openOurs()
  const length = Number(values.once)
  const run = attentionOf(device, Math.max(1, TOKENS / length), length)
  run.forward()
  run.backward()
  device.close()
} else if (values.from !== undefined) {
  const lines = readFileSync(values.from, 'utf8').split('\n')
  const rows = [
    ...lines.filter((line) => line.startsWith('{"who"')).map((line) => JSON.parse(line) as Row),
    ...lines.filter((line) => line.startsWith('{"device"')).flatMap((line) => rowsOfVerb(JSON.parse(line))),
  ].filter((row) => row.length !== undefined)
  print(rows.sort((a, b) => a.length - b.length))
  if (values.svg !== undefined) draw(rows, values.svg)
} else {
  measureBandwidth()
  const rows = [...(await timeOurs()), ...torchRows('times', sizes)].sort((a, b) => a.length - b.length)
  for (const row of rows) {
    const isVanilla = row.who.startsWith('vanilla')
    if (counted.includes(row.length) && (isVanilla || row.who.startsWith('trainyard'))) {
      const [forward, backward] = PASSES.map((pass) => measuredBytes(row.length, isVanilla, pass))
      if (forward !== undefined && backward !== undefined) row.readBytes = { forward, backward }
    }
    console.log(JSON.stringify(row))
  }
  print(rows)
  if (values.svg !== undefined) draw(rows, values.svg)
  if (values.longest) await findLongest()
}
