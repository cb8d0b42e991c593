// Launchers of native/norm.cc: RMSNorm and LayerNorm.
import type { Kernels } from '../../core/kernels.ts'
import type { CpuLibrary } from './library.ts'

type Family =
  | 'rmsnorm'
  | 'rmsnormBackwardInput'
  | 'rmsnormBackwardWeight'
  | 'layernorm'
  | 'layernormBackwardInput'
  | 'layernormBackwardWeight'

export function normKernels(library: CpuLibrary, context: number): Pick<Kernels, Family> {
  const rmsnorm = library.kernel('rmsnorm', 'pppplld')
  const rmsnormInput = library.kernel('rmsnorm_backward_input', 'ppppplli')
  const rmsnormWeight = library.kernel('rmsnorm_backward_weight', 'pppplli')
  const layernorm = library.kernel('layernorm', 'pppppplld')
  const layernormInput = library.kernel('layernorm_backward_input', 'pppppplli')
  const layernormWeight = library.kernel('layernorm_backward_weight', 'pppppplli')
  return {
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
        Number(accumulate),
      ),
  }
}
