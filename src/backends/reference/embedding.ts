// Reference kernels: rows of a table by id, and their gradient.
import { invariant } from '../../core/errors.ts'
import type { Kernels } from '../../core/kernels.ts'
import { elementsOf, rowsOf } from './memory.ts'

export const embeddingKernels: Pick<Kernels, 'embedding' | 'embeddingBackward'> = {
  /** out_n = table[ids_n] */
  embedding(out, table, ids) {
    const y = rowsOf(out)
    const rows = rowsOf(table)
    elementsOf(ids).forEach((id, n) => {
      invariant(id >= 0 && id < rows.length, `embedding: id ${id} is outside the table of ${rows.length} rows`)
      y[n].set(rows[id])
    })
  },

  /** dTable[ids_n] += dOut_n */
  embeddingBackward(dTable, dOut, ids) {
    const gradient = rowsOf(dTable)
    const dy = rowsOf(dOut)
    elementsOf(ids).forEach((id, n) => {
      for (let j = 0; j < dTable.columnCount; j++) gradient[id][j] += dy[n][j]
    })
  },
}
