// Attention by tiles beside attention by whole matrices on one device: time, FLOPs, bytes that have to pass through the
// memory, and memory held, for sequences of one length. Without a mask, so that both forms do the same forward. What
// `bench attention` shows.
import type { CpuDevice } from '../backends/cpu/device.ts'
import type { CudaDevice } from '../backends/cuda/device.ts'
import { widened } from '../checkpoint/half.ts'
import { standaloneTensor } from '../core/allocator.ts'
import type { AttentionOptions } from '../core/kernels.ts'
import { randomKey } from '../core/random.ts'
import type { Tensor } from '../core/tensor.ts'
import { millisecondsOfCalls } from './kernel-time.ts'

export interface AttentionBenchShape {
  /** Sequences times heads: each has queries, keys and values of its own. */
  readonly heads: number
  readonly length: number
  readonly headDim: number
}

export interface FormCosts {
  readonly flops: number
  /** Bytes through the memory: each operation reads its inputs once and writes its outputs once. */
  readonly bytes: number
}

export interface FormTimes {
  readonly form: 'tiles' | 'vanilla'
  readonly forward: FormCosts & { readonly milliseconds: number }
  readonly backward: FormCosts & { readonly milliseconds: number }
  /** Of tensors: inputs, outputs, gradients, and the matrices of scores where they exist. */
  readonly heldBytes: number
}

export interface AttentionComparison {
  readonly length: number
  readonly tiles: FormTimes
  /** Why there is none, where it does not fit. */
  readonly vanilla: FormTimes | { readonly problem: string }
  /** Distance of the outputs, and of the gradients of the queries, of both forms, over their norms. */
  readonly distance?: { readonly out: number; readonly dq: number }
}

/** What each form costs, counted. Element sizes in bytes. */
export function attentionCosts(
  { heads, length, headDim }: AttentionBenchShape,
  form: FormTimes['form'],
  elementBytes: number,
): { forward: FormCosts; backward: FormCosts } {
  const product = 2 * heads * length * length * headDim
  const vectors = heads * length * headDim * elementBytes
  const scores = heads * length * length * elementBytes
  const logSums = 4 * heads * length
  if (form === 'tiles') {
    return {
      // q, k, v and out, and the log-sums.
      forward: { flops: 2 * product, bytes: 4 * vectors + logSums },
      // The scores again, then dP, dV, dQ and dK. Those, dOut, and three gradients.
      backward: { flops: 5 * product, bytes: 8 * vectors + 3 * logSums },
    }
  }
  return {
    // Scores written; softmax reads and writes; probabilities read.
    forward: { flops: 2 * product, bytes: 4 * vectors + 4 * scores },
    // dP, dV, dQ and dK. dP written; it and P read, dS written; P read for dV, dS for dQ and dK.
    backward: { flops: 4 * product, bytes: 9 * vectors + 7 * scores },
  }
}

/** Bytes that a form holds during forward and backward. */
export function attentionHeldBytes(
  { heads, length, headDim }: AttentionBenchShape,
  form: FormTimes['form'],
  elementBytes: number,
): number {
  const vectors = 8 * heads * length * headDim * elementBytes
  return vectors + (form === 'tiles' ? 2 * 4 * heads * length : 2 * heads * length * length * elementBytes)
}

