// Runs a row of kernel-cases.ts on a device and compares it with the reference.
import type { Device } from '../../src/core/device.ts'
import { sizeOf, type Tensor } from '../../src/core/tensor.ts'
import { difference, type Precision, TOLERANCES } from '../tolerances.ts'
import { valuesOf } from './harness.ts'
import { baseShape, normals, placeTensor, rounded } from './inputs.ts'
import type { KernelCase, KernelTensor } from './kernel-cases.ts'

/** What a tensor holds on a device of that precision. */
function precisionOf({ dtype }: KernelTensor, precision: Precision): Precision {
  return dtype === undefined ? precision : 'f32'
}

function initialValues(stream: string, spec: KernelTensor, precision: Precision): ArrayLike<number> {
  const size = sizeOf(baseShape(spec))
  if (spec.values === 'poison') return new Float64Array(size).fill(Number.NaN)
  // Step scalars are f64: nothing rounds them.
  if (spec.dtype === 'f64' && Array.isArray(spec.values)) return spec.values
  const values =
    spec.values === undefined || spec.values === 'positive' ? normals(stream, size) : Float64Array.from(spec.values)
  const signed = spec.values === 'positive' ? values.map(Math.abs) : values
  return rounded(signed, precisionOf(spec, precision))
}

/** All tensors of a case after its call; inputs are rounded to `precision` on every device alike. */
export async function runKernel(
  device: Device,
  kernelCase: KernelCase,
  precision: Precision = 'f32',
): Promise<Record<string, Float64Array>> {
  const bases: Record<string, Tensor> = {}
  const tensors: Record<string, Tensor> = {}
  for (const [name, spec] of Object.entries(kernelCase.tensors)) {
    const values = initialValues(`${kernelCase.name}/${name}`, spec, precision)
    const base = placeTensor(device, baseShape(spec), values, spec.dtype ?? device.floatDtype)
    bases[name] = base
    const width = spec.shape[spec.shape.length - 1]!
    tensors[name] = spec.columns === undefined ? base : base.columns(spec.columns.from, width)
  }
  kernelCase.run(device.kernels, tensors)
  const results: Record<string, Float64Array> = {}
  for (const [name, base] of Object.entries(bases)) results[name] = await valuesOf(base)
  return results
}

/** What is wrong with a case on a device, as sentences. */
export async function checkKernel(
  device: Device,
  precision: Precision,
  reference: Device,
  kernelCase: KernelCase,
): Promise<string[]> {
  const failures: string[] = []
  const actual = await runKernel(device, kernelCase, precision)
  const expected = await runKernel(reference, kernelCase, precision)
  for (const [name, values] of Object.entries(expected)) {
    // From rounded inputs an output in f32 comes out as accurate as on a device of that precision.
    const own = precisionOf(kernelCase.tensors[name]!, precision)
    const tolerance = TOLERANCES[own]
    const problem = kernelCase.isExact
      ? difference(actual[name], rounded(values.map(Math.fround), own), 0, 0)
      : difference(actual[name], values, tolerance.forward, tolerance.element)
    if (problem !== undefined) failures.push(`${name}: ${problem}`)
  }
  return failures
}
