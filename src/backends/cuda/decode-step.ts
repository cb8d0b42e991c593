// Launcher of kernels/decode-step-few.cu and decode-step-many.cu: a whole decoding step of a Llama as one launch. The
// blocks wait for one another: there is one to a multiprocessor, and nothing may run beside them.
import { standaloneTensor } from '../../core/allocator.ts'
import type { DecodePlan, DecodeStep } from '../../core/decode-plan.ts'
import type { Device } from '../../core/device.ts'
import type { Dtype } from '../../core/dtype.ts'
import type { Tensor } from '../../core/tensor.ts'
import type { Launcher, TensorMap } from './launcher.ts'

/** Widths are multiples of this: a ring entry's inputs of decode-step-few.cu, and a block's quarter is whole entries of the other. */
const INPUT_PIECE = 512
/** Warps of decode-step-few.cu that compute, and of decode-step-many.cu that attend; all warps of each. */
const FEW_WARPS = 16
const FEW_ALL_WARPS = 17
const MANY_WARPS = 8
const MANY_ALL_WARPS = 16
/** Bytes of a ring entry: 8 rows of 1 024 inputs with gaps; 64 rows of 128 inputs, or 32 of 256. */
const FEW_ENTRY_BYTES = 17 * 1024
const MANY_ENTRY_BYTES = 64 * 128 * 2
/**
 * Of decode-step-many.cu: blocks of a group, panels of inputs in shared memory, buffers of partial sums, copies that the ring has
 * barriers for at most, bytes of the barriers of a copy, of a panel, and of the tiles.
 */
const RANKS = 4
const INPUT_PANELS = 8
const PART_BUFFERS = 4
const RING_SLOTS = 16
const BARRIER_BYTES = 16
const PANEL_BARRIER_BYTES = 24
const TILE_BARRIER_BYTES = 32
/**
 * Rows of sequences with which a block has pairs of gate and up by itself; how many pairs are copied together, the gates then the ups,
 * and how many it can have: a panel of them is as long as an entry at most.
 */
const OWN_GATES_ROWS = 64
const GATE_GROUP = 4
const MAX_GATE_PAIRS = 64
/** Elements of keys that a chunk of a cache has, and of values. */
const CHUNK_ELEMENTS = 4096
/** Chunks of a sequence whose attention is not split, at most; chunks of a split, at least; splits of a sequence, at most. */
const WHOLE_CHUNKS = 6
const SPLIT_CHUNKS = 8
const MAX_SPLITS = 16
/** Sequences that decode-step-few.cu is the faster one for, and that decode-step-many.cu can take. */
const FEW = 8
const MANY = 64
/** Inputs of a product of which a thread of decode-step-few.cu can keep its part in registers. */
const FEW_MAX_INPUTS = 16 * INPUT_PIECE
/** Entries of the rings, at least: fewer would not keep the memory busy. */
const MIN_RING = 4
/** What comes behind the area starts at a multiple of this, as panels of products must. */
const AREA_STEP = 1024
/** Shared memory that the compiler takes for itself. */
const STATIC_BYTES = 2048
/** Groups of blocks that the counters have room for. */
const MAX_GROUPS = 64
/** COUNTERS lines of 128 bytes, numbers of groups of blocks and the number of launches. */
const COUNTER_INTEGERS = 8 * 32 + MAX_GROUPS + 1
/** What a copy brings: 32 rows of 64 columns, or twice 16, an upper and a lower half. */
const MAP_BOX = [64, 32, 1, 1]
const HALVES_BOX = [64, 16, 2, 1]
/** The ring's shared memory is a multiple of this, as panels begin at such addresses. */
const RING_STEP = 1024
/** struct Layer of decode-step.cuh. */
const LAYER_BYTES = 64
/** struct Step of decode-step.cuh: addresses, sizes, floats. */
const STEP_SIGNATURE = `${'p'.repeat(22)}iiiiiiiffp`

interface Sizes {
  readonly batchSize: number
  readonly capacity: number
  readonly hiddenSize: number
  readonly vocabSize: number
}

/** What the compiled kernels can be: head sizes of 64 and 128, widths of whole pieces, 16-bit elements. */
function isServed({ weights, tokens, keys }: DecodePlan, sizes: Sizes, dtype: Dtype): boolean {
  const { numHeads, numKeyValueHeads, headDim, intermediateSize, layers, table, head, norm, cos, sin } = weights
  const widths = [sizes.hiddenSize, numHeads * headDim, intermediateSize]
  const read = [table, head, norm, ...keys, ...layers.flatMap((layer) => Object.values(layer) as Tensor[])]
  return (
    (dtype === 'bf16' || dtype === 'f16') &&
    (headDim === 64 || headDim === 128) &&
    numHeads / numKeyValueHeads <= 16 &&
    widths.every((width) => width % INPUT_PIECE === 0) &&
    (tokens.size > FEW ? tokens.size <= MANY : Math.max(...widths) <= FEW_MAX_INPUTS) &&
    read.every((tensor) => tensor.dtype === dtype && tensor.address % 16 === 0) &&
    [cos, sin].every((tensor) => tensor.dtype === 'f32' && tensor.rowCount >= sizes.capacity)
  )
}

