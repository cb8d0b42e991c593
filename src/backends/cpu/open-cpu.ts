// Opens the CPU device: builds the kernel library if need be, checks what was asked for against what the machine has.
import { availableParallelism } from 'node:os'
import { DeviceError } from '../../core/errors.ts'
import { type BuildOptions, ensureCpuLibrary } from './build.ts'
import { CpuDevice } from './device.ts'
import { CpuLibrary, ISAS, type Isa } from './library.ts'
import type { MatmulPrecision } from './matmul.ts'

export interface CpuOptions extends BuildOptions {
  /** Threads of the pool, the caller among them; default all that this process may use. */
  threads?: number
  /** The widest instruction set to use; default the widest the machine has. */
  isa?: Isa
  /** What matmul multiplies in; sums are f32 either way. Default f32. */
  matmulPrecision?: MatmulPrecision
}

const MOST_THREADS = 1024

/**
 * The CPU device. The first call on a machine builds the kernels, which takes some ten seconds (`onProgress`).
 * @throws DeviceError without a C++ compiler, for an impossible thread count, or for bf16 products where the processor
 *   (or the cap `isa`) has none
 */
export async function openCpuDevice(options: CpuOptions = {}): Promise<CpuDevice> {
  const { threads = availableParallelism(), isa = 'avx512', matmulPrecision = 'f32' } = options
  if (!Number.isInteger(threads) || threads < 1 || threads > MOST_THREADS) {
    throw new DeviceError(`cpu: threads must be a whole number from 1 to ${MOST_THREADS}, got ${threads}`)
  }
  if (!ISAS.includes(isa)) throw new DeviceError(`cpu: isa must be one of ${ISAS.join(', ')}, got ${isa}`)
  const library = new CpuLibrary(await ensureCpuLibrary(options), isa)
  if (matmulPrecision === 'bf16' && !library.hasBf16) {
    throw new DeviceError(
      `cpu: matmulPrecision bf16 needs a processor with AVX512-BF16, this one runs ${library.isa} without it: use f32`,
    )
  }
  return new CpuDevice(library, { threads, matmulPrecision })
}
