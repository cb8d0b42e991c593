// A device that only remembers: real memory, reads, writes and `fill`, no other kernel. Saving and loading need no
// arithmetic, so these tests run wherever Node does; an op called on it by mistake throws.
import type { Device, DeviceBuffer } from '../../src/core/device.ts'
import { DTYPE_BYTES, type Dtype, type HostArray, hostArray } from '../../src/core/dtype.ts'
import type { Kernels } from '../../src/core/kernels.ts'
import type { Tensor } from '../../src/core/tensor.ts'

interface HostBuffer extends DeviceBuffer {
  readonly memory: ArrayBuffer
}

export class HostMemory implements Device {
  readonly name = 'host'
  readonly floatDtype: Dtype
  readonly masterDtype: 'f32' | 'f64'
  readonly logitsChunkElements = 1 << 22
  readonly kernels: Kernels

  constructor(floatDtype: 'f32' | 'f64' = 'f32') {
    this.floatDtype = floatDtype
    this.masterDtype = floatDtype
    const fill: Kernels['fill'] = (out, value) => void this.view(out).fill(value)
    this.kernels = new Proxy({ fill } as Kernels, {
      get(kernels, name) {
        if (name === 'fill') return kernels.fill
        throw new Error(`HostMemory has no kernel ${String(name)}`)
      },
    })
  }

  /** Floats take the device's own type, as on the reference backend. */
  itemBytes(dtype: Dtype): number {
    return DTYPE_BYTES[dtype === 'f32' ? this.floatDtype : dtype]
  }

  allocate(bytes: number): HostBuffer {
    // Poisoned: what nobody wrote must not look like zeros.
    const memory = new ArrayBuffer(bytes)
    new Uint8Array(memory).fill(0xff)
    return { bytes, address: 0, memory }
  }

  release(): void {}

  /** The elements of a contiguous tensor, in place. */
  view(tensor: Tensor): HostArray {
    const stored = tensor.dtype === 'f32' ? this.floatDtype : tensor.dtype
    const { memory } = tensor.storage.buffer as HostBuffer
    const at = tensor.storage.byteOffset + tensor.offset * DTYPE_BYTES[stored]
    const ArrayOf = hostArray(stored, 0).constructor as new (m: ArrayBuffer, o: number, n: number) => HostArray
    return new ArrayOf(memory, at, tensor.size)
  }

  write(tensor: Tensor, values: ArrayLike<number>): void {
    const own = hostArray(tensor.dtype, values.length)
    own.set(values)
    this.view(tensor).set(own)
  }

  async read(tensor: Tensor): Promise<HostArray> {
    const out = hostArray(tensor.dtype, tensor.size)
    out.set(this.view(tensor))
    return out
  }
}
