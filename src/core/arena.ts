// Parameter arenas: all parameters of a unit (a layer, the embeddings, the head) that share format, optimizer and
// trainability lie in one flat buffer, their gradients in another, with a segment table that says where each
// Hugging Face tensor is. Optimizers run over ranges of arenas; sharding will cut them; checkpoints never see them:
// they speak in Hugging Face names and shapes.
import { ALIGNMENT, standaloneTensor } from './allocator.ts'
import type { Device } from './device.ts'
import type { Dtype } from './dtype.ts'
import { invariant } from './errors.ts'
import type { Parameter } from './parameter.ts'
import { randomKey } from './random.ts'
import { Storage, Tensor } from './tensor.ts'

/** One parameter's place in an arena, in elements. */
export interface Segment {
  readonly parameter: Parameter
  readonly offset: number
  readonly length: number
  readonly decays: boolean
}

/** What the parameters of one arena have in common. */
export interface ArenaKey {
  /** `model.layers.3`, or the top-level module's path for what belongs to no layer. */
  readonly unit: string
  /** Ranks that sum these gradients: one group until parallelism cuts it. */
  readonly reductionGroup: string
  readonly format: 'f32' | 'f64'
  /** Matrices may take another optimizer than the rest (Muon). */
  readonly optimizerKind: 'matrix' | 'vector' | 'embedding'
  readonly isTrainable: boolean
}

export interface ParameterArena {
  readonly key: ArenaKey
  readonly segments: readonly Segment[]
  /** Elements, padded so that each segment starts on a 64-byte boundary; the padding stays zero. */
  readonly length: number
  /** In the device's masterDtype where they are trained, else in its floatDtype. */
  readonly weights: Tensor
  /** The weights in the device's floatDtype, where that is another: what ops read. */
  readonly working: Tensor | undefined
  /** Same layout as `weights`, in `gradientDtype`; made by `allocateGradients`, absent in frozen arenas. */
  gradients: Tensor | undefined
}

function keyOf(parameter: Parameter, unit: string, format: 'f32' | 'f64'): ArenaKey {
  const isEmbedding = /(embed|wte|wpe|lmHead)/i.test(parameter.partNames()[0] ?? '')
  return {
    unit,
    reductionGroup: 'all',
    format,
    optimizerKind: isEmbedding ? 'embedding' : parameter.shape.length === 2 ? 'matrix' : 'vector',
    isTrainable: parameter.requiresGrad,
  }
}

/** The layer a parameter belongs to, from its path: `model.layers.3`, `transformer.h.3`, or `shared`. */
export function unitOf(path: string): string {
  return /^(.*?\.(?:layers|h)\.\d+)(?:\.|$)/.exec(path)?.[1] ?? 'shared'
}

/**
 * Allocates flat buffers on `device` and points every parameter into them. Contents are undefined: fill them with
 * `initialize` or from a checkpoint.
 * @param isTrained  false: the weights are only read, and no master is kept beside a narrower copy
 */
export function buildArenas(parameters: readonly Parameter[], device: Device, isTrained = true): ParameterArena[] {
  const { floatDtype, masterDtype: format } = device
  const groups = new Map<string, { key: ArenaKey; members: Parameter[] }>()
  for (const parameter of parameters) {
    const key = keyOf(parameter, unitOf(parameter.path), format)
    const id = JSON.stringify(key)
    const group = groups.get(id)
    if (group === undefined) groups.set(id, { key, members: [parameter] })
    else group.members.push(parameter)
  }
  const itemBytes = Math.min(device.itemBytes(floatDtype), device.itemBytes(format))
  const step = ALIGNMENT / Math.min(itemBytes, ALIGNMENT)
  return [...groups.values()].map(({ key, members }) => {
    const segments: Segment[] = []
    let length = 0
    // Decaying parameters first: an optimizer then needs at most two ranges an arena.
    for (const parameter of [...members].sort((a, b) => Number(b.decays) - Number(a.decays))) {
      segments.push({ parameter, offset: length, length: parameter.size, decays: parameter.decays })
      length += Math.ceil(parameter.size / step) * step
    }
    const zeros = (dtype: Dtype): Tensor => {
      const flat = standaloneTensor(device, [length], dtype)
      device.kernels.fill(flat, 0)
      return flat
    }
    const weights = zeros(isTrained ? format : floatDtype)
    const working = weights.dtype === floatDtype ? undefined : zeros(floatDtype)
    for (const segment of segments) point(segment, weights, working)
    return { key, segments, length, weights, working, gradients: undefined }
  })
}

/** A parameter's values become a place in `working`, or in `weights` where these are what ops read. */
function point(segment: Segment, weights: Tensor, working: Tensor | undefined): void {
  const { parameter } = segment
  const read = working ?? weights
  parameter.storage = sharedStorage(read, segment)
  // The reference keeps everything in f64, whatever it is called.
  if (read.dtype !== 'f64') parameter.dtype = read.dtype
  parameter.master =
    working === undefined ? undefined : new Tensor(parameter.shape, weights.dtype, sharedStorage(weights, segment))
}

