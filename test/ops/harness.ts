// The checks that every op case goes through: forward and backward on a device against the reference (memory poisoned
// with NaN beforehand), what accumulates and what adds up, and the reference's gradients against finite differences.
// A check returns what is wrong as sentences, so that the planted-fault test can demand that there are some.
import { type Allocator, GrowingArena, standaloneTensor } from '../../src/core/allocator.ts'
import type { Device } from '../../src/core/device.ts'
import type { TapeEntry } from '../../src/core/op.ts'
import { Tape } from '../../src/core/tape.ts'
import { type Storage, sizeOf, Tensor } from '../../src/core/tensor.ts'
import { add } from '../../src/ops/add.ts'
import { difference, FINITE_DIFFERENCE_TOLERANCE, type Precision, TOLERANCES } from '../tolerances.ts'
import {
  hostValues,
  type InputSpecs,
  normals,
  numbersOf,
  placeInputs,
  placeParameters,
  placeTensor,
  rounded,
} from './inputs.ts'

export interface OpCase {
  /** Id of the op that this case is for. */
  readonly op: string
  readonly name: string
  readonly inputs: InputSpecs
  /** Calls the op. The names are those of `inputs`. */
  run(tensors: Record<string, Tensor>): Tensor
  /** A loss brings its own gradient; everything else is given a random one. */
  readonly isLoss?: boolean
  /** The op overwrites an input, which can then not be used a second time. */
  readonly isInPlace?: boolean
  /** Only compared with the reference; another row of the op, of the same mathematics, has the finite differences. */
  readonly isTooLargeForFiniteDifferences?: boolean
}

/** Everything a run made, by name: outputs of the op, inputs after the forward, gradients. */
export interface Outcome {
  readonly forward: Record<string, Float64Array>
  readonly backward: Record<string, Float64Array>
}

export interface RunOptions {
  /** Which micro-batches run, one after the other, into the same parameter gradients. Default [0]. */
  microBatches?: readonly number[]
  /** How often the op is used on the same inputs within a micro-batch; the results are added. Default 1. */
  uses?: number
  /** Inputs and output gradients are rounded to it, on every device alike. Default f32. */
  precision?: Precision
  /** Memory of everything that the ops make. Default poisoned. */
  allocator?: Allocator
  /** Sees every op of the forward as it is recorded (the planted-fault test replaces their backwards). */
  onForward?(entry: TapeEntry): void
  /** Called when a forward is done and its backward begins, and the reverse. */
  onPhase?(phase: 'forward' | 'backward'): void
}

/** Memory of NaN in every dtype when it is handed out: what a kernel reads before writing, or fails to write, shows. */
export class PoisonedArena implements Allocator {
  readonly #arena: GrowingArena

  constructor(device: Device) {
    this.#arena = new GrowingArena(device, 1 << 16)
  }

  allocate(storage: Storage): void {
    this.#arena.allocate(storage)
    const { device, bytes } = storage
    if (device.floatDtype === 'f64') {
      device.kernels.fill(new Tensor([bytes / device.itemBytes('f64')], 'f64', storage), Number.NaN)
    } else device.write(new Tensor([bytes], 'u8', storage), new Uint8Array(bytes).fill(ALL_ONES))
  }
}

/** Bits that are NaN in every float type, and -1 in the others. */
const ALL_ONES = 0xff

/** A tensor's values on the host, column slices too. */
export async function valuesOf(tensor: Tensor): Promise<Float64Array> {
  let source = tensor
  if (!tensor.isContiguous) {
    source = standaloneTensor(tensor.device, tensor.shape, tensor.dtype)
    tensor.device.kernels.copy(source, tensor)
  }
  return numbersOf(await tensor.device.read(source), source.dtype)
}

