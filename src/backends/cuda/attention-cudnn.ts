// Attention on cuDNN's fused engines where cuDNN is installed: training shapes in bf16 and f16, causal or full. Plans are
// kept by shape. Serves no windows, no packed documents and no decoding: other kernels do.
import koffi from 'koffi'
import { invariant } from '../../core/errors.ts'
import type { AttentionOptions, Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import {
  type AttentionPlan,
  type AttentionProblem,
  backwardPlan,
  forwardPlan,
  TENSOR_ID,
  type TensorName,
} from './attention-cudnn-graph.ts'
import { CudnnError, type CudnnLibrary } from './cudnn.ts'
import type { CudaRuntime } from './runtime.ts'

/** Up to 9.15.0 gradients want an explicit padding mask where the keys do not fill tiles of 128. */
const LAST_WITH_RAGGED_TILES = 91500
const TILE_KEYS = 128
const MAX_HEAD_DIM = 256
/** cuDNN makes no gradients of a single position. */
const MIN_LENGTH = 2
const SCRATCH_ALIGNMENT = 256

type Addresses = Partial<Record<TensorName, number>>
type AttentionArguments = [q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions]

export interface AttentionCudnn extends Pick<Kernels, 'attention' | 'attentionBackward'> {
  /** Whether `attention` serves these tensors; makes and keeps the plan, which takes a second the first time. */
  supports(...args: AttentionArguments): boolean
  /** The same for `attentionBackward`, with gradients laid out as q, k and v, and dOut and out without gaps. */
  supportsBackward(...args: AttentionArguments): boolean
  /** Bytes of scratch that the backward of these tensors takes. */
  backwardBytes(...args: AttentionArguments): number
}

/**
 * Serves nothing where cuDNN cannot be used (`library.problem` says why). cuDNN is loaded when it is first asked.
 * @param options.isDeterministic  gradients have the same bits in every run: slower, and with scratch of Tq * Tk * 2
 *   bytes for each head and sequence. Otherwise dq is summed in any order, in Tq * D * 4 bytes for each.
 */
export function attentionCudnn(
  runtime: CudaRuntime,
  library: CudnnLibrary,
  { isDeterministic }: { isDeterministic: boolean },
): AttentionCudnn {
  let handle = 0
  /** undefined: no engine serves it. */
  const plans = new Map<string, AttentionPlan | undefined>()
  // [one, minus infinity, scale]: read by cuDNN when a plan is executed.
  const scalars = new Float32Array(new ArrayBuffer(64))
  scalars.set([1, Number.NEGATIVE_INFINITY])
  const scalarsAddress = Number(koffi.address(scalars as never))

  function planFor(direction: 'forward' | 'backward', problem: AttentionProblem): AttentionPlan | undefined {
    const key = `${direction} ${keyOf(problem)}`
    if (!plans.has(key)) {
      if (handle === 0) handle = library.createHandle(runtime.stream)
      try {
        plans.set(key, (direction === 'forward' ? forwardPlan : backwardPlan)(library, handle, problem))
      } catch (error) {
        if (!(error instanceof CudnnError && error.isUnsupported)) throw error
        plans.set(key, undefined)
      }
    }
    return plans.get(key)
  }

  function isUsable(): boolean {
    return library.problem === undefined
  }

  function problemOf(strides: AttentionProblem['strides'], q: Tensor, k: Tensor, options: AttentionOptions) {
    const { numHeads, numKeyValueHeads, headDim, isCausal } = options
    const [batch, queries] = q.shape as [number, number]
    const keys = k.shape[1]!
    const { dtype } = q
    return { dtype, batch, numHeads, numKeyValueHeads, queries, keys, headDim, isCausal, isDeterministic, strides }
  }

  function forwardProblem(...[q, k, v, options]: AttentionArguments): AttentionProblem {
    const out = options.numHeads * options.headDim
    return problemOf({ q: q.rowStride, k: k.rowStride, v: v.rowStride, out }, q, k, options)
  }

  function backwardProblem(...[q, k, v, options]: AttentionArguments): AttentionProblem {
    const out = options.numHeads * options.headDim
    const inputs = { q: q.rowStride, k: k.rowStride, v: v.rowStride, out, dOut: out }
    return problemOf({ ...inputs, dq: q.rowStride, dk: k.rowStride, dv: v.rowStride }, q, k, options)
  }

  /** Binds memory to a plan and runs it. */
  function execute(plan: AttentionPlan, scale: number, bound: Addresses, dqSumBytes = 0): void {
    const workspaceBytes = Math.ceil(plan.workspaceBytes / SCRATCH_ALIGNMENT) * SCRATCH_ALIGNMENT
    const scratch = runtime.scratch(workspaceBytes + dqSumBytes)
    scalars[2] = scale
    const addresses: Addresses = {
      ...bound,
      dqSum: scratch + workspaceBytes,
      one: scalarsAddress,
      minusInfinity: scalarsAddress + 4,
      scale: scalarsAddress + 8,
    }
    const pack = library.create('variantPack', {
      packIds: plan.tensors.map((name) => TENSOR_ID[name]),
      packPointers: plan.tensors.map((name) => addresses[name]!),
      packWorkspace: scratch,
    })
    try {
      library.execute(handle, plan.descriptor, pack)
    } finally {
      library.destroy(pack)
    }
  }

  return {
    supports(...args) {
      return isServed(...args) && isUsable() && planFor('forward', forwardProblem(...args)) !== undefined
    },

    supportsBackward(...args) {
      const [, k] = args
      if (!isServed(...args) || !isUsable()) return false
      const fillsTiles = library.version > LAST_WITH_RAGGED_TILES || k.shape[1]! % TILE_KEYS === 0
      return fillsTiles && planFor('backward', backwardProblem(...args)) !== undefined
    },

    backwardBytes(...args) {
      const problem = backwardProblem(...args)
      const plan = planFor('backward', problem)
      invariant(plan !== undefined, 'backwardBytes of an attention that cuDNN does not serve')
      return plan.workspaceBytes + SCRATCH_ALIGNMENT + dqSumBytes(problem)
    },

    attention(out, lse, q, k, v, options) {
      const strides = { q: q.rowStride, k: k.rowStride, v: v.rowStride, out: out.rowStride }
      const plan = planFor('forward', problemOf(strides, q, k, options))
      invariant(plan !== undefined, 'attention that cuDNN does not serve: ask supports() first')
      execute(plan, options.scale, addressesOf({ q, k, v, out, lse }))
    },

    attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options) {
      const tensors = { q, k, v, out, dOut, dq, dk, dv }
      const strides = Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, tensor.rowStride]))
      const problem = problemOf(strides, q, k, options)
      const plan = planFor('backward', problem)
      invariant(plan !== undefined, 'attentionBackward that cuDNN does not serve: ask supportsBackward() first')
      execute(plan, options.scale, addressesOf({ ...tensors, lse, delta }), dqSumBytes(problem))
    },
  }
}

