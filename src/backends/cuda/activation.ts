// Launchers of kernels/activation.cu: SwiGLU, GELU and rotary positions.
import { invariant } from '../../core/errors.ts'
import type { Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import { EXTENT_LETTERS, extentOf, FLOATS, floatNumber, isGrouped, THREADS, variants } from './elements.ts'
import { elementwiseKernels } from './elementwise.ts'
import { blocksFor, type Launcher } from './launcher.ts'

type Family = 'swiglu' | 'swigluBackward' | 'gelu' | 'geluBackward' | 'rope'

/** GATED_DEPTH and HEADS of the kernel file. */
const GATED_DEPTH = 2
const HEADS = 4

/** Tensors of f32, bf16 or f16; the tables of rope may be of another of these than x. */
export function activationKernels(launcher: Launcher): Pick<Kernels, Family> {
  const family = (name: string, signature: string) =>
    variants((dtype: number) => launcher.kernel('activation', name, signature, { dtype: FLOATS[dtype] }))
  const swiglu = family('swiglu', 'ppuuii')
  const swigluBackward = family('swiglu_backward', 'ppppuuii')
  const gelu = { none: family('gelu', `pp${EXTENT_LETTERS}`), tanh: family('gelu_tanh', `pp${EXTENT_LETTERS}`) }
  const geluBackward = {
    none: family('gelu_backward', `ppp${EXTENT_LETTERS}`),
    tanh: family('gelu_tanh_backward', `ppp${EXTENT_LETTERS}`),
  }
  const rope = variants((dtype: number, table: number) =>
    launcher.kernel('activation', 'rope', 'ppppplluuufi', {
      dtype: FLOATS[dtype],
      defines: { TABLE_DTYPE: table },
    }),
  )
  const { copy } = elementwiseKernels(launcher)

  /** Groups of a gated activation whose narrow side is `narrow`: how many, in a row, and whether of 16 bytes. */
  const gated = (narrow: Tensor, ...others: readonly Tensor[]) => {
    const packed = 16 / narrow.device.itemBytes(narrow.dtype)
    const { rowCount, columnCount } = narrow
    const isPacked = columnCount % packed === 0 && [narrow, ...others].every((tensor) => isGrouped(tensor, packed))
    const perRow = columnCount / (isPacked ? packed : 1)
    const count = rowCount * perRow
    invariant(count < 2 ** 32, 'a gated activation has at most 2^32 groups')
    const grid = blocksFor(count, THREADS * GATED_DEPTH)
    return { grid, fields: [count, perRow, columnCount, Number(isPacked)] as const }
  }

  return {
    swiglu(out, gateUp) {
      const { grid, fields } = gated(out, gateUp)
      swiglu(floatNumber('swiglu', 'out', out))(grid, THREADS, out.address, gateUp.address, ...fields)
    },
    swigluBackward(dGateUp, dOut, gateUp, out) {
      const { grid, fields } = gated(dOut, gateUp, dGateUp, ...(out ? [out] : []))
      const kernel = swigluBackward(floatNumber('swiglu', 'dOut', dOut))
      kernel(grid, THREADS, dGateUp.address, out?.address ?? 0, dOut.address, gateUp.address, ...fields)
    },
    gelu(out, x, approximate) {
      const { grid, fields } = extentOf(out, x)
      gelu[approximate](floatNumber('gelu', 'x', x))(grid, THREADS, out.address, x.address, ...fields)
    },
    geluBackward(dx, dOut, x, approximate) {
      const { grid, fields } = extentOf(dx, dOut, x)
      const kernel = geluBackward[approximate](floatNumber('gelu', 'x', x))
      kernel(grid, THREADS, dx.address, dOut.address, x.address, ...fields)
    },

    rope(out, x, positions, cos, sin, { numHeads, headDim, inverse }) {
      const half = headDim / 2
      const packed = 16 / x.device.itemBytes(x.dtype)
      const isPacked =
        half % packed === 0 &&
        [out, x].every((tensor) => tensor.rowStride % packed === 0 && tensor.address % 16 === 0) &&
        [cos, sin].every((tensor) => tensor.address % 16 === 0)
      const threads = x.rowCount * (half / (isPacked ? packed : 1)) * Math.ceil(numHeads / HEADS)
      invariant(threads < 2 ** 32, 'rope turns at most 2^32 groups')
      rope(floatNumber('rope', 'x', x), floatNumber('rope', 'cos', cos))(
        blocksFor(threads, THREADS),
        THREADS,
        out.address,
        x.address,
        positions.address,
        cos.address,
        sin.address,
        out.rowStride,
        x.rowStride,
        x.rowCount,
        numHeads,
        half,
        inverse ? -1 : 1,
        Number(isPacked),
      )
      const rest = x.columnCount - numHeads * headDim
      if (rest > 0 && out.address !== x.address) {
        copy(out.columns(numHeads * headDim, rest), x.columns(numHeads * headDim, rest))
      }
    },
  }
}
