// Launchers of kernels/optimizer.cu: gradient norm, clipping and the update rules, each one pass over its range.
import type { Dtype } from '../../core/dtype.ts'
import { invariant } from '../../core/errors.ts'
import type { AdamRange, Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import { blocksFor, type CudaKernel, type Launcher } from './launcher.ts'

type Family =
  | 'sumOfSquares'
  | 'clipFactor'
  | 'updateLossScale'
  | 'adam'
  | 'sgd'
  | 'lion'
  | 'momentum'
  | 'normalize'
  | 'applyUpdate'

/** The element types a file is compiled for: TY_DTYPE of what a kernel writes, TY_GRAD_DTYPE of what it reads. */
type Variant = (written: Dtype, read: Dtype) => CudaKernel

const GRAD_DTYPE: Readonly<Partial<Record<Dtype, number>>> = { f32: 0, bf16: 1, f16: 2 }
const THREADS = 256
/** Packs of 16 bytes that a block of square_sums has on their way at a time. */
const SQUARE_STEP = 4 * THREADS
/** Most partial sums of sumOfSquares, which one block adds up, and of normalize, where every block does. */
const MOST_PARTIALS = { sumOfSquares: 4096, normalize: 512 }
/** Ranges of one launch: MOST_RANGES of the kernel file. */
const MOST_RANGES = 60
/** Quads of one block of normalize. */
const NORMALIZE_STEP = 4 * THREADS

/** Flags of the adam kernel. */
const COUPLED_DECAY = 1
const NOTES_CONVENTION = 2

/** Groups of four elements that wide accesses can handle: 0 unless every tensor begins at a multiple of four elements. */
function quadsOf(...tensors: readonly (Tensor | undefined)[]): number {
  const isAligned = tensors.every((tensor) => {
    if (tensor === undefined) return true
    return tensor.address % (4 * tensor.device.itemBytes(tensor.dtype)) === 0
  })
  return isAligned ? Math.floor(tensors[0]!.size / 4) : 0
}

/** Blocks for a range of which `quads` groups of four are handled whole. */
function gridOf(count: number, quads: number): number {
  return blocksFor(Math.max(quads, count - 4 * quads), THREADS)
}

/**
 * Letters of a struct of arrays with an entry for each range; `a` is an int with one entry more. An address follows such a
 * struct: it begins where the struct, padded to a multiple of 8, ends.
 */
function tableOf(letters: string): string {
  return [...letters]
    .map((letter) => (letter === 'a' ? 'i'.repeat(MOST_RANGES + 1) : letter.repeat(MOST_RANGES)))
    .join('')
}

/** One number of each range, as such an array. */
function column<Item>(items: readonly Item[], numberOf: (item: Item) => number): number[] {
  return Array.from({ length: MOST_RANGES }, (_, i) => (i < items.length ? numberOf(items[i]!) : 0))
}

/** The first block of each range and of those behind it, which there are not: the number of blocks. */
function firstBlocksOf(items: readonly { readonly blocks: number }[]): number[] {
  let next = 0
  return Array.from({ length: MOST_RANGES + 1 }, (_, i) => {
    const first = next
    next += items[i]?.blocks ?? 0
    return first
  })
}

function chunksOf<Item>(items: readonly Item[], most: number): Item[][] {
  return Array.from({ length: Math.ceil(items.length / most) }, (_, i) => items.slice(i * most, (i + 1) * most))
}

/**
 * Kernels of the optimizers. Weights and states are f32; a gradient, an update, `out` and x may be f32 or the device's
 * float type. `working` (adam, sgd, lion, applyUpdate) receives the new weight rounded to its own type.
 */
export function optimizerKernels(launcher: Launcher): Pick<Kernels, Family> {
  const family = (name: string, signature: string): Variant => {
    const made = new Map<string, CudaKernel>()
    return (written, read) => {
      const key = `${written} ${read}`
      let kernel = made.get(key)
      if (kernel === undefined) {
        const gradDtype = GRAD_DTYPE[read]
        invariant(gradDtype !== undefined, `${name} does not read ${read}`)
        const defines = { TY_GRAD_DTYPE: gradDtype }
        kernel = launcher.kernel('optimizer', name, signature, { dtype: written, defines })
        made.set(key, kernel)
      }
      return kernel
    }
  }
  const adam = family('adam', `${tableOf('pppppllaf')}pifffffi`)
  const sgd = family('sgd', 'pppppllfif')
  const lion = family('lion', 'pppppllfffff')
  const applyUpdate = family('apply_update', 'ppppllff')
  const momentum = family('momentum', 'ppppllfi')
  const squareSums = family('square_sums', `${tableOf('plla')}pli`)
  const normalize = family('normalize', 'pppilld')
  const finishSumOfSquares = family('finish_sum_of_squares', 'ppi')('f32', 'f32')
  const clipFactor = family('clip_factor', 'pd')('f32', 'f32')
  const updateLossScale = family('update_loss_scale', 'pddddd')('f32', 'f32')

  /**
   * Sums of squares of about `limit` parts of tensors, left in scratch memory. The parts follow from sizes and types
   * alone.
   */
  const sumParts = (xs: readonly Tensor[], limit: number): { address: number; count: number } => {
    const packsOf = (x: Tensor): number =>
      x.address % 16 === 0 ? Math.floor((x.size * x.device.itemBytes(x.dtype)) / 16) : 0
    const packsInAll = xs.reduce((sum, x) => sum + packsOf(x), 0)
    const packsPerBlock = Math.max(1, Math.ceil(packsInAll / (limit * SQUARE_STEP))) * SQUARE_STEP
    const parts = xs.map((x) => {
      const packs = packsOf(x)
      const blocks = packs === 0 ? blocksFor(x.size, SQUARE_STEP, limit) : blocksFor(packs, packsPerBlock)
      return { x, packs, blocks }
    })
    const count = parts.reduce((sum, { blocks }) => sum + blocks, 0)
    const address = launcher.scratch(count * 8)
    let done = 0
    const alike = [...Map.groupBy(parts, ({ x }) => x.dtype).values()]
    for (const some of alike.flatMap((parts) => chunksOf(parts, MOST_RANGES))) {
      const firsts = firstBlocksOf(some)
      squareSums('f32', some[0]!.x.dtype)(
        firsts.at(-1)!,
        THREADS,
        ...column(some, ({ x }) => x.address),
        ...column(some, ({ x }) => x.size),
        ...column(some, ({ packs }) => packs),
        ...firsts,
        address + 8 * done,
        packsPerBlock,
        some.length,
      )
      done += firsts.at(-1)!
    }
    return { address, count }
  }

  return {
    sumOfSquares(scalars, xs) {
      const partials = sumParts(xs, MOST_PARTIALS.sumOfSquares)
      finishSumOfSquares(1, 1024, scalars.address, partials.address, partials.count)
    },
    clipFactor: (scalars, maxNorm) => clipFactor(1, 1, scalars.address, maxNorm),
    updateLossScale: (scalars, { growthFactor, growthInterval, backoffFactor, hysteresis, minScale }) =>
      updateLossScale(1, 1, scalars.address, growthFactor, growthInterval, backoffFactor, hysteresis, minScale),
    adam(ranges, scalars, { beta1, beta2, eps, coupledDecay, convention }) {
      const flags = (coupledDecay ? COUPLED_DECAY : 0) | (convention === 'notes' ? NOTES_CONVENTION : 0)
      const typesOf = ({ working, grad }: AdamRange): string => `${working?.dtype ?? 'f32'} ${grad.dtype}`
      for (const alike of Map.groupBy(ranges, typesOf).values()) {
        const [{ working, grad }] = alike as [AdamRange]
        const sized = alike.map((range) => {
          const quads = quadsOf(range.weight, range.m, range.v, range.grad, range.working)
          return { range, quads, blocks: gridOf(range.weight.size, quads) }
        })
        for (const some of chunksOf(sized, MOST_RANGES)) {
          const firsts = firstBlocksOf(some)
          adam(working?.dtype ?? 'f32', grad.dtype)(
            firsts.at(-1)!,
            THREADS,
            ...column(some, ({ range }) => range.weight.address),
            ...column(some, ({ range }) => range.m.address),
            ...column(some, ({ range }) => range.v.address),
            ...column(some, ({ range }) => range.grad.address),
            ...column(some, ({ range }) => range.working?.address ?? 0),
            ...column(some, ({ range }) => range.weight.size),
            ...column(some, ({ quads }) => quads),
            ...firsts,
            ...column(some, ({ range }) => range.weightDecay),
            scalars.address,
            some.length,
            beta1,
            1 - beta1,
            beta2,
            1 - beta2,
            eps,
            flags,
          )
        }
      }
    },
    sgd(weight, velocity, grad, scalars, options, working) {
      const quads = quadsOf(weight, velocity, grad, working)
      sgd(working?.dtype ?? 'f32', grad.dtype)(
        gridOf(weight.size, quads),
        THREADS,
        weight.address,
        velocity?.address ?? 0,
        grad.address,
        working?.address ?? 0,
        scalars.address,
        weight.size,
        quads,
        options.momentum,
        Number(options.nesterov),
        options.weightDecay,
      )
    },
    lion(weight, m, grad, scalars, { beta1, beta2, weightDecay }, working) {
      const quads = quadsOf(weight, m, grad, working)
      lion(working?.dtype ?? 'f32', grad.dtype)(
        gridOf(weight.size, quads),
        THREADS,
        weight.address,
        m.address,
        grad.address,
        working?.address ?? 0,
        scalars.address,
        weight.size,
        quads,
        beta1,
        1 - beta1,
        beta2,
        1 - beta2,
        weightDecay,
      )
    },
    momentum(out, m, grad, scalars, options) {
      const quads = quadsOf(out, m, grad)
      momentum(out.dtype, grad.dtype)(
        gridOf(out.size, quads),
        THREADS,
        out.address,
        m.address,
        grad.address,
        scalars.address,
        out.size,
        quads,
        options.momentum,
        Number(options.nesterov),
      )
    },
    normalize(out, x, eps) {
      const quads = quadsOf(out, x)
      const partials = sumParts([x], MOST_PARTIALS.normalize)
      normalize(out.dtype, x.dtype)(
        blocksFor(quads === 0 ? out.size : quads, NORMALIZE_STEP),
        THREADS,
        out.address,
        x.address,
        partials.address,
        partials.count,
        out.size,
        quads,
        eps,
      )
    },
    applyUpdate(weight, update, scalars, { scale, weightDecay }, working) {
      const quads = quadsOf(weight, update, working)
      applyUpdate(working?.dtype ?? 'f32', update.dtype)(
        gridOf(weight.size, quads),
        THREADS,
        weight.address,
        update.address,
        working?.address ?? 0,
        scalars.address,
        weight.size,
        quads,
        scale,
        weightDecay,
      )
    },
  }
}
