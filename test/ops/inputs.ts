// Inputs of an op case: what they are (data), their values (a seeded stream of core/random.ts, rounded so that every
// device starts from the same numbers), and the tensors they become on a device.
//   TRAINYARD_TEST_SEED    other random values than those of the default seed
import { bfloatToFloat, floatToBfloat, floatToHalf, halfToFloat } from '../../src/checkpoint/half.ts'
import { standaloneTensor } from '../../src/core/allocator.ts'
import { allocateGradients, buildArenas } from '../../src/core/arena.ts'
import type { Device } from '../../src/core/device.ts'
import type { Dtype } from '../../src/core/dtype.ts'
import { SCALAR } from '../../src/core/kernels.ts'
import { Parameter } from '../../src/core/parameter.ts'
import { randomKey, randomNormalAt } from '../../src/core/random.ts'
import { sizeOf, type Tensor } from '../../src/core/tensor.ts'
import type { Precision } from '../tolerances.ts'

/** The range of f16 ends at 6e-8, above many gradients: they are made so many times too large, as in training. */
const F16_GRAD_SCALE = 1024

export const TEST_SEED = Number(process.env.TRAINYARD_TEST_SEED ?? 20)

export type InputSpec =
  /** Normal values; with `columns` the op gets only those columns of a wider tensor. Its gradient is checked. */
  | { kind: 'activation'; shape: readonly number[]; columns?: { from: number; of: number }; scale?: number }
  /** Normal values around `mean`, in a parameter arena. Its gradient is checked. */
  | { kind: 'parameter'; shape: readonly number[]; mean?: number; scale?: number }
  /** A float table without gradient: f32 everywhere (angles), or what the device computes in. */
  | { kind: 'table'; shape: readonly number[]; value: (index: number) => number; dtype?: 'f32' }
  | { kind: 'integers'; shape: readonly number[]; values: readonly number[] }
  /** The f64 step scalars with this lossScale. */
  | { kind: 'scalars'; lossScale: number }

export type InputSpecs = Readonly<Record<string, InputSpec>>

/**
 * Host values of every input; activations differ from one micro-batch to the next, everything else does not.
 * @param precision  of the device under test: what it would round is rounded here, for the reference too, so that only
 *   the kernel's own error remains
 */
export function hostValues(
  name: string,
  inputs: InputSpecs,
  microBatch: number,
  precision: Precision = 'f32',
): Record<string, Float64Array> {
  const values: Record<string, Float64Array> = {}
  for (const [input, spec] of Object.entries(inputs)) {
    switch (spec.kind) {
      case 'activation':
        values[input] = rounded(
          normals(`${name}/${input}/${microBatch}`, sizeOf(baseShape(spec)), 0, spec.scale ?? 1),
          precision,
        )
        break
      case 'parameter':
        values[input] = rounded(
          normals(`${name}/${input}`, sizeOf(spec.shape), spec.mean ?? 0, spec.scale ?? 1),
          precision,
        )
        break
      case 'table':
        values[input] = rounded(
          Float64Array.from({ length: sizeOf(spec.shape) }, (_, i) => Math.fround(spec.value(i))),
          spec.dtype ?? precision,
        )
        break
      case 'integers':
        values[input] = Float64Array.from(spec.values)
        break
      case 'scalars':
        values[input] = new Float64Array(SCALAR.count)
        values[input][SCALAR.lossScale] = spec.lossScale
        values[input][SCALAR.gradScale] = precision === 'f16' ? F16_GRAD_SCALE : 1
    }
  }
  return values
}

/** Normal numbers of a named stream, rounded to f32. */
export function normals(stream: string, length: number, mean = 0, std = 1): Float64Array {
  const key = randomKey(TEST_SEED, stream)
  return Float64Array.from({ length }, (_, i) => Math.fround(mean + std * randomNormalAt(key, i)))
}

/** Values as a device of that precision holds them. f64 here means f32, which all values are to begin with. */
export function rounded(values: Float64Array, precision: Precision): Float64Array {
  if (precision === 'bf16') return numbersOf(floatToBfloat(values), 'bf16')
  return precision === 'f16' ? numbersOf(floatToHalf(values), 'f16') : values
}

/** What a device read, as numbers: 16-bit floats come as raw bits. */
export function numbersOf(values: ArrayLike<number>, dtype: Dtype): Float64Array {
  if (!(values instanceof Uint16Array)) return Float64Array.from(values)
  const floats = new Float32Array(values.length)
  if (dtype === 'bf16') bfloatToFloat(floats, values)
  else halfToFloat(floats, values)
  return Float64Array.from(floats)
}

/** Copies numbers into a tensor of any dtype. */
export function writeNumbers(tensor: Tensor, values: ArrayLike<number>): void {
  const { dtype, device } = tensor
  device.write(tensor, dtype === 'bf16' ? floatToBfloat(values) : dtype === 'f16' ? floatToHalf(values) : values)
}

/** A new tensor with these numbers, in memory of its own. */
export function placeTensor(
  device: Device,
  shape: readonly number[],
  values: ArrayLike<number>,
  dtype: Dtype = device.floatDtype,
): Tensor {
  const tensor = standaloneTensor(device, shape, dtype)
  writeNumbers(tensor, values)
  return tensor
}

/** The tensor that holds an activation's memory: wider than the activation where that is a column slice. */
export function baseShape(spec: { shape: readonly number[]; columns?: { of: number } }): readonly number[] {
  return spec.columns === undefined ? spec.shape : [...spec.shape.slice(0, -1), spec.columns.of]
}

/** Parameters on a device, with gradient memory that holds NaN until something is written. */
export function placeParameters(
  device: Device,
  inputs: InputSpecs,
  values: Record<string, Float64Array>,
): Record<string, Parameter> {
  const placed: Record<string, Parameter> = {}
  for (const [name, spec] of Object.entries(inputs)) {
    if (spec.kind === 'parameter') placed[name] = Parameter.single(name, spec.shape, 'zeros')
  }
  const all = Object.entries(placed)
  allocateGradients(
    buildArenas(
      all.map(([, parameter]) => parameter),
      device,
    ),
  )
  for (const [name, parameter] of all) {
    writeNumbers(parameter, values[name])
    device.kernels.fill(parameter.gradient!, Number.NaN)
  }
  return placed
}

/** What the op gets, and the tensors whose gradients are asked for (the bases of column slices). */
export interface PlacedInputs {
  readonly tensors: Record<string, Tensor>
  readonly bases: Record<string, Tensor>
}

/** Everything that is not a parameter, on a device. */
export function placeInputs(
  device: Device,
  inputs: InputSpecs,
  values: Record<string, Float64Array>,
  parameters: Record<string, Parameter>,
): PlacedInputs {
  const tensors: Record<string, Tensor> = { ...parameters }
  const bases: Record<string, Tensor> = {}
  for (const [name, spec] of Object.entries(inputs)) {
    if (spec.kind === 'activation') {
      const base = placeTensor(device, baseShape(spec), values[name])
      bases[name] = base
      tensors[name] =
        spec.columns === undefined ? base : base.columns(spec.columns.from, spec.shape[spec.shape.length - 1]!)
    } else if (spec.kind === 'table') tensors[name] = placeTensor(device, spec.shape, values[name], spec.dtype)
    else if (spec.kind === 'integers') tensors[name] = placeTensor(device, spec.shape, values[name], 'i32')
    else if (spec.kind === 'scalars') tensors[name] = placeTensor(device, [SCALAR.count], values[name], 'f64')
  }
  return { tensors, bases }
}
