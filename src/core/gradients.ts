// Gradients of activations during one backward pass. Each tensor's gradient is allocated at its first
// contribution, which overwrites; later ones add. A view shares the gradient of its base: column slices (q, k
// and v of a fused qkv) fill it piece by piece. Parameter gradients live elsewhere (core/parameter.ts).
import { emptyTensor } from './allocator.ts'
import type { Dtype } from './dtype.ts'
import type { Kernels } from './kernels.ts'
import type { TapeEntry } from './op.ts'
import { gradientTarget, Parameter } from './parameter.ts'
import { Tensor } from './tensor.ts'

interface State {
  readonly gradient: Tensor
  contributions: number
  /** Column ranges already written, or 'all'. */
  written: 'all' | [number, number][]
}

export class Gradients {
  readonly #states = new Map<Tensor, State>()
  readonly #needs: (tensor: Tensor) => boolean
  readonly #usesOf: (tensor: Tensor) => number
  /** Tensors whose gradient has been summed over rows already, into that of the bias that made them. */
  readonly #summed = new Set<Tensor>()
  /** Tensors whose gradient is made as that of the input of the in-place op that made them. */
  readonly #anticipated = new Set<Tensor>()

  /** @param usesOf  how many contributions the gradient of a tensor gets at most; with 0 nothing is known of it */
  constructor(needs: (tensor: Tensor) => boolean, usesOf: (tensor: Tensor) => number = () => 0) {
    this.#needs = needs
    this.#usesOf = usesOf
  }

  /** Whether anything upstream of this tensor (or the tensor itself) wants a gradient. */
  needs(tensor: Tensor | undefined): tensor is Tensor {
    return tensor !== undefined && this.#needs(tensor.base ?? tensor)
  }

  /** The gradient of `tensor`, or undefined if nothing contributed to it. */
  find(tensor: Tensor): Tensor | undefined {
    const root = tensor.base ?? tensor
    const state = this.#states.get(root)
    if (state === undefined) return undefined
    this.#completeColumns(root, state)
    return viewLike(tensor, state.gradient)
  }

  /** The gradient of an output that is known to have one. */
  of(tensor: Tensor): Tensor {
    const gradient = this.find(tensor)
    if (gradient === undefined) throw new Error('internal error: a gradient was read before it was written')
    return gradient
  }

  /** Contribution by a kernel that can either overwrite or add. */
  into(tensor: Tensor, write: (gradient: Tensor, accumulate: boolean) => void): void {
    const { gradient, accumulate } = this.#claim(tensor)
    write(gradient, accumulate)
  }

  /**
   * Contribution by a kernel that can only overwrite. That to a parameter has memory of its own even where it is the first:
   * later micro-batches, which add theirs, follow the memory plan of the first.
   * @param dtype  of such memory: the tensor's, or a wider one that the kernel can write as well
   */
  overwrite(tensor: Tensor, write: (gradient: Tensor) => void, dtype: Dtype = tensor.dtype): void {
    const { gradient, accumulate } = this.#claim(tensor)
    if (!accumulate && !((tensor.base ?? tensor) instanceof Parameter)) {
      write(gradient)
      return
    }
    const contribution = emptyTensor(tensor.device, tensor.shape, dtype, 'gradient')
    write(contribution)
    if (accumulate) tensor.device.kernels.accumulate(gradient, contribution)
    else tensor.device.kernels.copy(gradient, contribution)
  }

