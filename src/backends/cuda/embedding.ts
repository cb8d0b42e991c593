// Launchers of kernels/embedding.cu: rows of a table by id, and the table's gradient by sorted chunks.
import type { Dtype } from '../../core/dtype.ts'
import type { Kernels } from '../../core/kernels.ts'
import { blocksFor, type CudaKernel, type Launcher } from './launcher.ts'

const THREADS = 256
/** 16-byte packs a thread of the forward copies. */
const PACKS_PER_THREAD = 4
/** RADIX_BITS, SORT_THREADS, TILE and CHUNK of the kernel file. */
const RADIX_BITS = 9
const RADIX = 2 ** RADIX_BITS
const SORT_THREADS = 512
const TILE = 4 * SORT_THREADS
const CHUNK = 64
/** Columns that one block combines: more blocks share a frequent id's partial sums, fewer find nothing to do. */
const COMBINE_COLUMNS = 256

/** What the table's gradient keeps in scratch memory, in the order in which it lies there. */
function scratchParts(count: number, columns: number, vocabSize: number) {
  const passes = Math.max(1, Math.ceil(Math.log2(vocabSize) / RADIX_BITS))
  const tiles = Math.ceil(count / TILE)
  const chunks = Math.ceil(count / CHUNK)
  return {
    passes,
    tiles,
    chunks,
    pairBytes: Math.ceil((count * 8) / 256) * 256,
    countBytes: passes * tiles * RADIX * 4,
    partialBytes: chunks * 2 * columns * 4,
  }
}

/** Bytes of scratch for `count` ids. */
export function embeddingScratchBytes(count: number, columns: number, vocabSize: number): number {
  const { pairBytes, countBytes, partialBytes } = scratchParts(count, columns, vocabSize)
  return 2 * pairBytes + countBytes + partialBytes
}

export function embeddingKernels(launcher: Launcher): Pick<Kernels, 'embedding' | 'embeddingBackward'> {
  const family = (name: string, signature: string): ((dtype: Dtype) => CudaKernel) => {
    const made = new Map<Dtype, CudaKernel>()
    return (dtype) => {
      let kernel = made.get(dtype)
      if (kernel === undefined) {
        kernel = launcher.kernel('embedding', name, signature, { dtype })
        made.set(dtype, kernel)
      }
      return kernel
    }
  }
  const embeddingPacks = family('embedding_packs', 'pppul')
  const embeddingElements = family('embedding_elements', 'pppll')
  const sortCount = family('sort_count', 'ppui')
  const sortScatter = family('sort_scatter', 'ppppuii')
  const sumPacks = family('embedding_sum_packs', 'ppppll')
  const sumElements = family('embedding_sum_elements', 'ppppll')
  const combinePacks = family('embedding_combine_packs', 'ppplll')
  const combineElements = family('embedding_combine_elements', 'ppplll')

  return {
    embedding(out, table, ids) {
      const columns = table.columnCount
      const packsPerRow = (columns * table.device.itemBytes(table.dtype)) / 16
      const isPacked = Number.isInteger(packsPerRow) && out.address % 16 === 0 && table.address % 16 === 0
      if (isPacked) {
        const packs = ids.size * packsPerRow
        const grid = blocksFor(packs, THREADS * PACKS_PER_THREAD)
        embeddingPacks(table.dtype)(grid, THREADS, out.address, table.address, ids.address, packsPerRow, packs)
      } else {
        const grid = blocksFor(out.size, THREADS)
        embeddingElements(table.dtype)(grid, THREADS, out.address, table.address, ids.address, columns, out.size)
      }
    },

    embeddingBackward(dTable, dOut, ids) {
      const columns = dTable.columnCount
      const count = ids.size
      const { dtype } = dOut
      const { passes, tiles, chunks, pairBytes, countBytes } = scratchParts(count, columns, dTable.rowCount)
      const source = launcher.scratch(embeddingScratchBytes(count, columns, dTable.rowCount))
      const target = source + pairBytes
      const counts = target + pairBytes
      const partials = counts + countBytes

      sortCount(dtype)(tiles, SORT_THREADS, counts, ids.address, count, passes)
      let [sorted, other] = [source, target]
      for (let pass = 0; pass < passes; pass++) {
        ;[sorted, other] = [other, sorted]
        const from = pass === 0 ? 0 : other
        sortScatter(dtype)(tiles, SORT_THREADS, sorted, from, ids.address, counts, count, pass, passes)
      }

      const packSize = 16 / dOut.device.itemBytes(dtype)
      const isPacked = columns % packSize === 0 && dTable.address % 16 === 0 && dOut.address % 16 === 0
      const columnThreads = isPacked ? columns / packSize : columns
      const threads = Math.min(256, Math.ceil(columnThreads / 32) * 32)
      const sumGrid = [chunks, Math.ceil(columnThreads / threads)] as const
      const sum = (isPacked ? sumPacks : sumElements)(dtype)
      sum(sumGrid, threads, dTable.address, partials, dOut.address, sorted, count, columns)
      if (chunks === 1) return
      const combineGrid = [chunks, Math.ceil(columns / COMBINE_COLUMNS)] as const
      const combine = (isPacked ? combinePacks : combineElements)(dtype)
      combine(combineGrid, THREADS, dTable.address, partials, sorted, count, columns, COMBINE_COLUMNS)
    },
  }
}