/** Measures one length. The tensors are given back before it returns. */
export async function compareAttention(
  device: CpuDevice | CudaDevice,
  shape: AttentionBenchShape,
  repeats: number,
): Promise<AttentionComparison> {
  const { heads, length, headDim } = shape
  const elementBytes = device.itemBytes(device.floatDtype)
  const tensors: Tensor[] = []
  const empty = (sizes: readonly number[], dtype = device.floatDtype): Tensor => {
    const tensor = standaloneTensor(device, sizes, dtype)
    tensors.push(tensor)
    return tensor
  }
  const rows = [heads, length, headDim]
  const random = (stream: string): Tensor => {
    const tensor = empty(rows)
    device.kernels.randomNormal(tensor, randomKey(1, `attention bench ${stream}`), 0, 0, 1)
    return tensor
  }
  const scale = headDim ** -0.5
  const timed = (call: () => void): number => millisecondsOf(device, call, repeats)
  const timesOf = (form: FormTimes['form'], forward: () => void, backward: () => void): FormTimes => {
    const costs = attentionCosts(shape, form, elementBytes)
    const forwardMilliseconds = timed(forward)
    return {
      form,
      forward: { ...costs.forward, milliseconds: forwardMilliseconds },
      backward: { ...costs.backward, milliseconds: timed(backward) },
      heldBytes: attentionHeldBytes(shape, form, elementBytes),
    }
  }
  try {
    const [q, k, v, dOut] = [random('q'), random('k'), random('v'), random('dOut')]
    const [out, dq, dk, dv] = [empty(rows), empty(rows), empty(rows), empty(rows)]
    const [lse, delta] = [empty([heads, 1, length], 'f32'), empty([heads, 1, length], 'f32')]
    // A head a sequence: then both forms read the same tensors.
    const options: AttentionOptions = { numHeads: 1, numKeyValueHeads: 1, headDim, scale, isCausal: false, window: 0 }
    const { kernels } = device
    const tiles = timesOf(
      'tiles',
      () => kernels.attention(out, lse, q, k, v, options),
      () => kernels.attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options),
    )
    const memory = 'ownMemory' in device ? device.ownMemory() : undefined
    const scoreBytes = 2 * heads * length * length * elementBytes
    if (memory !== undefined && scoreBytes > memory.freeBytes * 0.95) {
      return { length, tiles, vanilla: { problem: 'does not fit' } }
    }
    const valuesOf = async (tensor: Tensor) => widened(await device.read(tensor), tensor.dtype)
    const first = { out: await valuesOf(out), dq: await valuesOf(dq) }
    const parts = device.vanillaAttention()
    const [p, dp] = [empty([heads, length, length]), empty([heads, length, length])]
    const batch = heads
    const vanilla = timesOf(
      'vanilla',
      () => {
        parts.product(p, q, k, { batch, transposeB: true })
        parts.softmax(p, scale)
        parts.product(out, p, v, { batch })
      },
      () => {
        parts.product(dv, p, dOut, { batch, transposeA: true })
        parts.product(dp, dOut, v, { batch, transposeB: true })
        parts.softmaxBackward(dp, p, scale)
        parts.product(dq, dp, k, { batch })
        parts.product(dk, dp, q, { batch, transposeA: true })
      },
    )
    const distance = {
      out: distanceOf(first.out, await valuesOf(out)),
      dq: distanceOf(first.dq, await valuesOf(dq)),
    }
    return { length, tiles, vanilla, distance }
  } finally {
    for (const { storage } of tensors) device.release(storage.buffer!)
  }
}

/** On a card the median; elsewhere the fastest: what makes the others slower are other programs. */
function millisecondsOf(device: CpuDevice | CudaDevice, call: () => void, repeats: number): number {
  const times = millisecondsOfCalls(device, call, repeats)
  return 'runtime' in device ? times.sort((a, b) => a - b)[repeats >> 1]! : Math.min(...times)
}

function distanceOf(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [difference, norm] = [0, 0]
  for (let n = 0; n < a.length; n++) {
    difference += (a[n]! - b[n]!) ** 2
    norm += b[n]! ** 2
  }
  return Math.sqrt(difference / norm)
}

/** The longest sequence, of so many tokens each of `headsOfToken` heads, whose form fits this memory. */
export function longestLength(
  memoryBytes: number,
  { headsOfToken, headDim, elementBytes }: { headsOfToken: number; headDim: number; elementBytes: number },
  form: FormTimes['form'],
): number {
  const fits = (length: number): boolean =>
    attentionHeldBytes({ heads: headsOfToken, length, headDim }, form, elementBytes) <= memoryBytes
  let [low, high] = [1, 2 ** 40]
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2)
    if (fits(middle)) low = middle
    else high = middle
  }
  return low
}
