// Launchers of native/activation.cc and native/loss.cc: SwiGLU, GELU, rotary positions, cross-entropy.
import type { Kernels } from '../../core/kernels.ts'
import type { CpuLibrary } from './library.ts'

type Family = 'swiglu' | 'swigluBackward' | 'gelu' | 'geluBackward' | 'rope' | 'softmaxCrossEntropy'

export function activationKernels(library: CpuLibrary, context: number): Pick<Kernels, Family> {
  const swiglu = library.kernel('swiglu', 'ppll')
  const swigluBackward = library.kernel('swiglu_backward', 'pppll')
  const gelu = library.kernel('gelu', 'ppli')
  const geluBackward = library.kernel('gelu_backward', 'pppli')
  const rope = library.kernel('rope', 'plplppplllld')
  const crossEntropy = library.kernel('softmax_cross_entropy', 'ppppll')
  return {
    swiglu: (out, gateUp) => swiglu(context, out.address, gateUp.address, out.rowCount, out.columnCount),
    swigluBackward(dGateUp, dOut, gateUp, out) {
      const { rowCount, columnCount } = dOut
      if (out !== undefined) swiglu(context, out.address, gateUp.address, rowCount, columnCount)
      swigluBackward(context, dGateUp.address, dOut.address, gateUp.address, rowCount, columnCount)
    },
    gelu: (out, x, approximate) => gelu(context, out.address, x.address, x.size, Number(approximate === 'tanh')),
    geluBackward: (dx, dOut, x, approximate) =>
      geluBackward(context, dx.address, dOut.address, x.address, x.size, Number(approximate === 'tanh')),
    rope: (out, x, positions, cos, sin, { numHeads, headDim, inverse }) =>
      rope(
        context,
        out.address,
        out.rowStride,
        x.address,
        x.rowStride,
        positions.address,
        cos.address,
        sin.address,
        x.rowCount,
        x.columnCount,
        numHeads,
        headDim,
        inverse ? -1 : 1,
      ),
    softmaxCrossEntropy: (losses, logits, targets, scalars) =>
      crossEntropy(
        context,
        losses.address,
        logits.address,
        targets.address,
        scalars?.address ?? 0,
        logits.rowCount,
        logits.columnCount,
      ),
  }
}
