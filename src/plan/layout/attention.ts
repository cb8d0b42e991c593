// The time of attention's core: scores, softmax and weighted values, by a fused kernel or with the scores in memory.
import { peakFlops } from '../devices.ts'
import { gemmSeconds, memorySeconds } from './gemm.ts'
import { clockShare } from './machine.ts'
import { NOTHING, type Phase } from './phase.ts'
import { type Setting, widthOf } from './setting.ts'
import { otherPrecision } from './software.ts'

/** Causal masks halve the work of kernels that skip; materialized scores are whole. */
export function attentionCore(setting: Setting): { forward: Phase; backward: Phase } {
  const { model, layout, on, software } = setting
  const heads = model.numAttentionHeads / layout.tensorParallel
  const { latentAttention: latent } = model
  const keyDim = latent === undefined ? model.headDim : latent.contentDim + latent.rotaryDim
  const valueDim = latent?.valueDim ?? model.headDim
  const queries = layout.seqLen / layout.contextParallel
  const keys = layout.seqLen
  const count = layout.microBatchSize * heads
  const precision = otherPrecision(software)
  if (software.attention !== 'materialized') {
    const flops = 2 * count * queries * (keys / 2) * (keyDim + valueDim)
    const rate =
      peakFlops(on.device, precision) * on.constants.attentionEfficiency[software.attention] * clockShare(on.powerShare)
    const seconds = flops / rate
    const gap = on.constants.kernelGap
    // Backward: five products to forward's two.
    return {
      forward: { ...NOTHING, products: seconds + gap },
      backward: { ...NOTHING, products: 2.5 * seconds + 2 * gap },
    }
  }
  const scoreProduct = gemmSeconds(on, queries, keys, keyDim, precision, count)
  const valueProduct = gemmSeconds(on, queries, valueDim, keys, precision, count)
  const scoreBytes = count * queries * keys * widthOf(setting)
  // Softmax reads and writes; dropout reads, and writes values and a mask of one byte.
  const softmax = 2 + (software.hasDropout ? 2.5 : 0)
  const softmaxBackward = 3 + (software.hasDropout ? 2.5 : 0)
  const kernels = software.hasDropout ? 2 : 1
  return {
    forward: {
      ...NOTHING,
      products: scoreProduct + valueProduct,
      memory: memorySeconds(on, softmax * scoreBytes) + kernels * on.constants.kernelGap,
    },
    backward: {
      ...NOTHING,
      products: 2 * (scoreProduct + valueProduct),
      memory: memorySeconds(on, softmaxBackward * scoreBytes) + kernels * on.constants.kernelGap,
    },
  }
}
