// Launchers of kernels/random.cu: dropout and normal numbers, the same bits as on every other backend.
import type { Dtype } from '../../core/dtype.ts'
import type { Kernels } from '../../core/kernels.ts'
import { dropThreshold } from '../../core/random.ts'
import { blocksFor, type CudaKernel, type Launcher } from './launcher.ts'

const THREADS = 256
/** Most blocks of a grid's second dim. */
const MOST_BLOCKS_Y = 65535

export function randomKernels(launcher: Launcher): Pick<Kernels, 'dropout' | 'randomNormal'> {
  const family = (name: string, signature: string): ((dtype: Dtype) => CudaKernel) => {
    const made = new Map<Dtype, CudaKernel>()
    return (dtype) => {
      let kernel = made.get(dtype)
      if (kernel === undefined) {
        kernel = launcher.kernel('random', name, signature, { dtype, fusedMultiplyAdd: false })
        made.set(dtype, kernel)
      }
      return kernel
    }
  }
  const dropoutPacks = family('dropout_packs', 'pppiluuuif')
  const dropoutElements = family('dropout_elements', 'pppiluuuif')
  const randomNormal = family('random_normal', 'plluudd')
  return {
    dropout(out, x, sampleIndex, p, { keyLow, keyHigh }) {
      const [batch, seqLen, hiddenSize] = x.shape as [number, number, number]
      const sequenceSize = seqLen * hiddenSize
      const packSize = 16 / x.device.itemBytes(x.dtype)
      const isPacked = sequenceSize % packSize === 0 && x.address % 16 === 0 && out.address % 16 === 0
      const threshold = dropThreshold(p)
      const kernel = (isPacked ? dropoutPacks : dropoutElements)(x.dtype)
      kernel(
        [blocksFor(sequenceSize, isPacked ? THREADS * packSize : THREADS), Math.min(batch, MOST_BLOCKS_Y)],
        THREADS,
        out.address,
        x.address,
        sampleIndex.address,
        batch,
        sequenceSize,
        keyLow,
        keyHigh,
        Math.max(threshold - 1, 0),
        Number(threshold > 0),
        1 / (1 - p),
      )
    },
    randomNormal(out, { keyLow, keyHigh }, start, mean, std) {
      const philoxBlocks = Math.floor((start + out.size - 1) / 4) - Math.floor(start / 4) + 1
      const grid = blocksFor(philoxBlocks, THREADS)
      randomNormal(out.dtype)(grid, THREADS, out.address, out.size, start, keyLow, keyHigh, mean, std)
    },
  }
}
