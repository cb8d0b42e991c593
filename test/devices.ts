// The devices that the test tables run on: every instruction set of this machine's CPU, and the GPU where there is
// one, in the precisions that a test asks for. What is missing shows as a skipped test with its reason.
//   TRAINYARD_TEST_DEVICES         only devices whose names begin like one of these, comma-separated: cuda bf16
//   TRAINYARD_CUDA_ARCHITECTURE    the card is to compile for this older chip: sm_80
import { ISAS } from '../src/backends/cpu/library.ts'
import type { Device } from '../src/core/device.ts'
import { openDevice } from '../src/open.ts'
import { openGpu } from './gpu/gpu.ts'
import type { Precision } from './tolerances.ts'

export type DeviceUnderTest<P extends Precision = 'f32' | 'f64'> =
  | { readonly name: string; readonly device: Device; readonly precision: P; close(): void }
  | { readonly name: string; readonly skip: string }

type GpuPrecision = 'f32' | 'bf16' | 'f16'

/** For the tests that hold in every precision. */
export const GPU_PRECISIONS: readonly GpuPrecision[] = ['f32', 'bf16', 'f16']

/**
 * Opens every device once; call `close` on each when the file is done.
 * @param precisions  of the GPU; for tests that only ask for the accuracy of f32 that one
 */
export async function devicesUnderTest(): Promise<DeviceUnderTest[]>
export async function devicesUnderTest(precisions: readonly GpuPrecision[]): Promise<DeviceUnderTest<Precision>[]>
export async function devicesUnderTest(
  precisions: readonly GpuPrecision[] = ['f32'],
): Promise<DeviceUnderTest<Precision>[]> {
  const wanted = (process.env.TRAINYARD_TEST_DEVICES ?? '').split(',')
  const isWanted = (name: string): boolean => wanted.some((beginning) => name.startsWith(beginning))
  const list: DeviceUnderTest<Precision>[] = []
  for (const isa of ISAS) {
    const name = `cpu ${isa}`
    if (!isWanted(name)) continue
    const device = await openDevice('cpu', { isa, threads: 2 })
    if (device.isa === isa) list.push({ name, device, precision: 'f32', close: () => device.close() })
    else {
      // A machine without it opens the next narrower one, which is in the list already.
      device.close()
      list.push({ name, skip: `this machine's widest instruction set is ${device.isa}` })
    }
  }
  const architecture = process.env.TRAINYARD_CUDA_ARCHITECTURE
  for (const precision of precisions) {
    const name = ['cuda', ...(architecture ? [architecture] : []), precision].join(' ')
    if (isWanted(name)) list.push(await gpu(name, precision))
  }
  return list
}

/** src/open.ts decides whether there is a card and what it needs; its sentence is the reason of the skip. */
async function gpu(name: string, precision: GpuPrecision): Promise<DeviceUnderTest<Precision>> {
  const opened = await openGpu({ precision })
  if ('skip' in opened) return { name, skip: opened.skip }
  return { name, device: opened.device, precision, close: () => opened.device.close() }
}

/** The CPU with its widest instruction set. */
export async function openCpu(threads = 2) {
  return openDevice('cpu', { threads })
}
