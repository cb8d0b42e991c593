// What the tests of fp8 share: numbers of the formats from their bits, and a layer that is run forward and backward with
// its products in fp8.

import { elementsOf } from '../../src/backends/reference/memory.ts'
import { tensorFrom } from '../../src/core/allocator.ts'
import { allocateGradients, buildArenas } from '../../src/core/arena.ts'
import type { Device } from '../../src/core/device.ts'
import type { Fp8Format } from '../../src/core/fp8.ts'
import { Tape } from '../../src/core/tape.ts'
import type { Tensor } from '../../src/core/tensor.ts'
import { Linear } from '../../src/nn/linear.ts'
import { parameters } from '../../src/nn/module.ts'
import { geluMlp } from '../../src/ops/gelu-mlp.ts'
import { swiglu } from '../../src/ops/swiglu.ts'
import { Fp8Training } from '../../src/train/fp8.ts'
import { PoisonedArena, valuesOf } from './harness.ts'
import { normals, rounded } from './inputs.ts'

/** The number that a byte stands for, by the definition of its bits (e4m3 has no infinities, one NaN of each sign). */
export function numberOf(byte: number, format: Fp8Format): number {
  const [exponentBits, mantissaBits, bias] = format === 'e4m3' ? [4, 3, 7] : [5, 2, 15]
  const sign = byte & 0x80 ? -1 : 1
  const exponent = (byte >> mantissaBits) & (2 ** exponentBits - 1)
  const mantissa = byte & (2 ** mantissaBits - 1)
  const isTop = exponent === 2 ** exponentBits - 1
  if (format === 'e4m3' && isTop && mantissa === 7) return Number.NaN
  if (format === 'e5m2' && isTop) return mantissa === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  if (exponent === 0) return sign * mantissa * 2 ** (1 - bias - mantissaBits)
  return sign * (1 + mantissa / 2 ** mantissaBits) * 2 ** (exponent - bias)
}

/** What a matrix in fp8 of the reference holds: the numbers themselves, which `Device.read` would cut off to bytes. */
export function referenceNumbers(tensor: Tensor): Float64Array {
  return elementsOf(tensor)
}

/** Normal numbers of very different sizes, representable in bf16. */
export function spread(name: string, count: number, scale = 1): Float64Array {
  const exponents = normals(`${name} sizes`, count, 0, 2)
  return rounded(
    normals(name, count, 0, 1).map((x, i) => scale * x * 2 ** exponents[i]!),
    'bf16',
  )
}

export const LAYER_KINDS = ['linear out-in', 'linear in-out', 'geluMlp', 'swiglu'] as const

export interface LayerShape {
  readonly kind: (typeof LAYER_KINDS)[number]
  readonly rows: number
  readonly inputs: number
  /** Width between the two weights of geluMlp and of swiglu (which has no biases). */
  readonly hidden: number
  readonly outputs: number
}

/** The layer's parts, and how a forward goes through them. */
function layerOf({ kind, inputs, hidden, outputs }: LayerShape) {
  const options = { init: 'zeros', bias: kind !== 'swiglu', layout: kind === 'geluMlp' ? 'in-out' : 'out-in' } as const
  if (kind === 'linear out-in' || kind === 'linear in-out') {
    const up = new Linear(
      inputs,
      { up: outputs },
      { ...options, layout: kind === 'linear in-out' ? 'in-out' : 'out-in' },
    )
    return { linears: { up }, forward: (x: Tensor, residual: Tensor) => up.forward(x, residual) }
  }
  const down = new Linear(hidden, { down: outputs }, options)
  if (kind === 'swiglu') {
    const up = new Linear(inputs, { gate: hidden, up: hidden }, options)
    const activate = (x: Tensor) => swiglu(up.forward(x), { from: up.weight, to: down.weight })
    return { linears: { up, down }, forward: (x: Tensor, residual: Tensor) => down.forward(activate(x), residual) }
  }
  const up = new Linear(inputs, { up: hidden }, options)
  const of = ({ weight, bias }: Linear) => ({ weight, bias: bias! })
  return { linears: { up, down }, forward: (x: Tensor, residual: Tensor) => geluMlp(x, of(up), of(down), residual) }
}

/** A layer's parameters, inputs and gradient of the output as host numbers that bf16 holds. */
export function layerValues(shape: LayerShape): Record<string, Float64Array> {
  const { kind, rows, inputs, outputs } = shape
  const of = (name: string, count: number, scale: number) =>
    rounded(normals(`${kind} ${name}`, count, 0, scale), 'bf16')
  const values: Record<string, Float64Array> = {
    x: of('x', rows * inputs, 1),
    residual: of('residual', rows * outputs, 1),
    dOut: of('dOut', rows * outputs, 1e-4),
  }
  for (const [name, { weight, bias }] of Object.entries(layerOf(shape).linears)) {
    values[`${name} weight`] = of(`${name} weight`, weight.size, 1 / Math.sqrt(name === 'up' ? inputs : shape.hidden))
    if (bias !== undefined) values[`${name} bias`] = of(`${name} bias`, bias.size, 0.1)
  }
  return values
}

/** Forward and backward, `uses` times over (gradients add up): what comes out, by name, and the training's scales. */
export async function runLayer(
  device: Device,
  shape: LayerShape,
  values: Record<string, Float64Array>,
  uses = 1,
): Promise<{ results: Record<string, Float64Array>; fp8: Fp8Training | undefined }> {
  const { rows, inputs, outputs } = shape
  const { linears, forward } = layerOf(shape)
  const model = { model: { layers: new Map([[0, { mlp: linears }]]) } }
  allocateGradients(buildArenas(parameters(model), device))
  const named = Object.entries(linears).flatMap(([name, { weight, bias }]) => [
    [`${name} weight`, weight] as const,
    ...(bias ? [[`${name} bias`, bias] as const] : []),
  ])
  for (const [name, parameter] of named) {
    device.write(parameter.stored, values[name]!)
    parameter.refresh()
  }
  const fp8 = Fp8Training.of(model, device)
  fp8?.refresh()
  const x = tensorFrom(device, [rows, inputs], values.x!)
  const results: Record<string, Float64Array> = {}
  for (let use = 0; use < uses; use++) {
    using tape = new Tape(device, { allocator: new PoisonedArena(device) })
    const residual = tensorFrom(device, [rows, outputs], values.residual!)
    tape.watch(x)
    tape.watch(residual)
    const out = forward(x, residual)
    results.out = await valuesOf(out)
    const gradients = tape.backward(out, tensorFrom(device, [rows, outputs], values.dOut!))
    results.dx = await valuesOf(gradients.of(x))
    results.dResidual = await valuesOf(gradients.of(residual))
  }
  for (const [name, parameter] of named) results[`d ${name}`] = await valuesOf(parameter.gradient!)
  return { results, fp8 }
}

/** ||a - b|| / ||b|| */
export function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [difference, norm] = [0, 0]
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2
    norm += b[i]! ** 2
  }
  return Math.sqrt(difference / norm)
}
