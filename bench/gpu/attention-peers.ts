// What the product dispatches for attention beside PyTorch's cuDNN and FlashAttention-2 on one card: training shapes,
// grouped heads, a window, packed documents, no mask; bf16, random normal inputs, q, k and v in one buffer. Both sides are
// timed in turns, as recorded graphs of five calls, medians: kernel time, no launches.
//   node bench/gpu/attention-peers.ts [--rounds 3] [--only 0,1,2] [--python python3]
// TRAINYARD_LIBRARY_PATH chooses the cuDNN that ours finds; PyTorch uses the one of its wheel.
import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { parseArgs } from 'node:util'
import type { AttentionChoice } from '../../src/backends/cuda/attention.ts'
import type { CudaDevice } from '../../src/backends/cuda/device.ts'
import { standaloneTensor } from '../../src/core/allocator.ts'
import type { AttentionOptions } from '../../src/core/kernels.ts'
import { randomKey } from '../../src/core/random.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import { openDevice } from '../../src/open.ts'

interface Problem {
  readonly batch: number
  readonly heads: number
  readonly keyHeads: number
  readonly length: number
  readonly headDim: number
  readonly isCausal: boolean
  readonly window: number
  /** Mean length of packed documents, 0: none. */
  readonly meanDocument: number
}

const problem = (
  batch: number,
  heads: number,
  keyHeads: number,
  length: number,
  headDim: number,
  { isCausal = true, window = 0, meanDocument = 0 } = {},
): Problem => ({ batch, heads, keyHeads, length, headDim, isCausal, window, meanDocument })

/** The first three are the shapes of the baselines. */
const PROBLEMS: readonly Problem[] = [
  problem(32, 12, 12, 1024, 64),
  problem(4, 16, 16, 4096, 128),
  problem(1, 16, 16, 16384, 128),
  problem(8, 16, 16, 2048, 128),
  problem(4, 16, 16, 4096, 64),
  problem(4, 32, 8, 4096, 128),
  problem(2, 16, 16, 8192, 128, { window: 1024 }),
  problem(1, 16, 16, 16384, 128, { meanDocument: 2048 }),
  problem(8, 12, 12, 4096, 64, { meanDocument: 512 }),
  problem(8, 16, 16, 2048, 128, { isCausal: false }),
  problem(4, 16, 16, 4096, 128, { isCausal: false }),
  problem(4, 8, 8, 4096, 256),
]

/** Ours, by column: which kernels, and whether gradients have the same bits in every run. */
const OURS = {
  dispatched: { attention: 'auto', isDeterministic: true },
  own: { attention: 'own', isDeterministic: true },
  'own, any order': { attention: 'own', isDeterministic: false },
  /** Through our backend: PyTorch's has no such switch. */
  'cuDNN, deterministic': { attention: 'cudnn', isDeterministic: true },
} as const satisfies Record<string, { attention: AttentionChoice; isDeterministic: boolean }>

type Pass = 'forward' | 'backward'
type Times = Record<string, Partial<Record<Pass, number>>>

const [CALLS, REPEATS] = [5, 7]
const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    only: { type: 'string' },
    python: { type: 'string', default: 'python3' },
  },
})

/** The other side: a line of JSON for a line of JSON. */
class Peers {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>
  readonly #lines: AsyncIterator<string>

  constructor(python: string) {
    const script = join(import.meta.dirname, 'attention_peers.py')
    this.#child = spawn(python, [script], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
  }

  async next(): Promise<Record<string, unknown>> {
    const { value, done } = await this.#lines.next()
    if (done) throw new Error('attention_peers.py ended early')
    return JSON.parse(value)
  }

  async ask(request: object): Promise<Record<string, unknown>> {
    this.#child.stdin.write(`${JSON.stringify(request)}\n`)
    return await this.next()
  }

  close(): void {
    this.#child.stdin.end()
  }
}

/** Lengths of the documents of each row, of about the mean length, the same in every run. */
function documentsOf({ batch, length, meanDocument }: Problem): number[][] {
  let state = 1
  return Array.from({ length: batch }, () => {
    const lengths: number[] = []
    for (let left = length; left > 0; left -= lengths.at(-1)!) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      lengths.push(Math.min(left, 1 + Math.floor((state / 2 ** 32) * 2 * meanDocument)))
    }
    return lengths
  })
}

