// The reference device: the meaning of every kernel in plain TypeScript on float64, the oracle of the tests. It checks
// shapes where fast backends trust them, and makes no attempt to be fast.
import type { Device } from '../../core/device.ts'
import { type Dtype, type HostArray, hostArray } from '../../core/dtype.ts'
import { DtypeError, invariant, ShapeError } from '../../core/errors.ts'
import type { Fp8Kernels, Fp8Scaling } from '../../core/fp8.ts'
import type { Kernels } from '../../core/kernels.ts'
import { show, type Tensor } from '../../core/tensor.ts'
import { activationKernels } from './activation.ts'
import { attentionKernels } from './attention.ts'
import { decodeKernels } from './decode.ts'
import { elementwiseKernels } from './elementwise.ts'
import { embeddingKernels } from './embedding.ts'
import { fp8Kernels } from './fp8.ts'
import { lossKernels } from './loss.ts'
import { matmulKernels } from './matmul.ts'
import { elementsOf, ITEM_BYTES, ReferenceBuffer } from './memory.ts'
import { normKernels } from './norm.ts'
import { optimizerKernels } from './optimizer.ts'
import { randomKernels } from './random.ts'

export class ReferenceDevice implements Device {
  readonly name = 'reference'
  readonly floatDtype = 'f64'
  readonly masterDtype = 'f64'
  readonly logitsChunkElements = 1 << 22
  readonly kernels: Kernels = {
    ...elementwiseKernels,
    ...matmulKernels,
    ...embeddingKernels,
    ...normKernels,
    ...activationKernels,
    ...attentionKernels,
    ...decodeKernels,
    ...lossKernels,
    ...randomKernels,
    ...optimizerKernels,
  }

  readonly fp8: Fp8Kernels | undefined

  /** @param fp8  training rounds the factors of the layers' products to fp8, scaled so; default not */
  constructor(fp8?: Fp8Scaling) {
    this.fp8 = fp8 && fp8Kernels(fp8)
  }

  /** 8 for every dtype: integers are kept as float64 too. */
  itemBytes(): number {
    return ITEM_BYTES
  }

  allocate(bytes: number): ReferenceBuffer {
    return new ReferenceBuffer(bytes)
  }

  /** Later use of the memory throws. */
  release(buffer: ReferenceBuffer): void {
    buffer.values = new Float64Array(0)
  }

  /**
   * Copies host values into a contiguous tensor, unrounded.
   * @throws ShapeError when the number of values is not the tensor's
   * @throws DtypeError for raw 16-bit floats: decode them first (checkpoint/half.ts)
   */
  write(tensor: Tensor, values: ArrayLike<number>): void {
    expectWhole(tensor.dtype)
    if (values.length !== tensor.size) {
      throw new ShapeError(`write: a tensor ${show(tensor.shape)} takes ${tensor.size} values, got ${values.length}`)
    }
    elementsOf(tensor).set(values)
  }

  /** Integers come back in their own array type, floats always as Float64Array: that is what this device keeps. */
  async read(tensor: Tensor): Promise<HostArray> {
    expectWhole(tensor.dtype)
    invariant(tensor.isContiguous, 'a column slice cannot be copied to the host, copy it on the device first')
    const values = elementsOf(tensor)
    const isFloat = tensor.dtype === 'f64' || tensor.dtype === 'f32'
    const host = hostArray(isFloat ? 'f64' : tensor.dtype, values.length)
    host.set(values)
    return host
  }
}

function expectWhole(dtype: Dtype): void {
  if (dtype === 'bf16' || dtype === 'f16') {
    throw new DtypeError(`reference: values are kept as float64, decode the raw bits of a ${dtype} tensor first`)
  }
}