/** @returns undefined where the kernels are not for such a model, batch or card */
export function decodeStep(device: Device, launcher: Launcher, plan: DecodePlan): DecodeStep | undefined {
  const { weights, keys, tokens, lengths, history, made, logits } = plan
  const { numHeads, numKeyValueHeads, headDim, intermediateSize } = weights
  const batchSize = tokens.size
  const hiddenSize = weights.table.columnCount
  const sizes = { batchSize, capacity: keys[0]!.shape[1]!, hiddenSize, vocabSize: weights.head.rowCount }
  const dtype = device.floatDtype
  if (!isServed(plan, sizes, dtype)) return undefined
  // Both use the copy engine that came with Hopper, that for many sequences also Hopper's own products.
  if (batchSize > FEW ? launcher.computeCapability !== 90 : launcher.computeCapability < 90) return undefined

  const isFew = batchSize <= FEW
  const blocks = isFew ? launcher.multiprocessors : RANKS * Math.floor(launcher.multiprocessors / RANKS)
  // Of few sequences every block must have a part in a layer's gate and up, or down: so nobody is ahead by more than a layer.
  const feedForwardTiles = intermediateSize / 4 + hiddenSize / 8
  if (isFew ? feedForwardTiles < blocks : blocks / RANKS > MAX_GROUPS) return undefined
  const warps = isFew ? FEW_WARPS : MANY_WARPS
  const tokenTiles = isFew ? 1 : 2 ** Math.ceil(Math.log2(batchSize / 8))
  const tokenRows = 8 * tokenTiles
  const headRows = numHeads / numKeyValueHeads > 8 ? 16 : 8
  const queryWidth = numHeads * headDim
  const attentionBytes = 4 * warps * headRows * (headDim + 2)
  const sumsBytes = 4 * 2 * FEW_WARPS * 8 * 8
  const areaBytes = AREA_STEP * Math.ceil(Math.max(attentionBytes, sumsBytes) / AREA_STEP)
  const inputBytes = Math.max(attentionBytes, INPUT_PANELS * tokenRows * 128)
  const otherBytes = isFew
    ? areaBytes + 4 * FEW_WARPS * 8 + LAYER_BYTES * weights.layers.length
    : inputBytes + RING_SLOTS * BARRIER_BYTES + INPUT_PANELS * PANEL_BARRIER_BYTES + TILE_BARRIER_BYTES
  const entryBytes = isFew ? FEW_ENTRY_BYTES : MANY_ENTRY_BYTES
  const ringStep = isFew ? FEW_ENTRY_BYTES : RING_STEP
  const ringBytes = ringStep * Math.floor((launcher.maxSharedBytes - STATIC_BYTES - otherBytes) / ringStep)
  if (ringBytes < MIN_RING * entryBytes) return undefined
  const evenPairs = GATE_GROUP * Math.ceil(intermediateSize / blocks / GATE_GROUP)
  const gatePairs = !isFew && tokenRows === OWN_GATES_ROWS && evenPairs <= MAX_GATE_PAIRS ? evenPairs : 0

  const chunks = Math.ceil((sizes.capacity * headDim) / CHUNK_ELEMENTS)
  const room = Math.floor(blocks / (batchSize * numKeyValueHeads))
  const splits = Math.max(1, Math.min(MAX_SPLITS, Math.ceil(chunks / SPLIT_CHUNKS), room))
  const maxSplits = isFew && chunks > WHOLE_CHUNKS ? splits : 1
  const teamWarps = batchSize * numKeyValueHeads <= blocks ? MANY_WARPS : MANY_WARPS / 2

  const integers = (count: number): Tensor => {
    const tensor = standaloneTensor(device, [count], 'i32')
    device.write(tensor, new Int32Array(count))
    return tensor
  }
  // Sequences that a block of decode-step-many.cu owns, in eights.
  const ownTiles = Math.max(1, tokenTiles / RANKS)
  const exchanged = isFew ? 0 : blocks * PART_BUFFERS * RANKS * 4 * ownTiles * 128
  const qkvWidth = queryWidth + 2 * numKeyValueHeads * headDim
  // The kernels see by tags in the elements what is new: memory begins as zeros. Two elements are as large as an integer.
  const elements = (width: number): Tensor => integers((tokenRows * width) / 2)
  const scratch = [
    elements(hiddenSize),
    elements(qkvWidth),
    elements(queryWidth),
    elements(intermediateSize),
    integers(batchSize * maxSplits * queryWidth),
    integers(batchSize * maxSplits * numHeads),
    integers(2 * batchSize * blocks),
    integers(COUNTER_INTEGERS),
  ]
  // Of two norms of a layer each: sums of squares, and inputs.
  if (!isFew) scratch.push(integers(exchanged), integers((2 * tokenRows * hiddenSize) / 32), elements(2 * hiddenSize))
  const name = isFew ? 'few' : 'many'
  const kernel = launcher.kernel(`decode-step-${name}`, `decode_step_${name}`, STEP_SIGNATURE, {
    dtype,
    sharedBytes: ringBytes + otherBytes,
    defines: {
      HIDDEN: hiddenSize,
      FEED_FORWARD: intermediateSize,
      HEADS: numHeads,
      KV_HEADS: numKeyValueHeads,
      HEAD_DIM: headDim,
      TOKEN_TILES: tokenTiles,
      ...(isFew
        ? { RING_ENTRIES: ringBytes / FEW_ENTRY_BYTES, AREA_BYTES: areaBytes }
        : { RING_BYTES: ringBytes, GATE_PAIRS: gatePairs }),
    },
  })
  // The launches use these by their addresses alone: that they are named in them keeps their memory.
  const state = [
    layerTable(device, plan),
    weights.table,
    weights.norm,
    weights.head,
    weights.cos,
    weights.sin,
    tokens,
    lengths,
    history,
    made,
  ]
  const maps = mapTable(device, launcher, plan, gatePairs)
  return () => {
    kernel(
      blocks,
      32 * (isFew ? FEW_ALL_WARPS : MANY_ALL_WARPS),
      ...state.map((tensor) => tensor.address),
      logits?.address ?? 0,
      ...scratch.map((tensor) => tensor.address),
      ...(isFew ? [0, 0, 0] : []),
      batchSize,
      sizes.capacity,
      plan.weights.layers.length,
      sizes.vocabSize,
      history.shape[0]!,
      maxSplits,
      teamWarps,
      weights.eps,
      1 / Math.sqrt(headDim),
      maps.address,
    )
  }
}

