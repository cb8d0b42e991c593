// The attention kernels of the CPU backend on memory of their own, with a chosen number of threads and instruction
// set, for the kernel's test and benchmark. It offers no other kernel: a whole device is src/open.ts's to open.
import koffi from 'koffi'
import { attentionKernels } from '../../src/backends/cpu/attention.ts'
import { ensureCpuLibrary } from '../../src/backends/cpu/build.ts'
import { CpuLibrary, type Isa } from '../../src/backends/cpu/library.ts'
import type { Device, DeviceBuffer } from '../../src/core/device.ts'
import { DTYPE_BYTES, type Dtype, type HostArray, hostArray } from '../../src/core/dtype.ts'
import type { Kernels } from '../../src/core/kernels.ts'
import type { Tensor } from '../../src/core/tensor.ts'

export class AttentionDevice implements Device {
  readonly name = 'cpu attention'
  readonly floatDtype = 'f32'
  readonly masterDtype = 'f32'
  readonly logitsChunkElements = 1 << 22
  readonly kernels: Kernels
  readonly isa: Isa
  readonly #allocate: (bytes: number) => number
  readonly #free: (address: number) => number
  readonly #destroy: () => void

  private constructor(library: CpuLibrary, threads: number) {
    this.isa = library.isa
    const context = library.plain('context_create', 'i', 'int64_t')(threads)
    const destroy = library.plain('context_destroy', 'p')
    this.#destroy = () => void destroy(context)
    this.#allocate = library.plain('allocate', 'l', 'int64_t')
    this.#free = library.plain('free', 'p')
    this.kernels = attentionKernels(library, context) as Kernels
  }

  static async open(threads: number, isa: Isa = 'avx512'): Promise<AttentionDevice> {
    return new AttentionDevice(new CpuLibrary(await ensureCpuLibrary(), isa), threads)
  }

  close(): void {
    this.#destroy()
  }

  itemBytes(dtype: Dtype): number {
    return DTYPE_BYTES[dtype]
  }

  allocate(bytes: number): DeviceBuffer {
    const address = this.#allocate(bytes)
    // 0xff bytes are NaN: what nobody wrote must not look like zeros.
    new Uint8Array(koffi.view(address, bytes)).fill(0xff)
    return { bytes, address }
  }

  release(buffer: DeviceBuffer): void {
    this.#free(buffer.address)
  }

  /** All elements of the storage behind a tensor, in place. */
  storageOf(tensor: Tensor): HostArray {
    const { address, bytes } = tensor.storage
    const ArrayOf = hostArray(tensor.dtype, 0).constructor as new (memory: ArrayBuffer) => HostArray
    return new ArrayOf(koffi.view(address, bytes))
  }

  write(tensor: Tensor, values: ArrayLike<number>): void {
    this.storageOf(tensor).set(values, tensor.offset)
  }

  async read(tensor: Tensor): Promise<HostArray> {
    return this.storageOf(tensor).slice(tensor.offset, tensor.offset + tensor.size)
  }
}
