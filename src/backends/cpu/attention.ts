// Launchers of native/attention*.cc: which of the two forward kernels runs, and the order of the native arguments.
// Shapes are checked by the op (src/ops/attention.ts), not here.
import type { AttentionOptions, Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import type { CpuLibrary } from './library.ts'

/** Up to so many queries a step is bound by reading K and V once: the decode kernel splits the keys instead. */
const DECODE_QUERIES = 4

// The end of every argument list: docStart, B, H, G, Tq, Tk, headDim, scale, isCausal, window.
const OPTIONS = 'piiiiiidii'
// And of those that know them: softcap (0: none), bias (0: none).
const FORMS = 'dp'

/** The attention kernels of this library, f32. `context` is the address of a native context (native/context.h). */
export function attentionKernels(
  library: CpuLibrary,
  context: number,
): Pick<Kernels, 'attention' | 'attentionBackward'> {
  const tiled = library.kernel('attention', `plpplplpl${OPTIONS}${FORMS}`)
  const decode = library.kernel('attention_decode', `plpplplpl${OPTIONS}`)
  const backward = library.kernel('attention_backward', `plplplpplplpplplpl${OPTIONS}${FORMS}p`)
  const mask = (q: Tensor, k: Tensor, options: AttentionOptions): number[] => [
    options.docStart?.address ?? 0,
    q.shape[0]!,
    options.numHeads,
    options.numKeyValueHeads,
    q.shape[1]!,
    k.shape[1]!,
    options.headDim,
    options.scale,
    options.isCausal ? 1 : 0,
    options.window,
  ]
  const forms = ({ softcap, bias }: AttentionOptions): number[] => [softcap ?? 0, bias?.address ?? 0]
  return {
    attention(out, lse, q, k, v, options) {
      const isDecode = q.shape[1]! <= DECODE_QUERIES && options.softcap === undefined && options.bias === undefined
      const forward = isDecode ? decode : tiled
      forward(
        context,
        out.address,
        out.rowStride,
        lse.address,
        q.address,
        q.rowStride,
        k.address,
        k.rowStride,
        v.address,
        v.rowStride,
        ...mask(q, k, options),
        ...(isDecode ? [] : forms(options)),
      )
    },
    attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options, dBias) {
      backward(
        context,
        dq.address,
        dq.rowStride,
        dk.address,
        dk.rowStride,
        dv.address,
        dv.rowStride,
        delta.address,
        dOut.address,
        dOut.rowStride,
        out.address,
        out.rowStride,
        lse.address,
        q.address,
        q.rowStride,
        k.address,
        k.rowStride,
        v.address,
        v.rowStride,
        ...mask(q, k, options),
        ...forms(options),
        dBias?.address ?? 0,
      )
    },
  }
}