/** Runs a case forward and backward on a device. */
export async function runCase(device: Device, opCase: OpCase, options: RunOptions = {}): Promise<Outcome> {
  const { microBatches = [0], uses = 1, precision = 'f32' } = options
  const forward: Outcome['forward'] = {}
  const backward: Outcome['backward'] = {}
  const parameters = placeParameters(device, opCase.inputs, hostValues(opCase.name, opCase.inputs, 0, precision))
  for (const microBatch of microBatches) {
    const values = hostValues(opCase.name, opCase.inputs, microBatch, precision)
    const { tensors, bases } = placeInputs(device, opCase.inputs, values, parameters)
    const entries: TapeEntry[] = []
    using tape = new Tape(device, {
      allocator: options.allocator ?? new PoisonedArena(device),
      onOp: (entry, phase) => {
        if (phase !== 'forward') return
        entries.push(entry)
        options.onForward?.(entry)
      },
    })
    for (const base of Object.values(bases)) tape.watch(base)
    options.onPhase?.('forward')
    let out = opCase.run(tensors)
    for (let use = 1; use < uses; use++) out = add(out, opCase.run(tensors))
    for (const [i, entry] of entries.entries()) {
      for (const [name, tensor] of Object.entries(entry.outputs)) {
        if (tensor !== undefined) forward[`${microBatch}/${i} ${entry.op.id}.${name}`] = await valuesOf(tensor)
      }
    }
    // Kernels must leave their inputs alone, and what lies beside a column slice.
    for (const [name, base] of Object.entries(bases)) forward[`${microBatch}/${name} afterwards`] = await valuesOf(base)
    options.onPhase?.('backward')
    const dOut = opCase.isLoss ? undefined : outputGradient(opCase, out, microBatch, precision)
    const gradients = tape.backward(out, dOut)
    options.onPhase?.('forward')
    for (const [name, base] of Object.entries(bases)) {
      const gradient = gradients.find(base)
      if (gradient !== undefined) backward[`${microBatch}/d ${name}`] = await valuesOf(gradient)
    }
  }
  for (const [name, parameter] of Object.entries(parameters)) {
    backward[`d ${name}`] = await valuesOf(parameter.gradient!)
  }
  return { forward, backward }
}

function outputGradientValues(opCase: OpCase, shape: readonly number[], microBatch: number): Float64Array {
  return normals(`${opCase.name}/gradient of the output/${microBatch}`, sizeOf(shape))
}

function outputGradient(opCase: OpCase, out: Tensor, microBatch: number, precision: Precision): Tensor {
  const values = rounded(outputGradientValues(opCase, out.shape, microBatch), precision)
  return placeTensor(out.device, out.shape, values)
}

/** Everything about `actual` that is further from `expected` than the tolerance of this precision. */
export function compareOutcomes(what: string, actual: Outcome, expected: Outcome, precision: Precision): string[] {
  const failures: string[] = []
  for (const half of ['forward', 'backward'] as const) {
    const names = new Set([...Object.keys(expected[half]), ...Object.keys(actual[half])])
    for (const name of names) {
      const tolerance = TOLERANCES[precision]
      const problem =
        actual[half][name] === undefined || expected[half][name] === undefined
          ? 'only one of the two has it'
          : difference(actual[half][name], expected[half][name], tolerance[half], tolerance.element)
      if (problem !== undefined) failures.push(`${what}, ${half}: ${name}: ${problem}`)
    }
  }
  return failures
}

/**
 * A case on a device against the reference: once; two micro-batches whose parameter gradients must add; the op used
 * twice on the same tensors, whose gradients must add.
 */
export async function checkAgainstReference(
  device: Device,
  precision: Precision,
  reference: Device,
  opCase: OpCase,
  options: RunOptions = {},
): Promise<string[]> {
  const failures: string[] = []
  for (const [what, plan] of Object.entries(plansFor(opCase))) {
    const actual = await runCase(device, opCase, { ...options, ...plan, precision })
    const expected = await runCase(reference, opCase, { ...plan, precision })
    failures.push(...compareOutcomes(what, actual, expected, precision))
  }
  return failures
}

function plansFor(opCase: OpCase): Record<string, RunOptions> {
  return {
    once: {},
    'two micro-batches': { microBatches: [0, 1] },
    ...(!opCase.isInPlace && !opCase.isLoss && { 'used twice': { uses: 2 } }),
  }
}

