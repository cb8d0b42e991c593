// Launchers of native/norm.cc: RMSNorm and LayerNorm.
import type { Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import type { CpuLibrary } from './library.ts'

type Family =
  | 'rmsnorm'
  | 'rmsnormBackwardInput'
  | 'rmsnormBackwardWeight'
  | 'rmsnormBackward'
  | 'layernorm'
  | 'layernormBackwardInput'
  | 'layernormBackwardWeight'
  | 'layernormBackward'

export function normKernels(library: CpuLibrary, context: number): Pick<Kernels, Family> {
  const rmsnorm = library.kernel('rmsnorm', 'pppplld')
  const rmsnormInput = library.kernel('rmsnorm_backward_input', 'ppppplli')
  const rmsnormWeight = library.kernel('rmsnorm_backward_weight', 'pppplli')
  const layernorm = library.kernel('layernorm', 'pppppplld')
  const layernormInput = library.kernel('layernorm_backward_input', 'pppppplli')
  const layernormWeight = library.kernel('layernorm_backward_weight', 'pppppplli')
  const sumRows = library.kernel('sum_rows', 'ppllli')
  const addWeight = (
    dWeight: Tensor,
    dBias: Tensor,
    dOut: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    accumulate: { dWeight: boolean; dBias: boolean },
  ): void =>
    layernormWeight(
      context,
      dWeight.address,
      dBias.address,
      dOut.address,
      x.address,
      mean.address,
      rstd.address,
      x.rowCount,
      x.columnCount,
      Number(accumulate.dWeight) + 2 * Number(accumulate.dBias),
    )
  const kernels: Pick<Kernels, Family> = {
    rmsnorm: (out, rstd, x, weight, eps) =>
      rmsnorm(context, out.address, rstd.address, x.address, weight.address, x.rowCount, x.columnCount, eps),
    rmsnormBackwardInput: (dx, dOut, x, weight, rstd, accumulate) =>
      rmsnormInput(
        context,
        dx.address,
        dOut.address,
        x.address,
        weight.address,
        rstd.address,
        x.rowCount,
        x.columnCount,
        Number(accumulate),
      ),
    rmsnormBackwardWeight: (dWeight, dOut, x, rstd, accumulate) =>
      rmsnormWeight(
        context,
        dWeight.address,
        dOut.address,
        x.address,
        rstd.address,
        x.rowCount,
        x.columnCount,
        Number(accumulate),
      ),
    rmsnormBackward(dx, dWeight, dOut, x, weight, rstd, accumulate, again) {
      kernels.rmsnormBackwardWeight(dWeight, dOut, x, rstd, accumulate.dWeight)
      kernels.rmsnormBackwardInput(dx, dOut, x, weight, rstd, accumulate.dx)
      if (again !== undefined) kernels.rmsnorm(again.out, rstd, x, weight, again.eps)
    },
    layernorm: (out, mean, rstd, x, weight, bias, eps) =>
      layernorm(
        context,
        out.address,
        mean.address,
        rstd.address,
        x.address,
        weight.address,
        bias.address,
        x.rowCount,
        x.columnCount,
        eps,
      ),
    layernormBackwardInput: (dx, dOut, x, weight, mean, rstd, accumulate) =>
      layernormInput(
        context,
        dx.address,
        dOut.address,
        x.address,
        weight.address,
        mean.address,
        rstd.address,
        x.rowCount,
        x.columnCount,
        Number(accumulate),
      ),
    layernormBackwardWeight: (dWeight, dBias, dOut, x, mean, rstd, accumulate) =>
      addWeight(dWeight, dBias, dOut, x, mean, rstd, { dWeight: accumulate, dBias: accumulate }),
    layernormBackward(dx, dWeight, dBias, dOut, x, weight, mean, rstd, accumulate, sumOfDx, again) {
      if (again !== undefined) kernels.layernorm(again.out, mean, rstd, x, weight, again.bias, again.eps)
      addWeight(dWeight, dBias, dOut, x, mean, rstd, accumulate)
      kernels.layernormBackwardInput(dx, dOut, x, weight, mean, rstd, accumulate.dx)
      if (sumOfDx === undefined) return
      const { sums, accumulate: addsSums } = sumOfDx
      sumRows(context, sums.address, dx.address, dx.rowCount, dx.columnCount, dx.rowStride, Number(addsSums))
    },
  }
  return kernels
}
