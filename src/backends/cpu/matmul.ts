// Launcher of native/gemm.cc and native/gemm.bf16.cc. Shapes are checked by the op (src/ops), not here. What goes with a
// product beyond bias and residual is made by the kernels that also do it alone.
import { invariant } from '../../core/errors.ts'
import type { Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import type { CpuLibrary } from './library.ts'

/** What the factors of a product are rounded to; storage and sums are f32 either way. */
export type MatmulPrecision = 'f32' | 'bf16'

const SIGNATURE = 'plplpllllippl'

/** Up to so many rows the product waits for memory, which holds f32: rounding would cost time and win none. */
const FEW_ROWS = 8

/** The matrix product, f32 in and out. `context` is the address of a native context (native/context.h). */
export function matmulKernels(
  library: CpuLibrary,
  context: number,
  precision: MatmulPrecision,
): Pick<Kernels, 'matmul'> {
  const exact = library.kernel('matmul', SIGNATURE)
  const many = precision === 'bf16' ? library.kernel('matmul_bf16', SIGNATURE) : exact
  const gelu = library.kernel('gelu', 'ppli')
  const geluBackward = library.kernel('gelu_backward', 'pppli')
  const sumRows = library.kernel('sum_rows', 'ppllli')
  const sumOverRows = (out: Tensor, x: Tensor, accumulate: boolean): void =>
    sumRows(context, out.address, x.address, x.rowCount, x.columnCount, x.rowStride, Number(accumulate))
  return {
    matmul(out, a, b, options) {
      const { transposeA = false, transposeB = false, accumulate = false, bias, residual, sumOfA, sumOfB } = options
      invariant(
        (options.gelu === undefined && options.geluBackward === undefined) || (!accumulate && residual === undefined),
        'matmul: gelu goes with bias only, its backward alone',
      )
      const matmul = out.rowCount <= FEW_ROWS && !transposeA ? exact : many
      const inner = transposeA ? a.rowCount : a.columnCount
      const product = options.gelu?.preActivation ?? out
      matmul(
        context,
        product.address,
        product.rowStride,
        a.address,
        a.rowStride,
        b.address,
        b.rowStride,
        out.rowCount,
        out.columnCount,
        inner,
        (transposeA ? 1 : 0) | (transposeB ? 2 : 0) | (accumulate ? 4 : 0),
        bias?.address ?? 0,
        residual?.address ?? 0,
        residual?.rowStride ?? 0,
      )
      if (options.gelu !== undefined) {
        eachRun([out, product], ([y, x], size) => gelu(context, y!, x!, size, 1))
      }
      if (options.geluBackward !== undefined) {
        eachRun([out, options.geluBackward], ([y, x], size) => geluBackward(context, y!, y!, x!, size, 1))
      }
      if (sumOfA !== undefined) sumOverRows(sumOfA, a, accumulate)
      if (sumOfB !== undefined) sumOverRows(sumOfB, b, accumulate)
    },
  }
}

/** Calls `body` with the addresses of tensors of one shape: once where all are contiguous, else once a row. */
function eachRun(tensors: readonly Tensor[], body: (addresses: number[], size: number) => void): void {
  const [{ rowCount, columnCount, size }] = tensors as [Tensor]
  if (tensors.every((tensor) => tensor.isContiguous)) {
    const addresses = tensors.map((tensor) => tensor.address)
    body(addresses, size)
    return
  }
  for (let i = 0; i < rowCount; i++) {
    const addresses = tensors.map((tensor) => tensor.address + i * tensor.rowStride * 4)
    body(addresses, columnCount)
  }
}
