// The meta backend: runs the real model and step without arithmetic or memory. Kernels only note which storage they
// touch and when (core/memory-trace.ts), from which the offsets that a real device then uses are assigned: predicted
// memory equals used memory by construction. FLOPs and bytes come from the ops' own cost functions (train/plan.ts).
import type { DeviceBuffer } from '../../core/device.ts'
import { type Dtype, type HostArray, hostArray } from '../../core/dtype.ts'
import type { Fp8Kernels } from '../../core/fp8.ts'
import type { Kernels } from '../../core/kernels.ts'
import type { DryRunDevice, MemoryTrace } from '../../core/memory-trace.ts'
import type { Tensor } from '../../core/tensor.ts'

/** What a dry run needs to know of the device it stands for. */
export interface DeviceTypes {
  readonly floatDtype: Dtype
  readonly masterDtype: 'f32' | 'f64'
  readonly logitsChunkElements: number
  readonly fp8?: Pick<Fp8Kernels, 'scaling' | 'gains' | 'castsNorm'> | undefined
  itemBytes(dtype: Dtype): number
}

/** A device like `target` in its types and widths, with no memory and no arithmetic. */
export class MetaDevice implements DryRunDevice {
  readonly name = 'meta'
  readonly kernels: Kernels
  readonly fp8: Fp8Kernels | undefined
  readonly floatDtype: Dtype
  readonly masterDtype: 'f32' | 'f64'
  readonly logitsChunkElements: number
  readonly #target: DeviceTypes
  trace: MemoryTrace | undefined
  /** Bytes asked for outside any trace: parameters, gradients, optimizer states, inputs. */
  allocatedBytes = 0

  constructor(target: DeviceTypes) {
    this.floatDtype = target.floatDtype
    this.masterDtype = target.masterDtype
    this.logitsChunkElements = target.logitsChunkElements
    this.#target = target
    // Every kernel does the same here: note what it was given.
    const note = (...args: unknown[]): void => this.trace?.tick(args)
    this.kernels = new Proxy({} as Kernels, { get: () => note })
    const { fp8 } = target
    this.fp8 = fp8 && {
      scaling: fp8.scaling,
      gains: (rows, columns) => fp8.gains(rows, columns),
      castsNorm: (columns) => fp8.castsNorm(columns),
      cast: note,
      castNorm: note,
      prime: note,
      matmul: note,
      updateScales: note,
    }
  }

  itemBytes(dtype: Dtype): number {
    return this.#target.itemBytes(dtype)
  }

  allocate(bytes: number): DeviceBuffer {
    this.allocatedBytes += bytes
    return { bytes, address: 0 }
  }

  release(buffer: DeviceBuffer): void {
    this.allocatedBytes -= buffer.bytes
  }

  write(): void {}

  read(tensor: Tensor): Promise<HostArray> {
    return Promise.resolve(hostArray(tensor.dtype, tensor.size))
  }
}
