// Launchers of native/elementwise.cc: fills, copies, sums, embeddings.
import type { Kernels } from '../../core/kernels.ts'
import type { CpuLibrary } from './library.ts'

type Family =
  | 'fill'
  | 'copy'
  | 'add'
  | 'accumulate'
  | 'axpby'
  | 'sumRows'
  | 'scaledSum'
  | 'sumOfSquares'
  | 'clipFactor'
  | 'updateLossScale'
  | 'normalize'
  | 'embedding'
  | 'embeddingBackward'

export function elementwiseKernels(library: CpuLibrary, context: number): Pick<Kernels, Family> {
  const fill = library.kernel('fill', 'pllld')
  const copy = library.kernel('copy', 'plplll')
  const add = library.kernel('add', 'pppl')
  const accumulate = library.kernel('accumulate', 'plplll')
  const axpby = library.kernel('axpby', 'pppldd')
  const sumRows = library.kernel('sum_rows', 'ppllli')
  const scaledSum = library.kernel('scaled_sum', 'pplpi')
  const sumOfSquares = library.kernel('sum_of_squares', 'ppli')
  const clipFactor = library.kernel('clip_factor', 'pd')
  const updateLossScale = library.kernel('update_loss_scale', 'pddddd')
  const normalize = library.kernel('normalize', 'ppld')
  const embedding = library.kernel('embedding', 'pppll')
  const embeddingBackward = library.kernel('embedding_backward', 'pppll')
  return {
    fill: (out, value) => fill(context, out.address, out.rowCount, out.columnCount, out.rowStride, value),
    copy: (out, x) => copy(context, out.address, out.rowStride, x.address, x.rowStride, x.rowCount, x.columnCount),
    add: (out, a, b) => add(context, out.address, a.address, b.address, out.size),
    accumulate: (out, x) =>
      accumulate(context, out.address, out.rowStride, x.address, x.rowStride, x.rowCount, x.columnCount),
    axpby: (out, x, y, alpha, beta) => axpby(context, out.address, x.address, y.address, out.size, alpha, beta),
    sumRows: (out, x, accumulates) =>
      sumRows(context, out.address, x.address, x.rowCount, x.columnCount, x.rowStride, Number(accumulates)),
    scaledSum: (out, x, scalars, accumulates) =>
      scaledSum(context, out.address, x.address, x.size, scalars.address, Number(accumulates)),
    sumOfSquares: (scalars, xs) =>
      xs.forEach((x, i) => {
        sumOfSquares(context, scalars.address, x.address, x.size, Number(i > 0))
      }),
    clipFactor: (scalars, maxNorm) => clipFactor(context, scalars.address, maxNorm),
    updateLossScale: (scalars, { growthFactor, growthInterval, backoffFactor, hysteresis, minScale }) =>
      updateLossScale(context, scalars.address, growthFactor, growthInterval, backoffFactor, hysteresis, minScale),
    normalize: (out, x, eps) => normalize(context, out.address, x.address, out.size, eps),
    embedding: (out, table, ids) =>
      embedding(context, out.address, table.address, ids.address, ids.size, table.columnCount),
    embeddingBackward: (dTable, dOut, ids) =>
      embeddingBackward(context, dTable.address, dOut.address, ids.address, ids.size, dTable.columnCount),
  }
}
