// Attention kernels of the CPU backend: GFLOP/s and share of the measured f32 peak, forward and backward; decoding in
// GB/s of keys and values and share of the measured memory bandwidth. The least of several repeats counts.
//   node bench/attention.ts [threads, default 1 and 2] [isa]
import type { Isa } from '../src/backends/cpu/library.ts'
import type { AttentionOptions } from '../src/core/kernels.ts'
import { Storage, sizeOf, Tensor } from '../src/core/tensor.ts'
import { AttentionDevice } from '../test/cpu/attention-device.ts'
import { measureRoof, type Roof } from './roof.ts'

interface Shape {
  B: number
  H: number
  G: number
  Tq: number
  Tk: number
  K: number
}

const TRAINING: Shape[] = [
  { B: 2, H: 12, G: 12, Tq: 256, Tk: 256, K: 64 },
  { B: 8, H: 8, G: 8, Tq: 256, Tk: 256, K: 32 },
  { B: 12, H: 4, G: 4, Tq: 64, Tk: 64, K: 32 },
  { B: 1, H: 12, G: 12, Tq: 1024, Tk: 1024, K: 64 },
  { B: 1, H: 16, G: 4, Tq: 2048, Tk: 2048, K: 128 },
]
const DECODING: Shape[] = [
  { B: 1, H: 12, G: 12, Tq: 1, Tk: 1024, K: 64 },
  { B: 1, H: 12, G: 12, Tq: 1, Tk: 16384, K: 64 },
  { B: 1, H: 32, G: 8, Tq: 1, Tk: 16384, K: 64 },
]

function filled(device: AttentionDevice, ...shape: number[]): Tensor {
  const storage = new Storage(device, sizeOf(shape) * 4)
  storage.bind(device.allocate(storage.bytes), 0)
  const tensor = new Tensor(shape, 'f32', storage)
  const values = device.storageOf(tensor)
  for (let n = 0; n < values.length; n++) values[n] = ((n * 7919) % 2003) / 1000 - 1
  return tensor
}

/** Seconds of the fastest of the calls that fit into about a third of a second, at least five. */
function fastest(call: () => void): number {
  let best = Number.POSITIVE_INFINITY
  const end = performance.now() + 300
  for (let n = 0; n < 5 || performance.now() < end; n++) {
    const start = performance.now()
    call()
    best = Math.min(best, (performance.now() - start) / 1000)
  }
  return best
}

function name({ B, H, G, Tq, Tk, K }: Shape): string {
  return `B${B} H${H}${G === H ? '' : ` G${G}`} ${Tq === Tk ? `T${Tq}` : `Tq${Tq} Tk${Tk}`} K${K}`.padEnd(26)
}

function share(rate: number, unit: string, limit: number): string {
  return `${rate.toFixed(1).padStart(6)} ${unit} ${((100 * rate) / limit).toFixed(0).padStart(3)} %`
}

function benchTraining(device: AttentionDevice, roof: Roof, shape: Shape, isCausal: boolean): void {
  const { B, H, G, Tq, Tk, K } = shape
  // q, k and v are column slices of one projection, as in a model.
  const width = (H + 2 * G) * K
  const split = (x: Tensor): [Tensor, Tensor, Tensor] => [
    x.columns(0, H * K),
    x.columns(H * K, G * K),
    x.columns((H + G) * K, G * K),
  ]
  const fused = filled(device, B, Tq, width)
  const gradient = filled(device, B, Tq, width)
  const [out, dOut] = [filled(device, B, Tq, H * K), filled(device, B, Tq, H * K)]
  const [lse, delta] = [filled(device, B, H, Tq), filled(device, B, H, Tq)]
  const [q, k, v] = split(fused)
  const [dq, dk, dv] = split(gradient)
  const options = optionsOf(shape, isCausal)
  const { kernels } = device
  const flops = (4 * B * H * Tq * Tk * K) / (isCausal ? 2 : 1)
  const forward = flops / 1e9 / fastest(() => kernels.attention(out, lse, q, k, v, options))
  const backward =
    (2.5 * flops) / 1e9 / fastest(() => kernels.attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options))
  console.log(
    `${name(shape)} ${isCausal ? 'causal' : 'full  '}  forward ${share(forward, 'GFLOP/s', roof.gflops)}   backward ${share(backward, 'GFLOP/s', roof.gflops)}`,
  )
  for (const tensor of [fused, gradient, out, dOut, lse, delta]) device.release(tensor.storage.buffer!)
}

function benchDecoding(device: AttentionDevice, roof: Roof, shape: Shape): void {
  const { B, H, G, Tq, Tk, K } = shape
  const [q, out] = [filled(device, B, Tq, H * K), filled(device, B, Tq, H * K)]
  const [k, v] = [filled(device, B, Tk, G * K), filled(device, B, Tk, G * K)]
  const lse = filled(device, B, H, Tq)
  const options = optionsOf(shape, true)
  const bytes = 2 * B * Tk * G * K * 4
  const rate = bytes / 1e9 / fastest(() => device.kernels.attention(out, lse, q, k, v, options))
  const where = bytes < 32e6 ? '(in cache)' : ''
  console.log(`${name(shape)} decode  ${share(rate, 'GB/s', roof.readGBs)} of memory ${where}`)
  for (const tensor of [q, out, k, v, lse]) device.release(tensor.storage.buffer!)
}

function optionsOf({ H, G, K }: Shape, isCausal: boolean): AttentionOptions {
  return { numHeads: H, numKeyValueHeads: G, headDim: K, scale: 1 / Math.sqrt(K), isCausal, window: 0 }
}

const [, , threadsArgument, isa] = process.argv
for (const threads of threadsArgument === undefined ? [1, 2] : [Number(threadsArgument)]) {
  const roof = measureRoof(threads)
  const device = await AttentionDevice.open(threads, isa as Isa | undefined)
  console.log(
    `${threads} thread(s), ${device.isa}: measured peak ${roof.gflops.toFixed(0)} GFLOP/s, ${roof.readGBs.toFixed(1)} GB/s`,
  )
  for (const shape of TRAINING) benchTraining(device, roof, shape, true)
  benchTraining(device, roof, TRAINING[3]!, false)
  for (const shape of DECODING) benchDecoding(device, roof, shape)
  device.close()
}