/** struct Layer of every layer, as the kernel reads them: addresses in halves of 32 bits. */
function layerTable(device: Device, { weights, keys, values }: DecodePlan): Tensor {
  const addresses = weights.layers.flatMap(({ inputNorm, qkv, o, postNorm, gateUp, down }, l) =>
    [inputNorm, qkv, o, postNorm, gateUp, down, keys[l]!, values[l]!].map((tensor) => tensor.address),
  )
  const table = standaloneTensor(device, [2 * addresses.length], 'i32')
  device.write(table, new Int32Array(BigUint64Array.from(addresses, BigInt).buffer))
  return table
}

/**
 * Tensor maps of qkv, o, gateUp, down, keys and values of every layer, and of the head, as decode-attention.cuh has them. Rows that
 * rope or SwiGLU joins are the upper and the lower half of a head, or of gateUp; where a block has `gatePairs` of gateUp by itself,
 * a copy brings all of these, GATE_GROUP at a time.
 */
function mapTable(
  device: Device,
  launcher: Launcher,
  { weights, keys, values }: DecodePlan,
  gatePairs: number,
): Tensor {
  const mapOf = ({ address, dtype, shape }: Tensor): TensorMap => {
    const [sequences, rows, columns] = shape.length === 3 ? (shape as [number, number, number]) : [1, ...shape]
    const sizes = [columns!, rows!, sequences, 1]
    const strides = [columns!, columns! * rows!, columns! * rows! * sequences]
    return launcher.tensorMap({ dtype, address, sizes, strides, box: MAP_BOX, swizzle: 128 })
  }
  const mapOfHalves = ({ address, dtype, rowCount, columnCount }: Tensor, half: number): TensorMap => {
    const sizes = [columnCount, half, 2, rowCount / (2 * half)]
    const strides = [columnCount, columnCount * half, columnCount * 2 * half]
    return launcher.tensorMap({ dtype, address, sizes, strides, box: HALVES_BOX, swizzle: 128 })
  }
  const mapOfGates = ({ address, dtype, columnCount }: Tensor, half: number): TensorMap => {
    const sizes = [columnCount, GATE_GROUP, 2, half / GATE_GROUP]
    const strides = [columnCount, columnCount * half, columnCount * GATE_GROUP]
    const box = [MAP_BOX[0]!, GATE_GROUP, 2, gatePairs / GATE_GROUP]
    return launcher.tensorMap({ dtype, address, sizes, strides, box, swizzle: 128 })
  }
  const maps = weights.layers.flatMap(({ qkv, o, gateUp, down }, l) => [
    mapOfHalves(qkv, weights.headDim / 2),
    mapOf(o),
    gatePairs > 0 ? mapOfGates(gateUp, weights.intermediateSize) : mapOfHalves(gateUp, weights.intermediateSize),
    ...[down, keys[l]!, values[l]!].map(mapOf),
  ])
  const bytes = Buffer.concat([...maps, mapOf(weights.head)])
  const table = standaloneTensor(device, [bytes.length / 4], 'i32')
  device.write(table, new Int32Array(new Uint8Array(bytes).buffer))
  return table
}
