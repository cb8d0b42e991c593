// The tape: records the operations of a micro-batch as data and runs them backwards. A tape owns the memory of all
// that is made under it. Parameter gradients accumulate over micro-batches (the first contribution of a step
// overwrites), activation gradients belong to one backward pass.
//
// Recomputation is a property of a block: entries dropped by its policy lose their outputs after the forward and
// are run again, from the same inputs and random keys, when a backward asks for what they made; or their own backward
// makes it again on the way (Op.remakesOut), and what needs it waits for that.
import {
  type Allocator,
  bindMemory,
  emptyTensor,
  GrowingArena,
  popAllocator,
  pushAllocator,
  virtualTensor,
} from './allocator.ts'
import { dropGradients, hasGradient, trainsWeights, waits, wantsActivationGradient } from './backward-order.ts'
import type { Device } from './device.ts'
import { invariant, ShapeError } from './errors.ts'
import { Gradients } from './gradients.ts'
import type { NamedTensors, Op, OutputSpec, TapeEntry } from './op.ts'
import { Parameter } from './parameter.ts'
import { show, Tensor } from './tensor.ts'

/** What a block forgets between forward and backward: nothing, the cheap ops, or everything inside it. */
export type Recompute = 'none' | 'selective' | 'full'

/**
 * Told about every op that runs: the planner counts FLOPs and bytes with it. In a backward the gradients of the op's
 * outputs can still be seen.
 */
export type OpObserver = (
  entry: TapeEntry,
  phase: 'forward' | 'backwardInput' | 'backwardWeight',
  gradients?: Gradients,
) => void

const tapes: Tape[] = []
const idleArenas = new WeakMap<Device, GrowingArena[]>()

export interface TapeOptions {
  /** Memory of the step; by default an arena of the device that grows once and is reused. */
  allocator?: Allocator
  recompute?: Recompute
  /** How many blocks forget, from the first; default all. */
  recomputeBlocks?: number | undefined
  onOp?: OpObserver
  /** False records nothing: inference in a scope of its own. */
  record?: boolean
}

export class Tape implements Disposable {
  readonly device: Device
  readonly #recompute: Recompute
  readonly #recomputeBlocks: number
  readonly #entries: TapeEntry[] = []
  readonly #allocator: Allocator
  #ownArena: GrowingArena | undefined
  readonly #onOp: OpObserver | undefined
  readonly #isRecording: boolean
  readonly #watched = new Set<Tensor>()
  /** How many inputs of recorded ops are a tensor or views of it: as many contributions its gradient may get. */
  readonly #uses = new Map<Tensor, number>()
  #blockStart = -1
  #blockCount = 0
  #isActive = false

  /** Starts recording at once: `using tape = new Tape(device)` ends with the enclosing block. */
  constructor(device: Device, options: TapeOptions = {}) {
    this.device = device
    this.#recompute = options.recompute ?? 'none'
    this.#recomputeBlocks = options.recomputeBlocks ?? Number.POSITIVE_INFINITY
    this.#onOp = options.onOp
    this.#isRecording = options.record ?? true
    if (options.allocator !== undefined) {
      this.#allocator = options.allocator
    } else {
      this.#ownArena = idleArenas.get(device)?.pop() ?? new GrowingArena(device)
      this.#allocator = this.#ownArena
    }
    this.resume()
  }

