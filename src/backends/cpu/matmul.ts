// Launcher of native/gemm.cc and native/gemm.bf16.cc. Shapes are checked by the op (src/ops), not here.
import type { Kernels } from '../../core/kernels.ts'
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
  return {
    matmul(out, a, b, { transposeA = false, transposeB = false, accumulate = false, bias, residual }) {
      const matmul = out.rowCount <= FEW_ROWS && !transposeA ? exact : many
      const inner = transposeA ? a.rowCount : a.columnCount
      matmul(
        context,
        out.address,
        out.rowStride,
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
    },
  }
}