/**
 * dtype of an arena's gradients. In a step of one micro-batch the gradient of a matrix is one product of bf16 factors,
 * summed in f32 inside it: it is rounded to bf16 once, as PyTorch's autocast does, and nothing is added to it later.
 * Gradients that are summed (micro-batches, embeddings and heads, norms and biases), and those of f16, whose range is
 * too short, are in the masters' dtype.
 */
function gradientDtype({ key, weights: { device } }: ParameterArena, isLater: boolean): Dtype {
  const isOneProduct = isLater && key.optimizerKind === 'matrix' && device.fp8 === undefined
  return isOneProduct && device.floatDtype === 'bf16' ? 'bf16' : device.masterDtype
}

/**
 * Gives every trainable arena its gradient buffer (zeros) and points the parameters' gradients into it.
 * @param isLater  a step is one micro-batch, and the buffers of arenas without padding come later (gradientStorages)
 */
export function allocateGradients(arenas: readonly ParameterArena[], isLater = false): void {
  for (const arena of arenas) {
    if (!arena.key.isTrainable || arena.gradients !== undefined) continue
    const { device } = arena.weights
    const dtype = gradientDtype(arena, isLater)
    // The reference keeps everything in f64, whatever it is called.
    const ownDtype = dtype === 'f64' ? 'f32' : dtype
    if (isLater && !isPadded(arena)) {
      const storage = new Storage(device, arena.length * device.itemBytes(dtype))
      arena.gradients = new Tensor([arena.length], dtype, storage)
      for (const { parameter, length } of arena.segments) {
        const own = new Storage(device, length * device.itemBytes(dtype))
        parameter.gradient = new Tensor(parameter.shape, ownDtype, own)
        parameter.hasGradient = false
      }
      continue
    }
    arena.gradients = standaloneTensor(device, [arena.length], dtype)
    device.kernels.fill(arena.gradients, 0)
    for (const segment of arena.segments) {
      segment.parameter.gradient = new Tensor(
        segment.parameter.shape,
        ownDtype,
        sharedStorage(arena.gradients, segment),
      )
      segment.parameter.hasGradient = false
    }
  }
}

/** Whether there are elements between segments, which nothing writes and norms read. */
function isPadded({ segments, length }: ParameterArena): boolean {
  return segments.reduce((sum, segment) => sum + segment.length, 0) !== length
}

/** Everything that lies in the gradient memory of an arena: the flat buffer and each parameter's part of it. */
export function gradientStorages({ gradients, segments }: ParameterArena): { storage: Storage; distance: number }[] {
  const { storage, dtype } = gradients!
  const itemBytes = storage.device.itemBytes(dtype)
  const parts = segments.map(({ parameter, offset }) => ({
    storage: parameter.gradient!.storage,
    distance: offset * itemBytes,
  }))
  return [{ storage, distance: 0 }, ...parts]
}

/**
 * Fills the parameters with their initial values. Every Hugging Face tensor is a stream of its own, named by its
 * name, indexed by its global element: any layout of the same model starts from the same bits.
 */
export function initialize(arenas: readonly ParameterArena[], seed: number): void {
  for (const arena of arenas) {
    for (const { parameter } of arena.segments) {
      const { kernels } = parameter.device
      const { init } = parameter
      const names = parameter.partNames()
      parameter.parts.forEach((part, i) => {
        const target = parameter.stored.slice(part.firstRow, part.rows)
        if (init === 'zeros') kernels.fill(target, 0)
        else if (init === 'ones') kernels.fill(target, 1)
        else kernels.randomNormal(target, randomKey(seed, `init.${names[i]}`), 0, 0, init.normal)
      })
      parameter.refresh()
    }
  }
}

/** A flat view of elements [from, from + length) of an arena buffer. */
export function range(flat: Tensor, from: number, length: number): Tensor {
  invariant(from + length <= flat.size, 'a range reaches outside its arena')
  return new Tensor([length], flat.dtype, flat.storage, { offset: flat.offset + from, base: flat })
}

/** Runs of segments that lie together and agree on weight decay: what an elementwise optimizer walks over. */
export function decayRanges(arena: ParameterArena): { from: number; length: number; decays: boolean }[] {
  const ranges: { from: number; length: number; decays: boolean }[] = []
  for (const segment of arena.segments) {
    const last = ranges[ranges.length - 1]
    if (last !== undefined && last.decays === segment.decays) last.length = segment.offset + segment.length - last.from
    else ranges.push({ from: segment.offset, length: segment.length, decays: segment.decays })
  }
  return ranges
}

function sharedStorage(flat: Tensor, segment: Segment): Storage {
  const { device, buffer, byteOffset } = flat.storage
  invariant(buffer !== undefined, 'an arena has no memory')
  const itemBytes = device.itemBytes(flat.dtype)
  const storage = new Storage(device, segment.length * itemBytes)
  storage.bind(buffer, byteOffset + segment.offset * itemBytes)
  return storage
}