/** Pairs of a query and a key that it sees, of one head and all rows. */
function pairsOf(shape: Problem, documents: number[][] | undefined): number {
  const triangle = (n: number): number => (n * (n + 1)) / 2
  if (documents !== undefined) return documents.flat().reduce((sum, n) => sum + triangle(n), 0)
  const { batch, length, isCausal, window } = shape
  if (!isCausal) return batch * length * length
  const hidden = window > 0 && window < length ? triangle(length - window) : 0
  return batch * (triangle(length) - hidden)
}

function nameOf({ batch, heads, keyHeads, length, headDim, isCausal, window, meanDocument }: Problem): string {
  const groups = heads === keyHeads ? '' : `/${keyHeads}`
  const documents = meanDocument > 0 ? ` documents of about ${meanDocument}` : ''
  const mask = window > 0 ? ` window ${window}` : isCausal ? documents : ' no mask'
  return `B${batch} H${heads}${groups} T${length} D${headDim}${mask}`
}

function medianOf(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!
}

/** Milliseconds a call. */
function medianMs(device: CudaDevice, graph: ReturnType<CudaDevice['runtime']['capture']>): number {
  const { runtime } = device
  runtime.replay(graph)
  return medianOf(Array.from({ length: REPEATS }, () => runtime.time(() => runtime.replay(graph)) / CALLS))
}

/** Relative distance of every seventh value of two tensors. */
async function distance(device: CudaDevice, a: Tensor, b: Tensor): Promise<number> {
  const [x, y] = [await device.read(a), await device.read(b)]
  const float = (bits: number): number => {
    word[0] = bits << 16
    return asFloat[0]!
  }
  let [difference, norm] = [0, 0]
  for (let n = 0; n < x.length; n += 7) {
    const [p, q] = [float(Number(x[n])), float(Number(y[n]))]
    difference += (p - q) ** 2
    norm += q ** 2
  }
  return Math.sqrt(difference / norm)
}
const word = new Uint32Array(1)
const asFloat = new Float32Array(word.buffer)

/** Memory of a problem on the first device, and its calls on each. */
function openOurs(devices: Record<string, CudaDevice>, shape: Problem, documents: number[][] | undefined) {
  const { batch, heads, keyHeads, length, headDim, isCausal, window } = shape
  const device = Object.values(devices)[0]!
  const [width, keyWidth] = [heads * headDim, keyHeads * headDim]
  const tensors: Tensor[] = []
  const empty = (sizes: number[], dtype?: 'f32' | 'i32'): Tensor => {
    const tensor = standaloneTensor(device, sizes, dtype)
    tensors.push(tensor)
    return tensor
  }
  const random = (columns: number, key: number): Tensor => {
    const tensor = empty([batch, length, columns])
    device.kernels.randomNormal(tensor, randomKey(7, `attention ${key}`), 0, 0, 1)
    return tensor
  }
  const split = (x: Tensor) =>
    [x.columns(0, width), x.columns(width, keyWidth), x.columns(width + keyWidth, keyWidth)] as const
  const [qkv, dOut] = [random(width + 2 * keyWidth, 0), random(width, 1)]
  const statistic = (): Tensor => empty([batch, heads, length], 'f32')
  const options: AttentionOptions = {
    numHeads: heads,
    numKeyValueHeads: keyHeads,
    headDim,
    scale: headDim ** -0.5,
    isCausal,
    window,
  }
  if (documents !== undefined) {
    options.docStart = empty([batch, length], 'i32')
    const starts = documents.flatMap((row) => {
      let start = 0
      return row.flatMap((count) => {
        const document = Array.from({ length: count }, () => start)
        start += count
        return document
      })
    })
    device.write(options.docStart, starts)
  }
  const results = Object.fromEntries(
    Object.keys(devices).map((name) => [
      name,
      { out: empty([batch, length, width]), dQkv: empty([batch, length, width + 2 * keyWidth]), lse: statistic() },
    ]),
  )
  const delta = statistic()
  device.runtime.synchronize()
  const calls = Object.entries(devices).map(([name, { kernels }]) => {
    const { out, dQkv, lse } = results[name]!
    const [[q, k, v], [dq, dk, dv]] = [split(qkv), split(dQkv)]
    return {
      name,
      forward: () => kernels.attention(out, lse, q, k, v, options),
      backward: () => kernels.attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options),
    }
  })
  const release = (): void => {
    for (const { storage } of tensors) device.release(storage.buffer!)
  }
  return { calls, results, release }
}

