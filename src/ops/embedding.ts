// embedding: rows of a table by token id.
import type { Op } from '../core/op.ts'
import type { Parameter } from '../core/parameter.ts'
import { apply } from '../core/tape.ts'
import type { Tensor } from '../core/tensor.ts'
import { cost, intoParameter, NO_COST } from './common.ts'

type Inputs = { table: Tensor; ids: Tensor }
type Outputs = { out: Tensor }

export const embeddingOp: Op<Inputs, Outputs, undefined> = {
  id: 'embedding',
  weights: ['table'],
  outputs: ({ table, ids }) => ({ out: { shape: [...ids.shape, table.columnCount] } }),
  forward: (kernels, { table, ids }, { out }) => kernels.embedding(out, table, ids),
  savedForInput: [],
  savedForWeight: ['ids'],
  backwardInput() {},
  backwardWeight({ inputs, outputs }, gradients) {
    const dOut = gradients.of(outputs.out)
    intoParameter(inputs.table, (dTable, accumulate) => {
      const { kernels } = dTable.device
      if (!accumulate) kernels.fill(dTable, 0)
      kernels.embeddingBackward(dTable, dOut, inputs.ids)
    })
  },
  isCheap: true,
  cost: ({ table, ids }) => {
    const rows = { flops: 0, bytes: 2 * ids.size * table.columnCount * table.device.itemBytes(table.dtype) }
    return {
      forward: rows,
      backwardInput: NO_COST,
      backwardWeight: { ...cost(ids.size * table.columnCount, table), bytes: rows.bytes },
    }
  },
}

/**
 * out[n] = table[ids[n]].
 * @param table [V, D] float
 * @param ids   [..] i32, each in [0, V) (checked where batches are made)
 * @returns     [.., D]
 */
export function embedding(table: Parameter, ids: Tensor): Tensor {
  return apply(embeddingOp, table.device, { table, ids }, undefined).out
}
