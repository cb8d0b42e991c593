// Launchers of kernels/norm.cu and kernels/norm-backward.cu: RMSNorm and LayerNorm. Which warps share a row, and how many
// blocks add up the gradients of weights, follows from the shape alone.
import { invariant } from '../../core/errors.ts'
import type { Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import { isGrouped, variants } from './elements.ts'
import { blocksFor, type Launcher } from './launcher.ts'

type Family =
  | 'rmsnorm'
  | 'rmsnormBackwardInput'
  | 'rmsnormBackwardWeight'
  | 'rmsnormBackward'
  | 'layernorm'
  | 'layernormBackwardInput'
  | 'layernormBackwardWeight'
  | 'layernormBackward'

export interface NormTuning {
  /** Elements of a row that a thread has at most (more only where 32 warps are not enough), and threads of a block. */
  readonly columns: number
  readonly threads: number
  /** Blocks that share a multiprocessor at least: what decides the registers of a thread. */
  readonly minBlocks: number
  /** Blocks at most where gradients of weights are added up. */
  readonly parts: number
}

const FORWARD: NormTuning = { columns: 64, threads: 128, minBlocks: 1, parts: 0 }
const BACKWARD: NormTuning = { columns: 24, threads: 128, minBlocks: 3, parts: 396 }
/** Rows that a team adds up at least. */
const LEAST_ROWS = 4
const MOST_WARPS = 32

/** Macros of kernels/norm.cuh. */
type Team = readonly [isLayernorm: number, group: number, groups: number, warps: number, teams: number]

function teamOf(isLayernorm: boolean, x: Tensor, others: readonly Tensor[], { columns, threads }: NormTuning): Team {
  const packed = 16 / x.device.itemBytes(x.dtype)
  const group = x.columnCount % packed === 0 && [x, ...others].every((t) => isGrouped(t, packed)) ? packed : 1
  const units = x.columnCount / group
  const groupsWith = (warps: number): number => Math.ceil(units / (32 * warps))
  let warps = 1
  while (groupsWith(warps) * group > columns && warps < MOST_WARPS) warps *= 2
  return [Number(isLayernorm), group, groupsWith(warps), warps, Math.max(1, threads / (32 * warps))]
}

interface Gradients {
  readonly dx?: Tensor
  readonly dWeight?: Tensor
  readonly dBias?: Tensor
  readonly accumulate: { readonly dx?: boolean; readonly dWeight?: boolean; readonly dBias?: boolean }
}

interface Saved {
  readonly dOut: Tensor
  readonly x: Tensor
  readonly weight?: Tensor
  readonly mean?: Tensor
  readonly rstd: Tensor
}

/** x, weight and bias have one dtype (f32, bf16 or f16); statistics and the gradients of weight and bias are f32. */
export function normKernels(
  launcher: Launcher,
  tuning: { forward: NormTuning; backward: NormTuning } = { forward: FORWARD, backward: BACKWARD },
): Pick<Kernels, Family> {
  const defines = ([IS_LAYERNORM, GROUP, GROUPS, WARPS, TEAMS]: Team) => ({ IS_LAYERNORM, GROUP, GROUPS, WARPS, TEAMS })
  const dtypes = ['f32', 'bf16', 'f16'] as const
  const forwardKernel = variants((dtype: number, ...team: number[]) =>
    launcher.kernel('norm', 'norm_forward', 'pppppplif', {
      dtype: dtypes[dtype],
      defines: defines(team as unknown as Team),
    }),
  )
  const backwardKernel = (name: string, signature: string) =>
    variants((dtype: number, input: number, weight: number, minBlocks: number, ...team: number[]) =>
      launcher.kernel('norm-backward', name, signature, {
        dtype: dtypes[dtype],
        defines: {
          ...defines(team as unknown as Team),
          WITH_INPUT: input,
          WITH_WEIGHT: weight,
          MIN_BLOCKS: minBlocks,
        },
      }),
    )
  const backward = backwardKernel('norm_backward', 'ppppppplii')
  const addParts = backwardKernel('norm_add_parts', 'pppiii')

  const forward = (
    out: Tensor,
    mean: Tensor | undefined,
    rstd: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | undefined,
    eps: number,
  ): void => {
    const team = teamOf(mean !== undefined, x, bias === undefined ? [out, weight] : [out, weight, bias], tuning.forward)
    const [, , , warps, teams] = team
    forwardKernel(dtypes.indexOf(x.dtype as 'f32'), ...team)(
      Math.ceil(x.rowCount / teams),
      32 * warps * teams,
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

  const gradients = ({ dOut, x, weight, mean, rstd }: Saved, { dx, dWeight, dBias, accumulate }: Gradients): void => {
    const used = [dOut, ...(dx === undefined ? [] : [dx]), ...(weight === undefined ? [] : [weight])]
    const team = teamOf(mean !== undefined, x, used, tuning.backward)
    const [, group, groups, warps, teams] = team
    const threads = 32 * warps * teams
    const minBlocks = Math.max(1, Math.floor((tuning.backward.minBlocks * tuning.backward.threads) / threads))
    const kind = [
      dtypes.indexOf(x.dtype as 'f32'),
      Number(dx !== undefined),
      Number(dWeight !== undefined),
      minBlocks,
      ...team,
    ] as const
    const parts =
      dWeight === undefined
        ? Math.ceil(x.rowCount / teams)
        : blocksFor(x.rowCount, teams * LEAST_ROWS, tuning.backward.parts)
    const width = groups * group * 32 * warps
    const sums = dBias === undefined ? 1 : 2
    const partials = dWeight === undefined ? 0 : launcher.scratch(parts * width * sums * 4)
    backward(...kind)(
      parts,
      threads,
      dx?.address ?? 0,
      partials,
      dOut.address,
      x.address,
      weight?.address ?? 0,
      mean?.address ?? 0,
      rstd.address,
      x.rowCount,
      x.columnCount,
      Number(accumulate.dx ?? false),
    )
    if (dWeight === undefined) return
    invariant(dWeight.dtype === 'f32' && (dBias ?? dWeight).dtype === 'f32', 'gradients of a norm are f32')
    addParts(...kind)(
      [Math.ceil(width / 32), sums],
      1024,
      dWeight.address,
      dBias?.address ?? 0,
      partials,
      parts,
      x.columnCount,
      Number(accumulate.dWeight ?? false) + 2 * Number(accumulate.dBias ?? false),
    )
  }

  return {
    rmsnorm: (out, rstd, x, weight, eps) => forward(out, undefined, rstd, x, weight, undefined, eps),
    rmsnormBackwardInput: (dx, dOut, x, weight, rstd, accumulate) =>
      gradients({ dOut, x, weight, rstd }, { dx, accumulate: { dx: accumulate } }),
    rmsnormBackwardWeight: (dWeight, dOut, x, rstd, accumulate) =>
      gradients({ dOut, x, rstd }, { dWeight, accumulate: { dWeight: accumulate } }),
    rmsnormBackward: (dx, dWeight, dOut, x, weight, rstd, accumulate) =>
      gradients({ dOut, x, weight, rstd }, { dx, dWeight, accumulate }),
    layernorm: (out, mean, rstd, x, weight, bias, eps) => forward(out, mean, rstd, x, weight, bias, eps),
    layernormBackwardInput: (dx, dOut, x, weight, mean, rstd, accumulate) =>
      gradients({ dOut, x, weight, mean, rstd }, { dx, accumulate: { dx: accumulate } }),
    layernormBackwardWeight: (dWeight, dBias, dOut, x, mean, rstd, accumulate) =>
      gradients({ dOut, x, mean, rstd }, { dWeight, dBias, accumulate: { dWeight: accumulate, dBias: accumulate } }),
    layernormBackward: (dx, dWeight, dBias, dOut, x, weight, mean, rstd, accumulate) =>
      gradients({ dOut, x, weight, mean, rstd }, { dx, dWeight, dBias, accumulate }),
  }
}
