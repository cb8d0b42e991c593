// How long a training step takes, before the first: each op of the dry run at the roof that holds it (Williams et al. 2009,
// "Roofline"), the arithmetic of its products or the bytes that it moves, at rates that are measured on this device.
import { standaloneTensor } from '../core/allocator.ts'
import type { Device } from '../core/device.ts'
import { Tape } from '../core/tape.ts'
import type { Tensor } from '../core/tensor.ts'
import { add } from '../ops/add.ts'
import type { StepPlan } from './plan.ts'

export interface DeviceRates {
  /** FLOP/s of large matrix products. */
  readonly productFlops: number
  /** FLOP/s of attention, forward and backward: its products have a softmax between them. */
  readonly attentionFlops: number
  /** Bytes that an elementwise op reads and writes in a second. */
  readonly bandwidth: number
  /** Seconds that an op takes that has nothing to compute. */
  readonly callSeconds: number
}

/** Seconds of a step of so many micro-batches. */
export function stepSeconds(plan: StepPlan, microBatches: number, rates: DeviceRates): number {
  const { attentionFlops, productFlops, bandwidth, callSeconds } = rates
  const seconds = ({ op, flops, bytes }: { op: string; flops: number; bytes: number }): number =>
    callSeconds + Math.max(flops / (op === 'attention' ? attentionFlops : productFlops), bytes / bandwidth)
  const microBatch = plan.train.ops.reduce((sum, op) => sum + seconds(op), 0)
  return microBatches * microBatch + updateBytes(plan) / bandwidth
}

/** The norm reads gradients; the update reads them again and reads and writes weights and states. */
function updateBytes({ gradientBytes, parameterBytes, optimizerBytes }: StepPlan): number {
  return 2 * gradientBytes + 2 * parameterBytes + 2 * optimizerBytes
}

/** Rows, columns and inner length of the product that is timed: what a step's products are like, done in a millisecond. */
const PRODUCT = { rows: 256, columns: 512, inner: 512 } as const
const SWIGLU = { rows: 1024, width: 512 } as const
const ATTENTION = { heads: 4, length: 256, headDim: 64 } as const
/** Ops of a tape that have nothing to compute. */
const TINY_OPS = 64

/**
 * Times a kernel of each kind in about 0.2 seconds. Only for devices whose kernels are done when they return.
 * @param threads  that compute: their processor time counts where it is shorter than the clock's, so that other programs
 *   on the same machine do not slow the measurement down
 */
export function measureDeviceRates(device: Device, threads: number): DeviceRates {
  const { kernels } = device
  const tensors: Tensor[] = []
  const random: MakeTensor = (...shape) => {
    const tensor = standaloneTensor(device, shape)
    tensors.push(tensor)
    kernels.randomNormal(tensor, { keyLow: tensors.length, keyHigh: 0 }, 0, 0, 1)
    return tensor
  }
  try {
    const { rows, columns, inner } = PRODUCT
    const [a, b, product] = [random(rows, inner), random(columns, inner), random(rows, columns)]
    const productSeconds = shortestSeconds(() => kernels.matmul(product, a, b, { transposeB: true }), threads)
    const [gateUp, out] = [random(SWIGLU.rows, 2 * SWIGLU.width), random(SWIGLU.rows, SWIGLU.width)]
    const swigluSeconds = shortestSeconds(() => kernels.swiglu(out, gateUp), threads)
    const swigluBytes = (gateUp.size + out.size) * device.itemBytes(device.floatDtype)
    return {
      productFlops: (2 * rows * columns * inner) / productSeconds,
      attentionFlops: attentionFlops(device, random, threads),
      bandwidth: swigluBytes / swigluSeconds,
      callSeconds: callSeconds(device, random(1, 1)),
    }
  } finally {
    for (const { storage } of tensors) device.release(storage.buffer!)
  }
}

type MakeTensor = (...shape: number[]) => Tensor

/** Forward and backward together. */
function attentionFlops({ kernels }: Device, random: MakeTensor, threads: number): number {
  const { heads, length, headDim } = ATTENTION
  const rows = (): Tensor => random(1, length, heads * headDim)
  const [q, k, v, out] = [rows(), rows(), rows(), rows()]
  const [dq, dk, dv, dOut] = [rows(), rows(), rows(), rows()]
  const [lse, delta] = [random(1, heads, length), random(1, heads, length)]
  const scale = headDim ** -0.5
  const options = { numHeads: heads, numKeyValueHeads: heads, headDim, scale, isCausal: true, window: 0 }
  const forward = () => kernels.attention(out, lse, q, k, v, options)
  const backward = () => kernels.attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options)
  const pairs = (heads * length * (length + 1)) / 2
  // Two products forward, five backward.
  return (14 * pairs * headDim) / (shortestSeconds(forward, threads) + shortestSeconds(backward, threads))
}

/** Of an op on a tape, forward and backward: the host's work. */
function callSeconds(device: Device, x: Tensor): number {
  const run = (): void => {
    using tape = new Tape(device)
    tape.watch(x)
    let sum = x
    for (let op = 0; op < TINY_OPS; op++) sum = add(sum, x)
    tape.backward(sum)
  }
  return shortestSeconds(run, 1) / (2 * TINY_OPS)
}

/** Of a few calls: other programs make one slow, never fast. */
function shortestSeconds(call: () => void, threads: number): number {
  let shortest = Number.POSITIVE_INFINITY
  const end = performance.now() + 30
  for (let count = 0; count < 3 || performance.now() < end; count++) {
    const usedBefore = process.cpuUsage()
    const start = performance.now()
    call()
    const seconds = (performance.now() - start) / 1000
    const { user, system } = process.cpuUsage(usedBefore)
    // A call too short for the processor's own clock has used nothing.
    const used = (user + system) / 1e6 / threads
    shortest = Math.min(shortest, used > 0 ? Math.min(seconds, used) : seconds)
  }
  return shortest
}
