// Opens a device by name: the only file that knows which backends exist. A backend is loaded when it is first asked for.
import type { CpuDevice } from './backends/cpu/device.ts'
import type { Isa } from './backends/cpu/library.ts'
import type { CpuOptions } from './backends/cpu/open-cpu.ts'
import type { CudaDevice } from './backends/cuda/device.ts'
import type { CudaOptions as AllCudaOptions } from './backends/cuda/open-cuda.ts'
import type { DeviceTypes, MetaDevice } from './backends/meta/meta-device.ts'
import type { ReferenceDevice } from './backends/reference/device.ts'
import type { Device } from './core/device.ts'
import { ConfigError } from './core/errors.ts'

type Environment = Readonly<Record<string, string | undefined>>

export const DEVICE_NAMES = ['cpu', 'cuda', 'reference'] as const
/** `cuda:1` is the second card, as the driver counts. */
export type DeviceName = (typeof DEVICE_NAMES)[number] | `cuda:${number}`

/** What may be asked of a card; where its libraries are and what is kept on disk follows from the environment. */
export type CudaOptions = Omit<AllCudaOptions, 'libraries' | 'cacheDir' | 'index'> & { cacheDir?: string }

/**
 * Opens a device. `reference` takes no options. Environment variables fill in what `options` leaves open, for `cpu`:
 * TRAINYARD_CPU_ISA (base, avx2 or avx512: the widest instruction set to use), CXX (the compiler that builds the
 * kernels); for `cuda`: TRAINYARD_LIBRARY_PATH (folders searched first for NVIDIA's libraries),
 * TRAINYARD_CUDA_ARCHITECTURE (sm_80: compile for that chip instead of the card's own); for both XDG_CACHE_HOME (parent
 * of the cache of built kernels).
 * @throws ConfigError for a name or an environment value that is unknown
 * @throws DeviceError when the device cannot be opened
 */
export async function openDevice(name: 'cpu', options?: CpuOptions, env?: Environment): Promise<CpuDevice>
export async function openDevice(
  name: 'cuda' | `cuda:${number}`,
  options?: CudaOptions,
  env?: Environment,
): Promise<CudaDevice>
export async function openDevice(name: 'reference'): Promise<ReferenceDevice>
export async function openDevice(
  name: DeviceName,
  options?: CpuOptions | CudaOptions,
  env?: Environment,
): Promise<Device>
export async function openDevice(
  name: DeviceName,
  options: CpuOptions | CudaOptions = {},
  env: Environment = process.env,
): Promise<Device> {
  const card = /^cuda(?::(\d+))?$/.exec(name)
  if (card !== null) {
    const { openCudaDevice } = await import('./backends/cuda/open-cuda.ts')
    return openCudaDevice({ ...(await cudaOptionsFrom(env)), ...(options as CudaOptions), index: Number(card[1] ?? 0) })
  }
  switch (name) {
    case 'cpu': {
      const { openCpuDevice } = await import('./backends/cpu/open-cpu.ts')
      return openCpuDevice({ ...(await cpuOptionsFrom(env)), ...(options as CpuOptions) })
    }
    case 'reference': {
      const { openReferenceDevice } = await import('./backends/reference/open-reference.ts')
      return openReferenceDevice()
    }
    default:
      throw new ConfigError(
        `openDevice: the device must be one of ${DEVICE_NAMES.join(', ')} (cuda:1 is the second card), got ${name}`,
      )
  }
}

async function cpuOptionsFrom(env: Environment): Promise<CpuOptions> {
  const { buildOptionsFrom } = await import('./backends/cpu/build.ts')
  const { ISAS } = await import('./backends/cpu/library.ts')
  const options: CpuOptions = buildOptionsFrom(env)
  const isa = env.TRAINYARD_CPU_ISA
  if (isa !== undefined && isa !== '') {
    if (!(ISAS as readonly string[]).includes(isa)) {
      throw new ConfigError(`TRAINYARD_CPU_ISA: must be one of ${ISAS.join(', ')}, got ${isa}`)
    }
    options.isa = isa as Isa
  }
  return options
}

async function cudaOptionsFrom(env: Environment): Promise<Omit<AllCudaOptions, 'index'>> {
  const { buildOptionsFrom, defaultCacheDir } = await import('./backends/cpu/build.ts')
  const { findLibraries } = await import('./machine/libraries.ts')
  const found = await findLibraries(env, ['cuda', 'nvrtc', 'cublasLt', 'cudnn'])
  const architecture = env.TRAINYARD_CUDA_ARCHITECTURE
  if (architecture !== undefined && architecture !== '' && !/^sm_\d+a?$/.test(architecture)) {
    throw new ConfigError(`TRAINYARD_CUDA_ARCHITECTURE: must name a chip such as sm_80 or sm_90a, got ${architecture}`)
  }
  return {
    cacheDir: buildOptionsFrom(env).cacheDir ?? defaultCacheDir(),
    ...(architecture && { architecture }),
    libraries: {
      cuda: found.cuda?.path,
      nvrtc: found.nvrtc?.path,
      cublasLt: found.cublasLt?.path,
      cudnn: found.cudnn?.path,
    },
  }
}

/** Opens the device for dry runs of programs that `target` will run. */
export async function openMeta(target: DeviceTypes): Promise<MetaDevice> {
  const { MetaDevice } = await import('./backends/meta/meta-device.ts')
  return new MetaDevice(target)
}
