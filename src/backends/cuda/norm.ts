// Launchers of kernels/norm.cu and kernels/norm-backward.cu: RMSNorm and LayerNorm. Which warps share a row, and how many
// blocks add up the gradients of weights, follows from the shape alone.
import type { Dtype } from '../../core/dtype.ts'
import { invariant } from '../../core/errors.ts'
import type { Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import { FLOATS, floatNumber, isGrouped } from './elements.ts'
import { blocksFor, type CudaKernel, type Launcher } from './launcher.ts'

type Family =
  | 'rmsnorm'
  | 'rmsnormBackwardInput'
  | 'rmsnormBackwardWeight'
  | 'rmsnormBackward'
  | 'layernorm'
  | 'layernormBackwardInput'
  | 'layernormBackwardWeight'
  | 'layernormBackward'

/** Elements of a row that a thread has at most; more only where 32 warps are not enough. */
const COLUMNS = { forward: 64, backward: 24 }
const MOST_WARPS = 32
/** Threads of a block, unless a row needs more. */
const THREADS = 128
/** Elements of a row up to which a thread of the backward comes by with 128 registers. */
const FEW_COLUMNS = 16
/** Blocks that add up gradients of weights, for each that shares a multiprocessor: of the shape alone, not of the card. */
const PARTS_PER_BLOCK = 132
/** Rows that a team adds up at least. */
const LEAST_ROWS = 4

/** Macros of kernels/norm.cuh: elements of a group, groups of a thread, warps of a team, teams of a block. */
interface Layout {
  readonly GROUP: number
  readonly GROUPS: number
  readonly WARPS: number
  readonly TEAMS: number
}

function layoutOf(x: Tensor, others: readonly Tensor[], most: number): Layout {
  const packed = 16 / x.device.itemBytes(x.dtype)
  const GROUP = x.columnCount % packed === 0 && [x, ...others].every((t) => isGrouped(t, packed)) ? packed : 1
  const groupsWith = (warps: number): number => Math.ceil(x.columnCount / (GROUP * 32 * warps))
  let WARPS = 1
  while (groupsWith(WARPS) * GROUP > most && WARPS < MOST_WARPS) WARPS *= 2
  return { GROUP, GROUPS: groupsWith(WARPS), WARPS, TEAMS: Math.max(1, THREADS / (32 * WARPS)) }
}

/** Where gradients go, and to which of them the new ones are added. */
interface Gradients {
  readonly dx?: Tensor
  readonly dWeight?: Tensor
  readonly dBias?: Tensor
  /** Sums over rows of dx; with all of the others. */
  readonly sumOfDx?: { readonly sums: Tensor; readonly accumulate: boolean } | undefined
  /** The forward's result, made again; with its bias for LayerNorm. */
  readonly again?: { readonly out: Tensor; readonly bias?: Tensor } | undefined
  readonly accumulate: { readonly dx?: boolean; readonly dWeight?: boolean; readonly dBias?: boolean }
}

/** What the backward reads; `mean` is that of LayerNorm alone. */
interface Saved {
  readonly dOut: Tensor
  readonly x: Tensor
  readonly weight?: Tensor
  readonly mean?: Tensor
  readonly rstd: Tensor
}

/** x, weight and bias have one dtype (f32, bf16 or f16); statistics and the gradients of weight and bias are f32. */
export function normKernels(launcher: Launcher): Pick<Kernels, Family> {
  const family = (file: string, name: string, signature: string) => {
    const made = new Map<string, CudaKernel>()
    return (dtype: Dtype, defines: Readonly<Record<string, number>>): CudaKernel => {
      const key = `${dtype} ${Object.values(defines).join()}`
      let kernel = made.get(key)
      if (kernel === undefined) {
        kernel = launcher.kernel(file, name, signature, { dtype, defines })
        made.set(key, kernel)
      }
      return kernel
    }
  }
  const normForward = family('norm', 'norm_forward', 'pppppplif')
  const normBackward = family('norm-backward', 'norm_backward', 'ppppppppplii')
  const addParts = family('norm-backward', 'norm_add_parts', 'ppppiii')

  const forward = (
    out: Tensor,
    mean: Tensor | undefined,
    rstd: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | undefined,
    eps: number,
  ): void => {
    const layout = layoutOf(x, bias === undefined ? [out, weight] : [out, weight, bias], COLUMNS.forward)
    const { WARPS, TEAMS } = layout
    normForward(FLOATS[floatNumber('norm', 'x', x)]!, { ...layout, IS_LAYERNORM: Number(mean !== undefined) })(
      Math.ceil(x.rowCount / TEAMS),
      32 * WARPS * TEAMS,
      out.address,
      mean?.address ?? 0,
      rstd.address,
      x.address,
      weight.address,
      bias?.address ?? 0,
      x.rowCount,
      x.columnCount,
      eps,
    )
  }

  const backward = (saved: Saved, { dx, dWeight, dBias, accumulate, sumOfDx, again }: Gradients): void => {
    const { dOut, x, weight, mean, rstd } = saved
    const others = [dOut, dx, weight, again?.out, again?.bias].filter((tensor) => tensor !== undefined)
    const layout = layoutOf(x, others, COLUMNS.backward)
    const { GROUP, GROUPS, WARPS, TEAMS } = layout
    const threads = 32 * WARPS * TEAMS
    // A thread with more columns needs more registers: fewer blocks then share a multiprocessor.
    const blocks = GROUPS * GROUP > FEW_COLUMNS ? 3 : 4
    const defines = {
      ...layout,
      IS_LAYERNORM: Number(mean !== undefined),
      WITH_INPUT: Number(dx !== undefined),
      WITH_WEIGHT: Number(dWeight !== undefined),
      WITH_SUMS: Number(sumOfDx !== undefined),
      WITH_OUT: Number(again !== undefined),
      MIN_BLOCKS: Math.max(1, Math.floor((blocks * THREADS) / threads)),
    }
    const dtype = FLOATS[floatNumber('norm', 'x', x)]!
    const parts =
      dWeight === undefined
        ? Math.ceil(x.rowCount / TEAMS)
        : blocksFor(x.rowCount, TEAMS * LEAST_ROWS, blocks * PARTS_PER_BLOCK)
    const width = GROUPS * GROUP * 32 * WARPS
    const sums = sumOfDx !== undefined ? 3 : dBias !== undefined ? 2 : 1
    const partials = dWeight === undefined ? 0 : launcher.scratch(parts * width * sums * 4)
    normBackward(dtype, defines)(
      parts,
      threads,
      dx?.address ?? 0,
      partials,
      again?.out.address ?? 0,
      dOut.address,
      x.address,
      weight?.address ?? 0,
      again?.bias?.address ?? 0,
      mean?.address ?? 0,
      rstd.address,
      x.rowCount,
      x.columnCount,
      Number(accumulate.dx ?? false),
    )
    if (dWeight === undefined) return
    invariant(dWeight.dtype === 'f32' && (dBias ?? dWeight).dtype === 'f32', 'gradients of a norm are f32')
    addParts(dtype, defines)(
      [Math.ceil(width / 32), sums],
      1024,
      dWeight.address,
      dBias?.address ?? 0,
      sumOfDx?.sums.address ?? 0,
      partials,
      parts,
      x.columnCount,
      Number(accumulate.dWeight ?? false) +
        2 * Number(accumulate.dBias ?? false) +
        4 * Number(sumOfDx?.accumulate ?? false),
    )
  }

  return {
    rmsnorm: (out, rstd, x, weight, eps) => forward(out, undefined, rstd, x, weight, undefined, eps),
    rmsnormBackwardInput: (dx, dOut, x, weight, rstd, accumulate) =>
      backward({ dOut, x, weight, rstd }, { dx, accumulate: { dx: accumulate } }),
    rmsnormBackwardWeight: (dWeight, dOut, x, rstd, accumulate) =>
      backward({ dOut, x, rstd }, { dWeight, accumulate: { dWeight: accumulate } }),
    rmsnormBackward: (dx, dWeight, dOut, x, weight, rstd, accumulate, again) =>
      backward({ dOut, x, weight, rstd }, { dx, dWeight, accumulate, again }),
    layernorm: (out, mean, rstd, x, weight, bias, eps) => forward(out, mean, rstd, x, weight, bias, eps),
    layernormBackwardInput: (dx, dOut, x, weight, mean, rstd, accumulate) =>
      backward({ dOut, x, weight, mean, rstd }, { dx, accumulate: { dx: accumulate } }),
    layernormBackwardWeight: (dWeight, dBias, dOut, x, mean, rstd, accumulate) =>
      backward({ dOut, x, mean, rstd }, { dWeight, dBias, accumulate: { dWeight: accumulate, dBias: accumulate } }),
    layernormBackward: (dx, dWeight, dBias, dOut, x, weight, mean, rstd, accumulate, sumOfDx, again) =>
      backward({ dOut, x, weight, mean, rstd }, { dx, dWeight, dBias, accumulate, sumOfDx, again }),
  }
}
