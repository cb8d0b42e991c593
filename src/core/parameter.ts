// Parameters (trained) and constants (tables such as RoPE's) of a model. A model's constructor makes shapes only;
// `materialize` (core/arena.ts) gives them memory. A parameter knows its Hugging Face names: fused storage
// (q, k and v in one matrix) is one parameter with several parts.
import type { Device, DeviceBuffer } from './device.ts'
import type { Dtype } from './dtype.ts'
import { DeviceError } from './errors.ts'
import type { Fp8Weight } from './fp8.ts'
import { Storage, sizeOf, Tensor } from './tensor.ts'

/** How a parameter starts: zeros, ones, or normal with mean 0 and this standard deviation. */
export type Init = 'zeros' | 'ones' | { readonly normal: number }

/** One Hugging Face tensor inside a parameter: `rows` of the leading dim from `firstRow` on. */
export interface ParameterPart {
  /** Name relative to the module that holds the layer, camelCase: `qProj.weight`. */
  readonly name: string
  readonly firstRow: number
  readonly rows: number
}

const noMemory = (): never => {
  throw new DeviceError('a parameter has no memory yet: call materialize(model, device) before using the model')
}

/** Stands in for a device until `materialize`; any use says so. */
const unbound: Device = {
  name: 'unbound',
  get kernels(): never {
    return noMemory()
  },
  get floatDtype(): Dtype {
    return noMemory()
  },
  get masterDtype(): never {
    return noMemory()
  },
  get logitsChunkElements(): never {
    return noMemory()
  },
  itemBytes: noMemory,
  allocate: noMemory as (bytes: number) => DeviceBuffer,
  release: noMemory,
  write: noMemory,
  read: noMemory,
}

export class Parameter extends Tensor {
  /** Of the values that ops read; set when memory is given. */
  declare dtype: Dtype
  readonly init: Init
  /** Whether weight decay applies: by default to matrices, not to norms and biases. */
  readonly decays: boolean
  readonly parts: readonly ParameterPart[]
  /** Path of the module that its part names start from, set when the model is walked: `model.layers.0.selfAttn`. */
  path = ''
  requiresGrad = true
  /** The values in full precision, which are initialised, updated and saved, where ops read a narrower copy. */
  master: Tensor | undefined
  /** What its products in fp8 are made of, where they are made so (train/fp8.ts). */
  fp8Form: Fp8Weight | undefined
  /** Gradient of the same shape, in the arena's flat gradient buffer; made by the optimizer. */
  gradient: Tensor | undefined
  /** False at the start of a step: the first contribution overwrites, later ones add. */
  hasGradient = false

  constructor(shape: readonly number[], parts: readonly ParameterPart[], init: Init, decays = shape.length > 1) {
    super(shape, 'f32', new Storage(unbound, 0))
    this.init = init
    this.decays = decays
    this.parts = parts
  }

  /** A parameter that is one Hugging Face tensor. */
  static single(name: string, shape: readonly number[], init: Init, decays = shape.length > 1): Parameter {
    return new Parameter(shape, [{ name, firstRow: 0, rows: shape[0] ?? 1 }], init, decays)
  }

  /** What is initialised, loaded and saved: the master, or the parameter itself where there is no other. */
  get stored(): Tensor {
    return this.master ?? this
  }

  /** Rounds the master into the values that ops read; needed after every change of it but an optimizer's. */
  refresh(): void {
    if (this.master !== undefined) this.device.kernels.copy(this, this.master)
    if (this.fp8Form !== undefined) this.fp8Form.isStale = true
  }

  /** Full names of the parts, camelCase, with that path. */
  partNames(): string[] {
    return this.parts.map((part) => (this.path === '' ? part.name : `${this.path}.${part.name}`))
  }
}

/** A table that a model needs and nobody trains; `values` computes it on the host. */
export class Constant extends Tensor {
  readonly values: () => ArrayLike<number>

  constructor(shape: readonly number[], values: () => ArrayLike<number>) {
    super(shape, 'f32', new Storage(unbound, 0))
    this.values = values
  }
}

/** Gives a constant its memory and contents on `device`. */
export function bindConstant(constant: Constant, device: Device): void {
  const storage = new Storage(device, sizeOf(constant.shape) * device.itemBytes(constant.dtype))
  storage.bind(device.allocate(Math.max(64, storage.bytes)), 0)
  constant.storage = storage
  device.write(constant, constant.values())
}

/**
 * Where the next contribution to a parameter's gradient goes. Marks the gradient as written.
 * @throws DeviceError if no gradient memory exists yet
 */
export function gradientTarget(parameter: Parameter): { gradient: Tensor; accumulate: boolean } {
  const gradient = parameter.gradient
  if (gradient === undefined) {
    throw new DeviceError(
      `parameter ${parameter.partNames().join(', ')} has no gradient memory: make an optimizer, or call allocateGradients(arenas)`,
    )
  }
  const accumulate = parameter.hasGradient
  parameter.hasGradient = true
  return { gradient, accumulate }
}