/** On one device: gradients of two micro-batches are the sum of each one's, and using a tensor twice doubles its. */
export async function checkSums(device: Device, precision: Precision, opCase: OpCase): Promise<string[]> {
  const failures: string[] = []
  const tolerance = TOLERANCES[precision]
  const first = await runCase(device, opCase, { precision, microBatches: [0] })
  const second = await runCase(device, opCase, { precision, microBatches: [1] })
  const both = await runCase(device, opCase, { precision, microBatches: [0, 1] })
  for (const name of Object.keys(both.backward)) {
    if (/^\d/.test(name)) continue // an activation's: each micro-batch has its own
    const sum = first.backward[name].map((value, i) => value + second.backward[name][i])
    const problem = difference(both.backward[name], sum, tolerance.backward, tolerance.element)
    if (problem !== undefined) failures.push(`sum over micro-batches: ${name}: ${problem}`)
  }
  if (opCase.isInPlace || opCase.isLoss) return failures
  const twice = await runCase(device, opCase, { precision, uses: 2 })
  for (const [name, gradient] of Object.entries(first.backward)) {
    const problem = difference(
      twice.backward[name],
      gradient.map((value) => 2 * value),
      tolerance.backward,
      tolerance.element,
    )
    if (problem !== undefined) failures.push(`used twice: ${name}: ${problem}`)
  }
  return failures
}

/** Elements of an input that are perturbed: all up to 200, beyond that about 40, and 20 of the largest inputs. */
function sampledElements(size: number): number[] {
  const step = size <= 200 ? 1 : Math.ceil(size / (size <= 2000 ? 40 : 20))
  return Array.from({ length: Math.ceil(size / step) }, (_, i) => i * step)
}

/**
 * Gradients of a float64 device against the five-point central difference of f = sum(dOut * out), or of the loss:
 *     f' = (8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))) / 12h,  error h^4
 * `step` h of 1e-3 leaves about 1e-12 of either error for values near 1.
 */
export async function checkFiniteDifferences(
  device: Device,
  opCase: OpCase,
  options: RunOptions = {},
  step = 1e-3,
): Promise<string[]> {
  const failures: string[] = []
  const { backward } = await runCase(device, opCase, options)
  const values = hostValues(opCase.name, opCase.inputs, 0)
  for (const [name, spec] of Object.entries(opCase.inputs)) {
    if (spec.kind !== 'activation' && spec.kind !== 'parameter') continue
    const gradient = backward[spec.kind === 'activation' ? `0/d ${name}` : `d ${name}`]
    if (gradient === undefined) {
      failures.push(`finite differences: ${name} got no gradient`)
      continue
    }
    const size = gradient.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0)
    for (const i of sampledElements(gradient.length)) {
      const original = values[name][i]
      const at = async (shift: number): Promise<number> => {
        values[name][i] = original + shift
        const f = await objective(device, opCase, values)
        values[name][i] = original
        return f
      }
      const near = (await at(step)) - (await at(-step))
      const far = (await at(2 * step)) - (await at(-2 * step))
      const expected = (8 * near - far) / (12 * step)
      if (!(Math.abs(gradient[i] - expected) <= FINITE_DIFFERENCE_TOLERANCE * size)) {
        failures.push(`finite differences: d ${name}[${i}] is ${gradient[i]}, the difference quotient ${expected}`)
        break
      }
    }
  }
  return failures
}

async function objective(device: Device, opCase: OpCase, values: Record<string, Float64Array>): Promise<number> {
  const parameters = placeParameters(device, opCase.inputs, values)
  const { tensors } = placeInputs(device, opCase.inputs, values, parameters)
  const out = opCase.run(tensors)
  const result = await valuesOf(out)
  if (opCase.isLoss) return result[0]
  const dOut = outputGradientValues(opCase, out.shape, 0)
  return result.reduce((sum, value, i) => sum + value * dOut[i], 0)
}