  /** Makes this the current tape (after `suspend`): one tape a micro-batch slot, several in flight. */
  resume(): void {
    invariant(!this.#isActive, 'the tape is already current')
    this.#isActive = true
    tapes.push(this)
    pushAllocator(this.#allocator)
  }

  suspend(): void {
    invariant(tapes[tapes.length - 1] === this, 'only the current tape can be suspended')
    tapes.pop()
    popAllocator(this.#allocator)
    this.#isActive = false
  }

  [Symbol.dispose](): void {
    if (this.#isActive) this.suspend()
    this.#entries.length = 0
    this.#uses.clear()
    if (this.#ownArena !== undefined) {
      this.#ownArena.reset()
      const idle = idleArenas.get(this.device)
      if (idle === undefined) idleArenas.set(this.device, [this.#ownArena])
      else idle.push(this.#ownArena)
      // Ending twice must not lend the same memory to two tapes.
      this.#ownArena = undefined
    }
  }

  /** Asks for the gradient of a tensor that no recorded op makes (an input), to be read after `backward`. */
  watch(tensor: Tensor): void {
    this.#watched.add(tensor.base ?? tensor)
  }

  needsGradient = (tensor: Tensor): boolean =>
    tensor.producer !== undefined ||
    (tensor instanceof Parameter ? tensor.requiresGrad : this.#watched.size > 0 && this.#watched.has(tensor))

  /** @internal Called by `apply`. */
  observe(entry: TapeEntry): void {
    this.#onOp?.(entry, 'forward')
    if (!this.#isRecording) return
    const needs = Object.values(entry.inputs).some((t) => t !== undefined && this.needsGradient(t.base ?? t))
    if (!needs) return
    for (const output of Object.values(entry.outputs)) if (output !== undefined) output.producer = entry
    for (const input of Object.values(entry.inputs)) {
      const root = input?.base ?? input
      if (root !== undefined) this.#uses.set(root, (this.#uses.get(root) ?? 0) + 1)
    }
    this.#entries.push(entry)
  }

  get isRecording(): boolean {
    return this.#isRecording
  }

  /** What the block that is recorded now forgets. */
  get recompute(): Recompute {
    return this.#blockCount > this.#recomputeBlocks ? 'none' : this.#recompute
  }

  /** Runs a block of the model whose activations are subject to the recomputation policy. */
  block(body: () => Tensor): Tensor {
    invariant(this.#blockStart < 0, 'blocks do not nest')
    this.#blockStart = this.#entries.length
    this.#blockCount++
    const start = this.#blockStart
    try {
      const result = body()
      if (this.recompute !== 'none') this.#dropFrom(start, result)
      return result
    } finally {
      this.#blockStart = -1
    }
  }

  #dropFrom(start: number, result: Tensor): void {
    const last = (result.base ?? result).producer
    for (let i = start; i < this.#entries.length; i++) {
      const entry = this.#entries[i]!
      if (entry === last || (this.recompute === 'selective' && !entry.op.isCheap)) continue
      entry.isDropped = true
      entry.isAlive = false
    }
  }

  /**
   * Runs the tape backwards from `output`. With `dOutput` its gradient is that (and is taken over); without,
   * `output` must be a loss, whose op knows its own gradient.
   */
  backward(output: Tensor, dOutput?: Tensor): Gradients {
    invariant(this.#isActive, 'backward needs the tape to be current')
    const gradients = new Gradients(this.needsGradient, (tensor) => this.#uses.get(tensor) ?? 0)
    invariant((output.base ?? output).producer !== undefined, 'backward needs an output that was recorded on this tape')
    if (dOutput !== undefined) gradients.pass(output, dOutput)
    const root = (output.base ?? output).producer
    // An entry whose gradients of weights wait until the entry before it has made their factor again.
    let waiting: TapeEntry | undefined
    for (let i = this.#entries.length - 1; i >= 0; i--) {
      const entry = this.#entries[i]!
      if (entry !== root && !hasGradient(entry, gradients)) continue
      const isWaiting = waits(entry, this.#entries[i - 1], gradients)
      if (isWaiting) this.#backwardInputOf(entry, gradients)
      else this.#backwardOf(entry, gradients)
      if (waiting !== undefined) {
        this.#backwardWeightOf(waiting, gradients)
        dropGradients(waiting, gradients)
      }
      waiting = isWaiting ? entry : undefined
      if (!isWaiting) dropGradients(entry, gradients)
    }
    return gradients
  }

  #backwardOf(entry: TapeEntry, gradients: Gradients): void {
    const { op, inputs } = entry
    const isInputWanted = wantsActivationGradient(op, inputs, gradients)
    const isRemade = isInputWanted && !entry.isAlive && op.remakesOut?.(entry.attributes) === true
    if (isRemade) bindMemory(entry.outputs.out!.storage, 'activation')
    this.#halvesOf(entry, gradients, isInputWanted)
    if (isRemade) entry.isAlive = true
  }

  #halvesOf(entry: TapeEntry, gradients: Gradients, isInputWanted: boolean): void {
    const { op, inputs } = entry
    const isWeightWanted = op.backwardWeight !== undefined && trainsWeights(op, inputs)
    if (isWeightWanted && isInputWanted && op.backward !== undefined) {
      this.#bringBack(entry, op.savedForWeight)
      this.#bringBack(entry, op.savedForInput)
      op.backward(entry, gradients)
      this.#onOp?.(entry, 'backwardWeight', gradients)
      this.#onOp?.(entry, 'backwardInput', gradients)
      return
    }
    if (isWeightWanted) this.#backwardWeightOf(entry, gradients)
    if (isInputWanted) this.#backwardInputOf(entry, gradients)
  }

  #backwardWeightOf(entry: TapeEntry, gradients: Gradients): void {
    this.#bringBack(entry, entry.op.savedForWeight)
    entry.op.backwardWeight?.(entry, gradients)
    this.#onOp?.(entry, 'backwardWeight', gradients)
  }

  #backwardInputOf(entry: TapeEntry, gradients: Gradients): void {
    this.#bringBack(entry, entry.op.savedForInput)
    entry.op.backwardInput(entry, gradients)
    this.#onOp?.(entry, 'backwardInput', gradients)
  }

  /** Recomputes whatever of the named inputs and outputs was dropped; statistics of an `out` that is remade are still there. */
  #bringBack(entry: TapeEntry, names: readonly string[]): void {
    const isRemade = entry.op.remakesOut?.(entry.attributes) === true
    for (const name of names) {
      const tensor = entry.inputs[name] ?? entry.outputs[name]
      const producer = (tensor?.base ?? tensor)?.producer as TapeEntry | undefined
      if (producer !== undefined && !(producer === entry && isRemade)) this.#revive(producer)
    }
  }

  #revive(entry: TapeEntry): void {
    if (entry.isAlive) return
    entry.isAlive = true
    for (const input of Object.values(entry.inputs)) {
      const producer = (input?.base ?? input)?.producer as TapeEntry | undefined
      if (producer !== undefined) this.#revive(producer)
    }
    const specs = entry.op.outputs(entry.inputs, entry.attributes)
    for (const [name, output] of Object.entries(entry.outputs)) {
      const spec: OutputSpec | undefined = specs[name]
      if (output !== undefined && spec !== undefined && 'shape' in spec && !spec.isVirtual)
        bindMemory(output.storage, 'activation')
    }
    entry.op.forward(this.device.kernels, entry.inputs, entry.outputs, entry.attributes)
    this.#onOp?.(entry, 'forward')
  }
}

/** The tape that records now, if any. */
export function currentTape(): Tape | undefined {
  return tapes[tapes.length - 1]
}

/** Runs `body` as a block of the current tape (subject to recomputation), or plainly where there is none. */
export function block(body: () => Tensor): Tensor {
  const tape = currentTape()
  return tape === undefined ? body() : tape.block(body)
}

/** Runs one op: allocates its outputs, calls its forward kernel, records it on the current tape. */
export function apply<I extends NamedTensors, O extends NamedTensors, A>(
  op: Op<I, O, A>,
  device: Device,
  inputs: I,
  attributes: A,
): O {
  const tape = currentTape()
  checkInputs(op, inputs, tape)
  const specs = op.outputs(inputs, attributes) as Record<string, OutputSpec>
  const outputs: NamedTensors = {}
  for (const name in specs) {
    const spec = specs[name]!
    outputs[name] =
      'shape' in spec
        ? spec.isVirtual
          ? virtualTensor(device, spec.shape)
          : emptyTensor(device, spec.shape, spec.dtype ?? device.floatDtype)
        : new Tensor(spec.inPlaceOf.shape, spec.inPlaceOf.dtype, spec.inPlaceOf.storage, {
            offset: spec.inPlaceOf.offset,
            rowStride: spec.inPlaceOf.rowStride,
          })
  }
  op.forward(device.kernels, inputs, outputs as O, attributes)
  if (tape !== undefined) {
    tape.observe({ op, inputs, outputs, attributes, isAlive: true, isDropped: false } as unknown as TapeEntry)
  }
  return outputs as O
}

/** Column slices go where they are understood, and whatever is to be trained where its gradient can be kept. */
function checkInputs<I extends NamedTensors, O extends NamedTensors, A>(
  op: Op<I, O, A>,
  inputs: I,
  tape: Tape | undefined,
): void {
  for (const name in inputs) {
    const tensor: Tensor | undefined = inputs[name]
    if (tensor === undefined) continue
    if (!tensor.isContiguous && !op.sliceable?.includes(name)) {
      throw new ShapeError(
        `${op.id}: ${name} must be contiguous, got a column slice ${show(tensor.shape)} of rows of ${tensor.rowStride}`,
      )
    }
    invariant(tensor.fp8 === undefined || op.takesFp8?.includes(name), `${op.id}: ${name} exists in fp8 only`)
    if (tensor instanceof Parameter || !op.weights?.includes(name)) continue
    if (tape?.isRecording && tape.needsGradient(tensor.base ?? tensor)) {
      throw new ShapeError(
        `${op.id}: ${name} must be a whole Parameter to be trained, got a view or an activation ${show(tensor.shape)}`,
      )
    }
  }
}

/** Runs `body` without recording and in a scope of its own; what it returns must be host values. */
export function inScope<T>(device: Device, body: () => T): T {
  using _ = new Tape(device, { record: false })
  return body()
}
