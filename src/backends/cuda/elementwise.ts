// Launchers of kernels/elementwise.cu: fills, copies and casts, sums of tensors, sums over rows.
import { DtypeError } from '../../core/errors.ts'
import type { Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import { DTYPE_NUMBER, EXTENT_LETTERS, extentOf, floatNumber, isGrouped, THREADS, variants } from './elements.ts'
import { blocksFor, type Launcher } from './launcher.ts'

type Family = 'fill' | 'copy' | 'add' | 'accumulate' | 'axpby' | 'sumRows' | 'scaledSum'

/** Lanes of a strip of columns, one group each, and warps of a block of row_sums. */
const LANES = 32
const ROW_WARPS = 8
/** Blocks of row_sums altogether, and rows of each at least: of the shape alone, enough for the largest cards. */
const ROW_SUM_BLOCKS = 528
const LEAST_ROWS = 32
/** Elements of one block of sum_parts at least, and blocks at most. */
const SUM_STEP = 8192
const MOST_SUM_PARTS = 1024

/**
 * Floats are f32, bf16 or f16, and `out` may be another of them than what is read; fill and copy within a type take
 * every type. Arithmetic is in f32, scaledSum in f64.
 */
export function elementwiseKernels(launcher: Launcher): Pick<Kernels, Family> {
  const family = (name: string, signature: string) =>
    variants((out: number, x: number) =>
      launcher.kernel('elementwise', name, signature, { defines: { OUT_DTYPE: out, X_DTYPE: x } }),
    )
  const fill = family('fill', `p${EXTENT_LETTERS}d`)
  const copy = family('copy', `pp${EXTENT_LETTERS}`)
  const accumulate = family('accumulate', `pp${EXTENT_LETTERS}`)
  const add = family('add', `ppp${EXTENT_LETTERS}`)
  const axpby = family('axpby', `ppp${EXTENT_LETTERS}ff`)
  const rowSums = family('row_sums', 'ppllii')
  const rowSumsGrouped = family('row_sums_grouped', 'ppllii')
  const addRowSums = family('add_row_sums', 'ppiii')
  const sumParts = family('sum_parts', 'ppll')
  const scaledSum = family('scaled_sum', 'ppipi')

  /** The float types of what is written and read; the second input, if any, must be of the first one's. */
  const floats = (who: string, out: Tensor, x: Tensor, y: Tensor = x): [number, number] => {
    if (x.dtype !== y.dtype) {
      throw new DtypeError(`${who} on cuda: both inputs must have the same dtype, got ${x.dtype} and ${y.dtype}`)
    }
    return [floatNumber(who, 'the output', out), floatNumber(who, 'the input', x)]
  }

  return {
    fill(out, value) {
      if (out.size === 0) return
      const { grid, fields } = extentOf(out)
      const type = DTYPE_NUMBER[out.dtype]
      fill(type, type)(grid, THREADS, out.address, ...fields, value)
    },
    copy(out, x) {
      if (out.size === 0) return
      const { grid, fields } = extentOf(out, x)
      const types = out.dtype === x.dtype ? [DTYPE_NUMBER[x.dtype], DTYPE_NUMBER[x.dtype]] : floats('copy', out, x)
      copy(types[0]!, types[1]!)(grid, THREADS, out.address, x.address, ...fields)
    },
    accumulate(out, x) {
      if (out.size === 0) return
      const { grid, fields } = extentOf(out, x)
      accumulate(...floats('accumulate', out, x))(grid, THREADS, out.address, x.address, ...fields)
    },
    add(out, a, b) {
      const { grid, fields } = extentOf(out, a, b)
      add(...floats('add', out, a, b))(grid, THREADS, out.address, a.address, b.address, ...fields)
    },
    axpby(out, x, y, alpha, beta) {
      const { grid, fields } = extentOf(out, x, y)
      const kernel = axpby(...floats('axpby', out, x, y))
      kernel(grid, THREADS, out.address, x.address, y.address, ...fields, alpha, beta)
    },

    sumRows(out, x, accumulates) {
      const types = floats('sumRows', out, x)
      const { rowCount, columnCount } = x
      const groupLength = 16 / x.device.itemBytes(x.dtype)
      const grouped = columnCount % groupLength === 0 && isGrouped(x, groupLength)
      const strips = Math.ceil(columnCount / (LANES * (grouped ? groupLength : 1)))
      const most = Math.max(1, Math.min(Math.floor(ROW_SUM_BLOCKS / strips), Math.ceil(rowCount / LEAST_ROWS)))
      const rowsPerPart = Math.ceil(rowCount / most)
      const parts = Math.ceil(rowCount / rowsPerPart)
      const partials = launcher.scratch(parts * columnCount * 4)
      const first = grouped ? rowSumsGrouped : rowSums
      first(...types)(
        [strips, parts],
        ROW_WARPS * 32,
        partials,
        x.address,
        rowCount,
        x.rowStride,
        columnCount,
        rowsPerPart,
      )
      const grid = Math.ceil(columnCount / 32)
      addRowSums(...types)(grid, 1024, out.address, partials, parts, columnCount, Number(accumulates))
    },

    scaledSum(out, x, scalars, accumulates) {
      const type = floatNumber('scaledSum', 'x', x)
      const perBlock = Math.max(SUM_STEP, Math.ceil(x.size / MOST_SUM_PARTS))
      const parts = blocksFor(x.size, perBlock)
      const partials = launcher.scratch(parts * 8)
      sumParts(type, type)(parts, 1024, partials, x.address, x.size, perBlock)
      scaledSum(type, type)(1, 256, out.address, partials, parts, scalars.address, Number(accumulates))
    },
  }
}