async function run(devices: Record<string, CudaDevice>, peers: Peers, shape: Problem): Promise<void> {
  const documents = shape.meanDocument > 0 ? documentsOf(shape) : undefined
  const { failures } = await peers.ask({ open: { ...shape, documents: documents?.flat() ?? null } })
  for (const failure of failures as string[]) console.log(`${nameOf(shape)}: ${failure}`)
  const { calls, results, release } = openOurs(devices, shape, documents)
  const graphs = calls.map(({ name, forward, backward }) => {
    const device = devices[name]!
    forward()
    backward()
    device.runtime.synchronize()
    const record = (body: () => void) =>
      device.runtime.capture(() => {
        for (let n = 0; n < CALLS; n++) body()
      })
    return { name, device, forward: record(forward), backward: record(backward) }
  })
  const rounds: Times[] = []
  for (let round = 0; round < Number(values.rounds); round++) {
    const times: Times = {}
    for (const { name, device, forward, backward } of graphs) {
      times[name] = { forward: medianMs(device, forward), backward: medianMs(device, backward) }
    }
    rounds.push({ ...times, ...((await peers.ask({ time: true })) as Times) })
  }
  const ms = (who: string, pass: Pass): number | undefined => {
    const all = rounds.map((times) => times[who]?.[pass]).filter((value) => value !== undefined)
    return all.length === 0 ? undefined : medianOf(all)
  }
  const flops = 4 * shape.heads * shape.headDim * pairsOf(shape, documents)
  for (const pass of ['forward', 'backward'] as const) {
    const work = pass === 'forward' ? flops : 2.5 * flops
    const cell = (who: string): string => {
      const time = ms(who, pass)
      return time === undefined ? '-' : `${time.toFixed(4)}, ${(work / time / 1e9).toFixed(0)}`
    }
    const ratio = (peer: string, who: string): string => {
      const [theirs, ours] = [ms(peer, pass), ms(who, pass)]
      return theirs === undefined || ours === undefined ? '-' : (theirs / ours).toFixed(2)
    }
    const isBackward = pass === 'backward'
    // The order of sums is a matter of the backward alone.
    const ours = Object.keys(OURS).map((who) => (isBackward || who === 'dispatched' || who === 'own' ? cell(who) : ''))
    const ratios = [
      ratio('cudnn', 'dispatched'),
      ratio('cudnn', 'own'),
      isBackward ? ratio('cudnn', 'own, any order') : '',
      isBackward ? ratio('cuDNN, deterministic', 'own') : '',
      ratio('flash', 'dispatched'),
      ratio('flash', 'own'),
    ]
    console.log(`| ${[nameOf(shape), pass, ...ours, cell('cudnn'), cell('flash'), ...ratios].join(' | ')} |`)
  }
  const first = devices.dispatched!
  const [a, b] = [results.dispatched!, results.own!]
  const apart = [await distance(first, a.out, b.out), await distance(first, a.dQkv, b.dQkv)]
  if (!apart.every((value) => value < 1e-2)) console.log(`FAIL ${nameOf(shape)}: dispatched and own differ: ${apart}`)
  for (const { device, forward, backward } of graphs) {
    device.runtime.forget(forward)
    device.runtime.forget(backward)
  }
  release()
  await peers.ask({ close: true })
}

const devices: Record<string, CudaDevice> = {}
for (const [name, options] of Object.entries(OURS)) devices[name] = await openDevice('cuda', options)
const peers = new Peers(values.python)
console.log(`PyTorch: ${JSON.stringify(await peers.next())}`)
console.log(`ours: ${devices.dispatched!.libraryVersions}`)
console.log('ms, TFLOP/s; ratios: time of the peer over ours')
const columns = [
  ...['shape', 'pass', ...Object.keys(OURS), 'cuDNN', 'FlashAttention-2'],
  ...['cuDNN / dispatched', 'cuDNN / own', 'cuDNN / own, any order', 'both deterministic'],
  ...['FA-2 / dispatched', 'FA-2 / own'],
]
console.log(`| ${columns.join(' | ')} |`)
console.log(`|${'---|'.repeat(columns.length)}`)
const wanted = values.only?.split(',').map(Number)
for (const [index, shape] of PROBLEMS.entries()) {
  if (wanted !== undefined && !wanted.includes(index)) continue
  try {
    await run(devices, peers, shape)
  } catch (error) {
    console.log(`FAIL ${nameOf(shape)}: ${error instanceof Error ? error.message : error}`)
  }
}
peers.close()
for (const device of Object.values(devices)) device.close()