/** What the graphs express. Whether an engine serves it is for cuDNN to say. */
function isServed(...[q, k, v, options]: AttentionArguments): boolean {
  const { headDim, isCausal, scale, window, docStart } = options
  const [queries, keys] = [q.shape[1]!, k.shape[1]!]
  const isPlain = window === 0 && docStart === undefined && scale > 0 && (!isCausal || queries === keys)
  const isHalf = q.dtype === 'bf16' || q.dtype === 'f16'
  const isAligned = [q, k, v].every((x) => x.address % 16 === 0 && x.rowStride % 8 === 0)
  const isSized = headDim % 8 === 0 && headDim <= MAX_HEAD_DIM && Math.min(queries, keys) >= MIN_LENGTH
  return isPlain && isHalf && isAligned && isSized
}

function keyOf(problem: AttentionProblem): string {
  const { dtype, batch, numHeads, numKeyValueHeads, queries, keys, headDim, isCausal, strides } = problem
  const { q, k, v, out, dOut, dq, dk, dv } = strides
  const sizes = [batch, numHeads, numKeyValueHeads, queries, keys, headDim]
  return `${dtype} ${sizes.join()} ${isCausal} ${[q, k, v, out, dOut, dq, dk, dv].join()}`
}

function dqSumBytes({ isDeterministic, batch, numHeads, queries, headDim }: AttentionProblem): number {
  return isDeterministic ? 0 : batch * numHeads * queries * headDim * 4
}

function addressesOf(tensors: Partial<Record<TensorName, Tensor>>): Addresses {
  return Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, tensor.address]))
}
