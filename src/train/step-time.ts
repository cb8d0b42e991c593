// How long a training step takes, before the first: each op of the dry run at the roof that holds it (Williams et al. 2009,
// "Roofline"), the arithmetic of its products or the bytes that it moves, at rates that are measured on this device.
import type { CpuDevice } from '../backends/cpu/device.ts'
import type { CudaDevice } from '../backends/cuda/device.ts'
import { emptyTensor, standaloneTensor } from '../core/allocator.ts'
import type { Dtype } from '../core/dtype.ts'
import { Tape } from '../core/tape.ts'
import type { Tensor } from '../core/tensor.ts'
import { add } from '../ops/add.ts'
import { millisecondsOfCalls } from './kernel-time.ts'
import type { OpWork, StepPlan } from './plan.ts'

export interface DeviceRates {
  /** FLOP/s of matrix products. */
  readonly productFlops: number
  /** FLOP/s of attention, forward and backward: its products have a softmax between them. */
  readonly attentionFlops: number
  /** Bytes that an elementwise op reads and writes in a second. */
  readonly bandwidth: number
  /** Seconds that an op takes besides: the host's work, or a gap between kernels. */
  readonly callSeconds: number
}

/** Seconds of a step of so many micro-batches. */
export function stepSeconds(plan: StepPlan, microBatches: number, rates: DeviceRates): number {
  const microBatch = plan.train.ops.reduce((sum, op) => sum + opSeconds(op, rates), 0)
  return microBatches * microBatch + plan.updateFlops / rates.productFlops + updateBytes(plan) / rates.bandwidth
}

function opSeconds({ op, flops, bytes }: OpWork, rates: DeviceRates): number {
  const peak = op === 'attention' ? rates.attentionFlops : rates.productFlops
  return rates.callSeconds + Math.max(flops / peak, bytes / rates.bandwidth)
}

/** The norm reads gradients; the update reads them again, and reads and writes weights and states. */
function updateBytes({ gradientBytes, parameterBytes, optimizerBytes }: StepPlan): number {
  return 2 * (gradientBytes + parameterBytes + optimizerBytes)
}

/** Shapes that are timed: like those of a step, and done in a millisecond or less. */
interface ProbeSizes {
  readonly product: { readonly rows: number; readonly columns: number; readonly inner: number }
  readonly swiglu: { readonly rows: number; readonly width: number }
  /** Causal, one sequence. */
  readonly attention: { readonly heads: number; readonly length: number; readonly headDim: number }
  readonly repeats: number
}

const PROCESSOR_PROBES: ProbeSizes = {
  product: { rows: 256, columns: 512, inner: 512 },
  swiglu: { rows: 1024, width: 512 },
  attention: { heads: 4, length: 128, headDim: 64 },
  repeats: 24,
}

const CARD_PROBES: ProbeSizes = {
  product: { rows: 8192, columns: 4096, inner: 1024 },
  swiglu: { rows: 16384, width: 2048 },
  attention: { heads: 32, length: 1024, headDim: 64 },
  repeats: 5,
}

/** Ops of a tape that have nothing to compute. */
const TINY_OPS = 16

/** Times a kernel of each kind, in some 0.2 seconds: the fastest of a few calls, because other programs make one slow, never fast. */
export function measureDeviceRates(device: CpuDevice | CudaDevice): DeviceRates {
  const sizes = 'runtime' in device ? CARD_PROBES : PROCESSOR_PROBES
  const seconds = (call: () => void): number => Math.min(...millisecondsOfCalls(device, call, sizes.repeats)) / 1000
  const { kernels } = device
  const tensors: Tensor[] = []
  const make = (shape: readonly number[], dtype: Dtype = device.floatDtype): Tensor => {
    const tensor = standaloneTensor(device, shape, dtype)
    tensors.push(tensor)
    return tensor
  }
  const random = (...shape: number[]): Tensor => {
    const tensor = make(shape)
    kernels.randomNormal(tensor, { keyLow: tensors.length, keyHigh: 0 }, 0, 0, 1)
    return tensor
  }
  const productFlops = (): number => {
    const { rows, columns, inner } = sizes.product
    const [a, b, out] = [random(rows, inner), random(columns, inner), make([rows, columns])]
    return (2 * rows * columns * inner) / seconds(() => kernels.matmul(out, a, b, { transposeB: true }))
  }
  const bandwidth = (): number => {
    const { rows, width } = sizes.swiglu
    const [gateUp, out] = [random(rows, 2 * width), make([rows, width])]
    const bytes = (gateUp.size + out.size) * device.itemBytes(device.floatDtype)
    return bytes / seconds(() => kernels.swiglu(out, gateUp))
  }
  const attentionFlops = (): number => {
    const { heads, length, headDim } = sizes.attention
    const rows = (): Tensor => random(1, length, heads * headDim)
    const [q, k, v, out, dq, dk, dv, dOut] = [rows(), rows(), rows(), rows(), rows(), rows(), rows(), rows()]
    const [lse, delta] = [make([1, heads, length], 'f32'), make([1, heads, length], 'f32')]
    const scale = headDim ** -0.5
    const options = { numHeads: heads, numKeyValueHeads: heads, headDim, scale, isCausal: true, window: 0 }
    const forward = seconds(() => kernels.attention(out, lse, q, k, v, options))
    const backward = seconds(() => kernels.attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options))
    const pairs = (heads * length * (length + 1)) / 2
    // Two products forward, five backward.
    return (14 * pairs * headDim) / (forward + backward)
  }
  const callSeconds = (): number => {
    const x = random(1, 8)
    const run = (): void => {
      using tape = new Tape(device)
      tape.watch(x)
      let sum = x
      for (let op = 0; op < TINY_OPS; op++) sum = add(sum, x)
      tape.backward(sum, emptyTensor(device, x.shape))
    }
    return seconds(run) / (2 * TINY_OPS)
  }
  try {
    return {
      productFlops: productFlops(),
      attentionFlops: attentionFlops(),
      bandwidth: bandwidth(),
      callSeconds: callSeconds(),
    }
  } finally {
    for (const { storage } of tensors) device.release(storage.buffer!)
  }
}
