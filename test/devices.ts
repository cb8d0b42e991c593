// The devices that the test tables run on: every instruction set of this machine's CPU, and the GPU where there is
// one. What is missing shows as a skipped test with its reason.
import { ISAS } from '../src/backends/cpu/library.ts'
import type { Device } from '../src/core/device.ts'
import { ConfigError, DeviceError } from '../src/core/errors.ts'
import { openDevice } from '../src/open.ts'
import type { Precision } from './tolerances.ts'

export type DeviceUnderTest =
  | { readonly name: string; readonly device: Device; readonly precision: Precision; close(): void }
  | { readonly name: string; readonly skip: string }

/** Opens every device once; call `close` on each when the file is done. */
export async function devicesUnderTest(): Promise<DeviceUnderTest[]> {
  const list: DeviceUnderTest[] = []
  for (const isa of ISAS) {
    const device = await openDevice('cpu', { isa, threads: 2 })
    const name = `cpu ${isa}`
    if (device.isa === isa) list.push({ name, device, precision: 'f32', close: () => device.close() })
    else {
      // A machine without it opens the next narrower one, which is in the list already.
      device.close()
      list.push({ name, skip: `this machine's widest instruction set is ${device.isa}` })
    }
  }
  list.push(await gpu())
  return list
}

/** src/open.ts decides whether there is a CUDA backend and a card for it; its sentence is the reason of the skip. */
async function gpu(): Promise<DeviceUnderTest> {
  const open = openDevice as (name: string) => Promise<Device & { close?(): void }>
  try {
    const device = await open('cuda')
    return { name: 'cuda', device, precision: 'f32', close: () => device.close?.() }
  } catch (error) {
    if (error instanceof ConfigError || error instanceof DeviceError) return { name: 'cuda', skip: error.message }
    throw error
  }
}

/** The CPU with its widest instruction set. */
export async function openCpu(threads = 2) {
  return openDevice('cpu', { threads })
}
