// Launcher of kernels/attention-hopper-forward.cu: softmax attention in bf16 and f16 on wgmma, for compute capability 9.0.
// Says which problems it serves; the others go to attention-mma.ts.
import type { Dtype } from '../../core/dtype.ts'
import { invariant } from '../../core/errors.ts'
import type { AttentionOptions, Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import { headMaps, isAligned, PANEL_COLUMNS } from './head-maps.ts'
import type { CudaKernel, Launcher } from './launcher.ts'

interface Config {
  /** Keys of a tile. */
  readonly keys: number
  /** Warpgroups that multiply, 64 queries each. */
  readonly groups: number
  /** Tiles of K, and of V, in shared memory. */
  readonly stages: number
}

/**
 * By the head size that is compiled; smaller heads are padded with zeros by TMA. 64, 96, 128 and 256 are the fastest
 * measured on an H100, the others are the largest tiles that fit.
 */
const CONFIGS: Readonly<Record<number, Config>> = {
  32: { keys: 128, groups: 3, stages: 2 },
  64: { keys: 128, groups: 2, stages: 3 },
  96: { keys: 128, groups: 2, stages: 2 },
  128: { keys: 128, groups: 2, stages: 2 },
  160: { keys: 112, groups: 2, stages: 2 },
  192: { keys: 112, groups: 2, stages: 2 },
  224: { keys: 80, groups: 2, stages: 2 },
  256: { keys: 80, groups: 2, stages: 2 },
}
/** For heads of 64 over more keys than this: tiles of 192 queries, of which short sequences have too few. */
const SHORT_KEYS = 2048
const LONG_64: Config = { keys: 96, groups: 3, stages: 3 }
/** For heads of 64 over fewer, where there are so many tiles of 256 queries a multiprocessor that they fill the card. */
const MANY_64: Config = { keys: 64, groups: 4, stages: 4 }
const MANY_TILES = 4

const GROUP_QUERIES = 64
/** HAS_OUT_TILES of the kernel: up to this head size results have tiles of their own in shared memory. */
const LARGEST_WITH_OUT_TILES = 128
/** Keys and values of the heads that are worked on at one time should stay in the 50 MB of the L2 cache. */
const CACHED_BYTES = 32 << 20
/** And these heads should have no more tiles of queries than this many per multiprocessor. */
const TILES_AT_ONCE = 4
/** The same without a causal mask, for heads of more than 64 columns. */
const TILES_AT_ONCE_UNMASKED = 2

interface Variant extends Config {
  readonly launch: CudaKernel
}

export interface AttentionHopperForward {
  /** Whether `attention` takes this problem: 16-byte accesses, heads of at most 256 columns, a positive scale. */
  supports(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): boolean
  readonly attention: Kernels['attention']
}

/** The same bits in every run: a tile of queries is summed by one warpgroup, keys in falling order. */
export function attentionHopperForward(launcher: Launcher): AttentionHopperForward {
  const variants = new Map<string, Variant>()
  const mapOf = headMaps(launcher)

  function configFor(size: number, heads: number, queries: number, keys: number): Config {
    if (size !== 64) return CONFIGS[size]!
    if (keys > SHORT_KEYS) return LONG_64
    const tiles = heads * Math.ceil(queries / (GROUP_QUERIES * MANY_64.groups))
    return tiles >= MANY_TILES * launcher.multiprocessors ? MANY_64 : CONFIGS[size]!
  }

  function variantFor(dtype: Dtype, size: number, config: Config): Variant {
    const key = `${dtype} ${size} ${config.groups}`
    let variant = variants.get(key)
    if (variant === undefined) {
      variant = makeVariant(launcher, dtype, size, config)
      variants.set(key, variant)
    }
    return variant
  }

  return {
    supports(q, k, v, { headDim, scale }) {
      return (
        launcher.computeCapability === 90 &&
        (q.dtype === 'bf16' || q.dtype === 'f16') &&
        headDim % 8 === 0 &&
        headDim <= 256 &&
        scale > 0 &&
        [q, k, v].every(isAligned)
      )
    },

    attention(out, lse, q, k, v, options) {
      const { numHeads, numKeyValueHeads, headDim } = options
      invariant(isAligned(out), 'attention: the rows of out must be 16-byte aligned')
      const [batch, queries] = q.shape as [number, number]
      const keys = k.shape[1]!
      const size = paddedSize(headDim)
      const heads = batch * numHeads
      const variant = variantFor(q.dtype, size, configFor(size, heads, queries, keys))
      const tilesPerHead = Math.ceil(queries / (GROUP_QUERIES * variant.groups))
      const cachedHeads = Math.floor(CACHED_BYTES / (4 * keys * size)) * (numHeads / numKeyValueHeads)
      const tilesAtOnce = options.isCausal || size <= 64 ? TILES_AT_ONCE : TILES_AT_ONCE_UNMASKED
      const headsAtOnce = Math.round((tilesAtOnce * launcher.multiprocessors) / tilesPerHead)
      variant.launch(
        Math.min(tilesPerHead * heads, launcher.multiprocessors),
        128 * (variant.groups + 1),
        mapOf(q, numHeads, headDim, GROUP_QUERIES),
        mapOf(k, numKeyValueHeads, headDim, variant.keys),
        mapOf(v, numKeyValueHeads, headDim, variant.keys),
        mapOf(out, numHeads, headDim, GROUP_QUERIES),
        q.address,
        k.address,
        lse.address,
        options.docStart?.address ?? 0,
        q.rowStride,
        k.rowStride,
        numHeads,
        numKeyValueHeads,
        batch,
        queries,
        keys,
        headDim,
        options.scale * Math.LOG2E,
        Number(options.isCausal),
        options.window,
        Math.max(1, Math.min(Math.floor(cachedHeads), headsAtOnce, heads)),
      )
    },
  }
}

function paddedSize(headDim: number): number {
  return Math.ceil(headDim / 32) * 32
}

function definesOf(size: number, { keys, groups, stages }: Config): Record<string, number> {
  return { HEAD_DIM: size, BLOCK_KEYS: keys, GROUPS: groups, STAGES: stages }
}

/** Every way the kernel is compiled, for each element type: what `npm run check` compiles. */
export function forwardDefines(): Record<string, number>[] {
  const bySize = Object.entries(CONFIGS).map(([size, config]) => definesOf(Number(size), config))
  return [...bySize, definesOf(64, LONG_64), definesOf(64, MANY_64)]
}

function makeVariant(launcher: Launcher, dtype: Dtype, size: number, config: Config): Variant {
  const rowBytes = Math.ceil(size / PANEL_COLUMNS) * PANEL_COLUMNS * 2
  const queryTiles = size <= LARGEST_WITH_OUT_TILES ? 2 : 1
  const rows = config.groups * GROUP_QUERIES * queryTiles + 2 * config.stages * config.keys
  const launch = launcher.kernel('attention-hopper-forward', 'attention_forward', 'mmmmpppplliiiiiifiii', {
    dtype,
    defines: definesOf(size, config),
    // Room to align the tiles to 1024 bytes, and the barriers behind them.
    sharedBytes: 1024 + rows * rowBytes + 512,
  })
  return { ...config, launch }
}
