// Attention by whole matrices of scores, to be measured beside attention.ts: the device's own products, one matrix at a
// time, and the softmax of native/softmax.cc.
import type { Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import type { VanillaAttentionParts } from '../../core/vanilla-attention.ts'
import type { CpuLibrary } from './library.ts'

/** `context` is the address of a native context (native/context.h). */
export function vanillaAttentionParts(
  library: CpuLibrary,
  context: number,
  matmul: Kernels['matmul'],
): VanillaAttentionParts {
  const softmax = library.kernel('softmax', 'plld')
  const softmaxBackward = library.kernel('softmax_backward', 'pplld')
  return {
    product(out, a, b, { batch, ...options }) {
      const part = (x: Tensor, i: number): Tensor =>
        x.reshape(x.rowCount, x.columnCount).slice((i * x.rowCount) / batch, x.rowCount / batch)
      for (let i = 0; i < batch; i++) matmul(part(out, i), part(a, i), part(b, i), options)
    },
    softmax(x, scale) {
      softmax(context, x.address, x.rowCount, x.columnCount, scale)
    },
    softmaxBackward(gradient, p, scale) {
      softmaxBackward(context, gradient.address, p.address, p.rowCount, p.columnCount, scale)
    },
  }
}
