// Opens a card: finds out which libraries are there, checks what is needed, and puts the parts together.
import { join } from 'node:path'
import { DeviceError } from '../../core/errors.ts'
import type { Fp8Scaling } from '../../core/fp8.ts'
import type { AttentionChoice } from './attention.ts'
import { CublasLt } from './cublaslt.ts'
import { CudnnLibrary } from './cudnn.ts'
import { CudaDevice, type CudaPrecision } from './device.ts'
import { CudaDriver } from './driver.ts'
import { KernelCompiler } from './nvrtc.ts'
import { CudaRuntime, cardAt } from './runtime.ts'

/** Paths of the shared libraries, as src/machine/libraries.ts finds them. */
export interface CudaLibraries {
  readonly cuda: string | undefined
  readonly nvrtc: string | undefined
  readonly cublasLt: string | undefined
  /** Only asked for attention; may be absent. */
  readonly cudnn: string | undefined
}

export interface CudaOptions {
  /** Which card, as the driver counts; default 0. */
  index?: number
  /** Element type of activations and working weights; default bf16. fp8 is bf16 with products of 8 bits in training. */
  precision?: CudaPrecision
  /** fp8: one scale for a matrix, from the steps before (default), or one for each row, from its numbers. */
  fp8Scaling?: Fp8Scaling
  /** Which attention kernels: the fastest of all for the shape (default), or only those named. */
  attention?: AttentionChoice
  /** Same bits in every run (default); false allows a faster attention backward. */
  isDeterministic?: boolean
  /** Compile for this chip instead of the card's own: sm_80 runs the paths of older cards. */
  architecture?: string
  /** Folder of compiled kernels and timed algorithms. */
  cacheDir: string
  libraries: CudaLibraries
}

/** What each library is, and where it comes from. */
const NEEDED = {
  cuda: ['the NVIDIA driver (libcuda)', 'install a driver for the card'],
  nvrtc: [
    'the CUDA kernel compiler (libnvrtc)',
    'install the CUDA toolkit 12 or newer, or the Python wheel nvidia-cuda-nvrtc',
  ],
  cublasLt: [
    'the matrix library (libcublasLt)',
    'install the CUDA toolkit 12 or newer, or the Python wheel nvidia-cublas',
  ],
} as const

/** @throws DeviceError naming the library or the property of the card that is missing, and what to do */
export function openCudaDevice(options: CudaOptions): CudaDevice {
  const {
    libraries,
    cacheDir,
    precision = 'bf16',
    fp8Scaling = 'tensor',
    attention = 'auto',
    isDeterministic = true,
  } = options
  const path = (name: keyof typeof NEEDED): string => {
    const [what, remedy] = NEEDED[name]
    const found = libraries[name]
    if (found !== undefined) return found
    throw new DeviceError(
      `cuda: ${what} is not on this machine: ${remedy}, or name its folder in TRAINYARD_LIBRARY_PATH, or use --device cpu`,
    )
  }
  // The driver and the card first: nobody should install a toolkit for a card that cannot be used.
  const driver = new CudaDriver(path('cuda'))
  const card = cardAt(driver, options.index ?? 0)
  const [nvrtc, cublasLt] = [path('nvrtc'), path('cublasLt')]
  const compiler = new KernelCompiler(nvrtc, join(cacheDir, 'kernels'))
  const { architecture } = options
  const runtime = new CudaRuntime(driver, compiler, card, architecture === undefined ? {} : { architecture })
  const lt = new CublasLt(cublasLt, driver, runtime.stream)
  const cudnn = libraries.cudnn === undefined ? undefined : new CudnnLibrary(libraries.cudnn)
  return new CudaDevice({ runtime, lt, cacheDir, cudnn, precision, fp8Scaling, attention, isDeterministic })
}
