// Which numbers of a training have which type on a device, as rows of a table: what is stored, and what sums are made in.

import { unitOf } from '../core/arena.ts'
import type { Device } from '../core/device.ts'
import type { Dtype } from '../core/dtype.ts'
import type { Parameter } from '../core/parameter.ts'
import { parameters } from '../nn/module.ts'

/** The matrices of all layers by name without the layer's number, with one of each. */
function layerMatrices(model: object): Map<string, Parameter> {
  const found = new Map<string, Parameter>()
  for (const parameter of parameters(model)) {
    if (unitOf(parameter.path) === 'shared' || parameter.shape.length !== 2) continue
    found.set(shortName(parameter), parameter)
  }
  return found
}

/** `selfAttn.qProj|kProj|vProj`: a parameter of a layer without the layer's number. */
export function shortName(parameter: Parameter): string {
  const names = parameter
    .partNames()
    .map((name) => name.replace(/^.*\.(?:layers|h)\.\d+\./, '').replace(/\.weight$/, ''))
  const shared = names[0]!.slice(0, names[0]!.lastIndexOf('.') + 1)
  return shared + names.map((name) => name.slice(shared.length)).join('|')
}

/** Heading and rows: what, its type, the type of sums. @param model  as it is trained: with fp8 forms where it has some */
export function precisionTable(model: object, device: Device & { readonly matmulPrecision?: Dtype }): string[][] {
  const { floatDtype, masterDtype, fp8, matmulPrecision: factorDtype = floatDtype } = device
  const isNarrow = floatDtype !== masterDtype
  const matrices = [...layerMatrices(model)]
  const products = (name: string, [rows, columns]: readonly number[], type: string): string[] => [
    `products of ${name} [${rows}, ${columns}]`,
    type,
    masterDtype,
  ]
  return [
    ['what', 'type', 'sums'],
    ['master weights, optimizer states', masterDtype, masterDtype],
    ...(isNarrow ? [['weights that ops read', `${floatDtype}, rounded from the masters`, '']] : []),
    ['gradients of weights', masterDtype, masterDtype],
    ['activations and their gradients', floatDtype, masterDtype],
    ...matrices.map(([name, { shape, fp8Form }]) =>
      products(
        name,
        shape,
        fp8Form === undefined ? factorDtype : `e4m3 forward, e5m2 gradients, a scale by ${fp8!.scaling}`,
      ),
    ),
    ['products of the head', factorDtype, masterDtype],
    ['norms, softmax, attention', floatDtype, masterDtype],
    ['token losses', masterDtype, 'f64'],
    ['gradient norm, step scalars', 'f64', 'f64'],
  ]
}
