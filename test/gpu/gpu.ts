// Opens the card for the tests of this folder, or says why there is none, and memory in which every tensor stands alone.
import type { CudaDevice } from '../../src/backends/cuda/device.ts'
import type { Allocator } from '../../src/core/allocator.ts'
import type { Device } from '../../src/core/device.ts'
import { ConfigError, DeviceError } from '../../src/core/errors.ts'
import type { Storage } from '../../src/core/tensor.ts'
import { type CudaOptions, openDevice } from '../../src/open.ts'

export type Gpu = CudaDevice

/** Why no device of any options can be had: not looked for again, because looking takes a while. */
let missing: string | undefined

/** The card with these options, or openDevice's sentence about what is missing. */
export async function openGpu(options: CudaOptions): Promise<{ device: Gpu } | { skip: string }> {
  if (missing !== undefined) return { skip: missing }
  try {
    return { device: await openDevice('cuda', options) }
  } catch (error) {
    if (error instanceof DeviceError) missing = error.message
    else if (!(error instanceof ConfigError)) throw error
    return { skip: error.message }
  }
}

/** A block of its own for every tensor, so that a memory checker sees what reaches outside of one. */
export class SeparateMemory implements Allocator {
  readonly #device: Device

  constructor(device: Device) {
    this.#device = device
  }

  allocate(storage: Storage): void {
    storage.bind(this.#device.allocate(storage.bytes), 0)
  }
}
