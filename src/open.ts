// Opens a device by name: the only file that knows which backends exist. A backend is loaded when it is first asked for.
import type { CpuDevice } from './backends/cpu/device.ts'
import type { Isa } from './backends/cpu/library.ts'
import type { CpuOptions } from './backends/cpu/open-cpu.ts'
import type { DeviceTypes, MetaDevice } from './backends/meta/meta-device.ts'
import type { ReferenceDevice } from './backends/reference/device.ts'
import type { Device } from './core/device.ts'
import { ConfigError } from './core/errors.ts'

type Environment = Readonly<Record<string, string | undefined>>

export const DEVICE_NAMES = ['cpu', 'reference'] as const
export type DeviceName = (typeof DEVICE_NAMES)[number]

/**
 * Opens a device. `reference` takes no options; for `cpu`, environment variables fill in what `options` leaves open:
 * TRAINYARD_CPU_ISA (base, avx2 or avx512: the widest instruction set to use), XDG_CACHE_HOME (parent of the cache of
 * built kernels), CXX (the compiler that builds them).
 * @throws ConfigError for a name or an environment value that is unknown
 * @throws DeviceError when the device cannot be opened
 */
export async function openDevice(name: 'cpu', options?: CpuOptions, env?: Environment): Promise<CpuDevice>
export async function openDevice(name: 'reference'): Promise<ReferenceDevice>
export async function openDevice(name: DeviceName, options?: CpuOptions, env?: Environment): Promise<Device>
export async function openDevice(
  name: DeviceName,
  options: CpuOptions = {},
  env: Environment = process.env,
): Promise<Device> {
  switch (name) {
    case 'cpu': {
      const { openCpuDevice } = await import('./backends/cpu/open-cpu.ts')
      return openCpuDevice({ ...(await cpuOptionsFrom(env)), ...options })
    }
    case 'reference': {
      const { openReferenceDevice } = await import('./backends/reference/open-reference.ts')
      return openReferenceDevice()
    }
    default:
      throw new ConfigError(`openDevice: the device must be one of ${DEVICE_NAMES.join(', ')}, got ${name}`)
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

/** Opens the device for dry runs of programs that `target` will run. */
export async function openMeta(target: DeviceTypes): Promise<MetaDevice> {
  const { MetaDevice } = await import('./backends/meta/meta-device.ts')
  return new MetaDevice(target)
}