  /**
   * Contribution that is another tensor's gradient as it stands. Its memory is taken over: the caller must be
   * done with it, and may pass it on once only.
   */
  pass(tensor: Tensor, gradient: Tensor): void {
    const root = tensor.base ?? tensor
    if (!(root instanceof Parameter) && !this.#states.has(root) && tensor.size === root.size) {
      this.#states.set(root, {
        gradient: root === tensor ? gradient : gradient.reshape(...root.shape),
        contributions: 1,
        written: 'all',
      })
      return
    }
    const { gradient: own, accumulate } = this.#claim(tensor)
    if (accumulate) tensor.device.kernels.accumulate(own, gradient)
    else tensor.device.kernels.copy(own, gradient)
  }

  /** A copy of another tensor's gradient, for the second and later receivers of the same one. */
  copy(tensor: Tensor, gradient: Tensor): void {
    this.into(tensor, (own, accumulate) => {
      if (accumulate) tensor.device.kernels.accumulate(own, gradient)
      else tensor.device.kernels.copy(own, gradient)
    })
  }

  /**
   * For a kernel that makes the last contribution to the gradient of `x` and can sum it over rows at the same time: where
   * these sums go if they are the gradient of a trained bias (Op.biasOfOut). They then count as made.
   */
  claimRowSums(x: Tensor): { gradient: Tensor; accumulate: boolean } | undefined {
    const producer = x.producer as TapeEntry | undefined
    const name = producer?.op.biasOfOut
    if (producer === undefined || name === undefined || producer.outputs.out !== x) return undefined
    const bias = producer.inputs[name]
    if (!(bias instanceof Parameter) || !bias.requiresGrad) return undefined
    if ((this.#states.get(x)?.contributions ?? 0) + 1 !== this.#usesOf(x)) return undefined
    this.#summed.add(x)
    return gradientTarget(bias)
  }

  /** Whether the gradient of the bias that made `out` has been made along with that of `out`. */
  hasRowSums(out: Tensor): boolean {
    return this.#summed.has(out)
  }

  /**
   * For a kernel that makes the whole gradient of `root` through `views` of it, and can make that of the input of the
   * in-place op behind it instead: false if others contribute too.
   */
  anticipate(root: Tensor, views: number): boolean {
    if (this.#states.has(root) || this.#usesOf(root) !== views) return false
    this.#anticipated.add(root)
    return true
  }

  /** Whether the gradient of an in-place op's `out` is that of its input already. */
  isAnticipated(out: Tensor): boolean {
    return this.#anticipated.has(out)
  }

  /** Forgets a gradient that has been consumed. */
  drop(tensor: Tensor): void {
    this.#states.delete(tensor.base ?? tensor)
  }

  #claim(tensor: Tensor): { gradient: Tensor; accumulate: boolean } {
    const root = tensor.base ?? tensor
    if (root instanceof Parameter) return claimParameter(tensor, root)
    let state = this.#states.get(root)
    if (state === undefined) {
      state = { gradient: emptyTensor(root.device, root.shape, root.dtype, 'gradient'), contributions: 0, written: [] }
      this.#states.set(root, state)
    }
    state.contributions++
    const gradient = viewLike(tensor, state.gradient)
    if (state.written === 'all') return { gradient, accumulate: true }
    if (tensor.size === root.size) {
      const accumulate = state.written.length > 0
      if (accumulate) this.#completeColumns(root, state)
      state.written = 'all'
      return { gradient, accumulate }
    }
    const range = columnRange(tensor, root)
    if (range === undefined) {
      // Not a column slice (a leading-index view): start from zeros and add from here on.
      if (state.written.length === 0) root.device.kernels.fill(state.gradient, 0)
      else this.#completeColumns(root, state)
      state.written = 'all'
      return { gradient, accumulate: true }
    }
    if (state.written.some(([from, to]) => range[0] < to && from < range[1])) {
      this.#completeColumns(root, state)
      return { gradient, accumulate: true }
    }
    state.written.push(range)
    return { gradient, accumulate: false }
  }

  /** Zeroes the columns that no contribution wrote, so that the gradient is whole. */
  #completeColumns(root: Tensor, state: State): void {
    if (state.written === 'all') return
    const kernels: Kernels = root.device.kernels
    let next = 0
    for (const [from, to] of [...state.written, [root.columnCount, root.columnCount] as const].sort(
      (a, b) => a[0] - b[0],
    )) {
      if (from > next) kernels.fill(state.gradient.columns(next, from - next), 0)
      next = Math.max(next, to)
    }
    state.written = 'all'
  }
}

/** A parameter used as an activation, or a view of one: its gradient is the arena's, whole from the first on. */
function claimParameter(tensor: Tensor, parameter: Parameter): { gradient: Tensor; accumulate: boolean } {
  const { gradient, accumulate } = gradientTarget(parameter)
  if (tensor.size === parameter.size) return { gradient: viewLike(tensor, gradient), accumulate }
  if (!accumulate) parameter.device.kernels.fill(gradient, 0)
  return { gradient: viewLike(tensor, gradient), accumulate: true }
}

/**
 * The part of a root's gradient that belongs to a view of the root. The gradient is contiguous even where the root is
 * not (an in-place op on a column slice makes such a root): rows then lie closer together.
 */
function viewLike(view: Tensor, rootGradient: Tensor): Tensor {
  const root = view.base
  if (root === undefined) return rootGradient
  const distance = view.offset - root.offset
  const isPacked = !root.isContiguous
  const rows = isPacked ? Math.floor(distance / root.rowStride) : 0
  return new Tensor(view.shape, rootGradient.dtype, rootGradient.storage, {
    offset: rootGradient.offset + distance - rows * (root.rowStride - rootGradient.rowStride),
    rowStride: isPacked ? rootGradient.rowStride : view.rowStride,
    base: rootGradient,
  })
}

/** [from, to) in the root's columns if the view is a column slice over all rows. */
function columnRange(view: Tensor, root: Tensor): [number, number] | undefined {
  if (view.rowStride !== root.rowStride || view.rowCount !== root.rowCount) return undefined
  const from = view.offset - root.offset
  return [from, from + view.columnCount]
}
