// Launcher of kernels/attention-hopper-backward.cu: gradients of softmax attention in bf16 and f16 on wgmma, for compute
// capability 9.0 and heads of up to 128 columns. Says which problems it serves; the others go to attention-mma.ts.
import type { Dtype } from '../../core/dtype.ts'
import { invariant } from '../../core/errors.ts'
import type { AttentionOptions, Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import { headMaps, isAligned, PANEL_COLUMNS } from './head-maps.ts'
import type { CudaKernel, Launcher } from './launcher.ts'

/**
 * Queries of a tile; tiles of keys and values, and of queries, that are in shared memory at once; keys up to which integer
 * sums were measured to be faster than turns.
 */
interface Config {
  readonly queries: number
  readonly keyStages: number
  readonly queryStages: number
  readonly integerSumsUpTo: number
}

/** By the head size that is compiled, the fastest measured on an H100; smaller heads are padded with zeros by TMA. */
const CONFIGS: Readonly<Record<number, Config>> = {
  64: { queries: 128, keyStages: 2, queryStages: 2, integerSumsUpTo: 4096 },
  96: { queries: 64, keyStages: 1, queryStages: 2, integerSumsUpTo: 16384 },
  128: { queries: 64, keyStages: 1, queryStages: 2, integerSumsUpTo: 16384 },
}
const SIZES = Object.keys(CONFIGS).map(Number)
/** Heads whose halves are whole groups of columns of a thread. */
const UNROTATED_SIZES = [64, 128]
const BLOCK_KEYS = 128
/** Warps that add to dq: WRITERS of the kernel. */
const WRITERS = 3
/**
 * Key-value heads that are worked on at one time: what fits the 50 MB of the L2 cache, or so many (measured on an H100)
 * that few blocks wait for each other's turn at a tile of dq, and that these still read the same queries at one time.
 */
const CACHED_BYTES = 48 << 20
const LEAST_UNITS = 32
/** The same where blocks do not wait for turns; and without a causal mask, where more heads are slower. */
const LEAST_UNITS_ANY_ORDER = 16
const LEAST_UNITS_UNMASKED = 12
/** Queries, and tiles of keys of all heads, from which integer sums are faster. */
const INTEGER_SUMS_FROM = 2048
const INTEGER_SUMS_FROM_TILES = 1024

/** How blocks add up their parts of dq: DQ_SUMS of the kernel. All but anyOrder give the same bits in every run. */
const DQ_SUMS = { anyOrder: 0, inTurns: 1, integers: 2 } as const
type DqSums = keyof typeof DQ_SUMS

interface Variant extends Config {
  readonly panels: number
  /** Of integer sums. */
  readonly maxima: CudaKernel
  readonly prepare: CudaKernel
  readonly main: CudaKernel
  readonly finish: CudaKernel
}

export interface AttentionHopperBackward {
  /** Whether `attentionBackward` takes this problem: 16-byte accesses, heads of at most 128 columns, a positive scale. */
  supports(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): boolean
  /** Whether it turns dq and dk back itself where the options ask for it. */
  unrotates(options: AttentionOptions): boolean
  readonly attentionBackward: Kernels['attentionBackward']
}

/**
 * dk and dv are sums of one block in a fixed order. dq is summed by many blocks: in a fixed order or as integers, so that
 * every run has the same bits, or with `isDeterministic` false as they come.
 */
export function attentionHopperBackward(
  launcher: Launcher,
  { isDeterministic }: { isDeterministic: boolean },
): AttentionHopperBackward {
  const variants = new Map<string, Variant>()
  const mapOf = headMaps(launcher)

  function variantFor(dtype: Dtype, size: number, sums: DqSums, unrotates: boolean): Variant {
    const key = `${dtype} ${size} ${sums} ${unrotates}`
    let variant = variants.get(key)
    if (variant === undefined) {
      variant = makeVariant(launcher, dtype, size, sums, unrotates)
      variants.set(key, variant)
    }
    return variant
  }

  return {
    supports(q, k, v, { headDim, numHeads, numKeyValueHeads, scale }) {
      return (
        launcher.computeCapability === 90 &&
        (q.dtype === 'bf16' || q.dtype === 'f16') &&
        headDim % 8 === 0 &&
        headDim <= 128 &&
        numHeads % numKeyValueHeads === 0 &&
        scale > 0 &&
        [q, k, v].every(isAligned)
      )
    },

    unrotates: ({ headDim, unrotate }) =>
      unrotate !== undefined && UNROTATED_SIZES.includes(headDim) && unrotate.cos.dtype === 'f32',

    attentionBackward(dq, dk, dv, _delta, dOut, out, lse, q, k, v, options) {
      const { numHeads, numKeyValueHeads, headDim, scale, unrotate } = options
      invariant([dq, dk, dv, dOut, out].every(isAligned), 'attentionBackward: all tensors must allow 16-byte accesses')
      const [batch, queries] = q.shape as [number, number]
      const keys = k.shape[1]!
      const size = paddedSize(headDim)
      const sums = sumsFor(q, k, options, isDeterministic)
      const variant = variantFor(q.dtype, size, sums, unrotate !== undefined)
      const turn = [unrotate?.positions.address ?? 0, unrotate?.cos.address ?? 0, unrotate?.sin.address ?? 0]
      const docStart = options.docStart?.address ?? 0
      const mask = [Number(options.isCausal), options.window]

      const tiles = Math.ceil(queries / variant.queries)
      const tileCount = tiles * numHeads * batch
      const sumBytes = tileCount * variant.queries * variant.panels * PANEL_COLUMNS * 4
      const statisticsBytes = tileCount * variant.queries * (sums === 'integers' ? 16 : 12)
      const keyBlocks = Math.ceil(keys / BLOCK_KEYS)
      const units = batch * numKeyValueHeads
      const maximaBytes = sums === 'integers' ? units * keyBlocks * 8 : 0
      const sum = launcher.scratch(sumBytes + statisticsBytes + maximaBytes + (tileCount + 1) * 4)
      const statistics = sum + sumBytes
      const maxima = statistics + statisticsBytes
      const counters = maxima + maximaBytes

      if (sums === 'integers') {
        const keyGrid = [keyBlocks, numKeyValueHeads, batch] as const
        variant.maxima(keyGrid, 256, maxima, k.address, v.address, k.rowStride, v.rowStride, keys, headDim)
      }
      const grid = [tiles, numHeads, batch] as const
      variant.prepare(
        grid,
        256,
        statistics,
        counters,
        maxima,
        dOut.address,
        out.address,
        lse.address,
        docStart,
        dOut.rowStride,
        out.rowStride,
        queries,
        keys,
        headDim,
        ...mask,
        numKeyValueHeads,
      )
      const unitBytes = (numHeads / numKeyValueHeads) * queries * size * 8 + keys * size * 4
      const cachedUnits = Math.floor(CACHED_BYTES / unitBytes)
      const unitsPerRound = Math.min(Math.max(cachedUnits, leastUnits(options, sums)), units)
      variant.main(
        Math.min(units * keyBlocks, launcher.multiprocessors),
        384,
        mapOf(q, numHeads, headDim, variant.queries),
        mapOf(k, numKeyValueHeads, headDim, BLOCK_KEYS),
        mapOf(v, numKeyValueHeads, headDim, BLOCK_KEYS),
        mapOf(dOut, numHeads, headDim, variant.queries),
        dk.address,
        dv.address,
        sum,
        statistics,
        counters,
        docStart,
        dk.rowStride,
        dv.rowStride,
        numHeads,
        numKeyValueHeads,
        batch,
        queries,
        keys,
        headDim,
        scale,
        ...mask,
        unitsPerRound,
        ...turn,
      )
      const finishThreads = unrotate !== undefined && size === 128 ? 128 : 256
      const sources = [sum, statistics, counters]
      variant.finish(grid, finishThreads, dq.address, ...sources, dq.rowStride, queries, headDim, scale, ...turn)
    },
  }
}

/**
 * The fastest that was measured (docs/attention.md), otherwise turns. Integers for bf16 only: in f16 ds may overflow, and
 * their sum would not show it. With grouped heads turns are faster than any order, too.
 */
function sumsFor(q: Tensor, k: Tensor, options: AttentionOptions, isDeterministic: boolean): DqSums {
  const { numHeads, numKeyValueHeads, headDim, isCausal, window, docStart } = options
  if (numHeads !== numKeyValueHeads) return 'inTurns'
  if (!isDeterministic) return 'anyOrder'
  if (q.dtype !== 'bf16' || !isCausal || window !== 0 || docStart !== undefined) return 'inTurns'
  const [batch, keys] = k.shape as [number, number]
  const isLong = q.shape[1]! >= INTEGER_SUMS_FROM && keys <= CONFIGS[paddedSize(headDim)]!.integerSumsUpTo
  const isLarge = batch * numKeyValueHeads * Math.ceil(keys / BLOCK_KEYS) >= INTEGER_SUMS_FROM_TILES
  return isLong && isLarge ? 'integers' : 'inTurns'
}

function leastUnits({ isCausal }: AttentionOptions, sums: DqSums): number {
  if (!isCausal) return LEAST_UNITS_UNMASKED
  return sums === 'inTurns' ? LEAST_UNITS : LEAST_UNITS_ANY_ORDER
}

function paddedSize(headDim: number): number {
  return SIZES.find((size) => size >= headDim)!
}

function definesOf(size: number, sums: DqSums, unrotates: boolean): Record<string, number> {
  const { queries, keyStages, queryStages } = CONFIGS[size]!
  return {
    HEAD_DIM: size,
    BLOCK_QUERIES: queries,
    KEY_STAGES: keyStages,
    QUERY_STAGES: queryStages,
    WRITERS,
    DQ_SUMS: DQ_SUMS[sums],
    UNROTATES: Number(unrotates),
  }
}

/** Every way the kernel is compiled, for each element type: what `npm run check` compiles. */
export function backwardDefines(): Record<string, number>[] {
  return SIZES.flatMap((size) =>
    (Object.keys(DQ_SUMS) as DqSums[]).flatMap((sums) =>
      (UNROTATED_SIZES.includes(size) ? [true, false] : [false]).map((unrotates) => definesOf(size, sums, unrotates)),
    ),
  )
}

function makeVariant(launcher: Launcher, dtype: Dtype, size: number, sums: DqSums, unrotates: boolean): Variant {
  const config = CONFIGS[size]!
  const { queries, keyStages, queryStages } = config
  const panels = Math.ceil(size / PANEL_COLUMNS)
  const rowBytes = panels * PANEL_COLUMNS * 2
  const operandBytes = rowBytes * 2 * (keyStages * BLOCK_KEYS + queryStages * queries)
  const gradientBytes = queries * BLOCK_KEYS * 2 + queries * panels * PANEL_COLUMNS * 4
  const barriers = 2 * keyStages + 4 * queryStages + 2 * WRITERS + 2
  const options = {
    dtype,
    defines: definesOf(size, sums, unrotates),
  }
  const kernel = (name: string, signature: string, sharedBytes = 0) =>
    launcher.kernel('attention-hopper-backward', name, signature, { ...options, sharedBytes })
  return {
    ...config,
    panels,
    maxima: kernel('attention_backward_maxima', 'pppllii'),
    prepare: kernel('attention_backward_prepare', 'ppppppplliiiiii'),
    main: kernel(
      'attention_backward',
      'mmmmpppppplliiiiiifiiippp',
      operandBytes +
        gradientBytes +
        queryStages * queries * (sums === 'integers' ? 16 : 12) +
        keyStages * 16 +
        barriers * 8,
    ),
    finish: kernel('attention_backward_finish', 'ppppliifppp'),
  }
}
