// Launcher of kernels/loss.cu: softmax cross-entropy with its gradient in place of the logits.
import type { Kernels } from '../../core/kernels.ts'
import type { CudaKernel, Launcher } from './launcher.ts'

/** Bytes of shared memory that need no permission, less what the kernel has of its own. */
const MIDDLE_CACHE = 47 << 10
const SMALL_CACHE = 16 << 10
/** Two blocks should share a multiprocessor: of each half, what the system and the kernel take for themselves. */
const RESERVED_BYTES = 3 << 10

/**
 * Losses are f32, logits [rows, V] f32, bf16 or f16, read from memory once: a row that is longer than half of a
 * multiprocessor's shared memory is read again in part.
 */
export function lossKernels(launcher: Launcher): Pick<Kernels, 'softmaxCrossEntropy'> {
  const largest = Math.floor((launcher.maxSharedBytes + 1024) / 2 / 1024) * 1024 - RESERVED_BYTES
  const kernels = new Map<string, CudaKernel>()
  return {
    softmaxCrossEntropy(losses, logits, targets, scalars) {
      const vocabSize = logits.columnCount
      const rowBytes = vocabSize * logits.device.itemBytes(logits.dtype)
      // A few sizes, so that one compiled kernel serves all of them; without a gradient nothing is kept.
      const cacheBytes =
        scalars === undefined
          ? 0
          : rowBytes <= SMALL_CACHE
            ? SMALL_CACHE
            : rowBytes <= MIDDLE_CACHE
              ? MIDDLE_CACHE
              : largest
      const key = `${logits.dtype} ${cacheBytes}`
      let kernel = kernels.get(key)
      if (kernel === undefined) {
        const options = { dtype: logits.dtype, sharedBytes: cacheBytes }
        kernel = launcher.kernel('loss', 'softmax_cross_entropy', 'ppppli', options)
        kernels.set(key, kernel)
      }
      const threads = rowBytes > MIDDLE_CACHE ? 512 : rowBytes > SMALL_CACHE ? 256 : 128
      kernel(
        logits.rowCount,
        threads,
        losses.address,
        logits.address,
        targets.address,
        scalars?.address ?? 0,
        vocabSize,
        cacheBytes / 16,
      )
    },
  }
}
