// Launchers of kernels/attention-mma-forward.cu and attention-mma-backward.cu: softmax attention and its gradients in
// bf16 and f16 on mma.sync, on any card since sm_80. Serves every shape and option; knows nothing of faster kernels.
import type { Dtype } from '../../core/dtype.ts'
import { ConfigError, DtypeError, invariant } from '../../core/errors.ts'
import type { AttentionOptions, Kernels } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import type { CudaKernel, Launcher } from './launcher.ts'

/** Queries and keys of a block's tiles, its warps, and the blocks of one multiprocessor that registers must allow. */
type Config = readonly [blockQueries: number, blockKeys: number, warps: number, minBlocks: number]

/** The head sizes that are compiled; others are padded with zeros in shared memory. */
const PADDED_SIZES = [16, 32, 64, 96, 128, 192, 256] as const
type PaddedSize = (typeof PADDED_SIZES)[number]

/** The fastest first; the first whose tiles fit the card's shared memory is taken (227, 163 or 99 KiB a block). */
const FORWARD: Readonly<Record<PaddedSize, readonly Config[]>> = {
  16: [[128, 64, 4, 2]],
  32: [[128, 64, 4, 2]],
  64: [[128, 64, 4, 2]],
  96: [[128, 64, 4, 2]],
  128: [[128, 64, 4, 2]],
  192: [
    [128, 64, 8, 1],
    [64, 32, 4, 1],
  ],
  256: [
    [128, 64, 8, 1],
    [128, 32, 8, 1],
    [64, 32, 4, 1],
  ],
}
const BACKWARD_QUERY: typeof FORWARD = {
  16: [[128, 64, 4, 2]],
  32: [[128, 64, 4, 2]],
  64: [[128, 32, 4, 2]],
  96: [[128, 32, 4, 2]],
  128: [[128, 32, 4, 2]],
  192: [
    [128, 32, 8, 1],
    [64, 32, 4, 1],
  ],
  256: [
    [128, 32, 8, 1],
    [64, 32, 4, 1],
    [64, 16, 4, 1],
  ],
}
const BACKWARD_KEY_VALUE: typeof FORWARD = {
  16: [[32, 128, 4, 2]],
  32: [[32, 128, 4, 2]],
  64: [[32, 128, 4, 2]],
  96: [[64, 128, 8, 1]],
  128: [[32, 128, 8, 1]],
  192: [
    [32, 128, 8, 1],
    [32, 64, 4, 1],
  ],
  256: [
    [32, 128, 8, 1],
    [32, 64, 4, 1],
    [16, 64, 4, 1],
  ],
}

/** A scale of 0 would turn masked scores (-inf) into NaN; this one leaves all others at 0 to float precision. */
const LEAST_SCALE = 1e-30

interface Variant {
  readonly forward: Config
  readonly query: Config
  readonly keyValue: Config
  /** Blocks that share the columns of dk and dv of one set of keys. */
  readonly columnSplits: number
  readonly attentionForward: CudaKernel
  readonly attentionBackwardQuery: CudaKernel
  readonly attentionBackwardKeyValue: CudaKernel
}

/**
 * `attention` and `attentionBackward` for bf16 and f16 with heads of at most 256 columns. The gradients have the same
 * bits in every run: dq is summed by blocks of queries, dk and dv by blocks of keys, none with atomics.
 * @throws DtypeError for other element types, ConfigError for larger heads
 */
export function attentionMmaKernels(launcher: Launcher): Pick<Kernels, 'attention' | 'attentionBackward'> {
  const variants = new Map<string, Variant>()

  /** The compilations for these tensors: 16-byte accesses only where all of them allow it. */
  function variantFor(options: AttentionOptions, tensors: readonly Tensor[]): Variant {
    const dtype = tensors[0]!.dtype
    const size = PADDED_SIZES.find((padded) => padded >= options.headDim)
    if (dtype !== 'bf16' && dtype !== 'f16') {
      throw new DtypeError(`attention: the mma kernels take bf16 or f16 tensors, got ${dtype}`)
    }
    if (size === undefined) {
      throw new ConfigError(`attention: headDim must be at most 256 on a cuda device, got ${options.headDim}`)
    }
    const isAligned = options.headDim % 8 === 0 && tensors.every((x) => x.address % 16 === 0 && x.rowStride % 8 === 0)
    const key = `${dtype} ${size} ${isAligned}`
    let variant = variants.get(key)
    if (variant === undefined) {
      variant = makeVariant(launcher, dtype, size, isAligned)
      variants.set(key, variant)
    }
    return variant
  }

  return {
    attention(out, lse, q, k, v, options) {
      const variant = variantFor(options, [q, k, v, out])
      const { batch, queries, keys, problem } = problemOf(q, k, options)
      variant.attentionForward(
        [Math.ceil(queries / variant.forward[0]), options.numHeads, batch],
        variant.forward[2] * 32,
        ...[out, lse, q, k, v].map((tensor) => tensor.address),
        options.docStart?.address ?? 0,
        ...[out, q, k, v].map((tensor) => tensor.rowStride),
        options.numKeyValueHeads,
        queries,
        keys,
        ...problem,
      )
    },

    attentionBackward(dq, dk, dv, delta, dOut, out, lse, q, k, v, options) {
      const variant = variantFor(options, [q, k, v, out, dOut, dq, dk, dv])
      const { batch, queries, keys, problem } = problemOf(q, k, options)
      const { numHeads, numKeyValueHeads } = options
      const docStart = options.docStart?.address ?? 0
      variant.attentionBackwardQuery(
        [Math.ceil(queries / variant.query[0]), numHeads, batch],
        variant.query[2] * 32,
        ...[dq, delta, dOut, out, lse, q, k, v].map((tensor) => tensor.address),
        docStart,
        ...[dq, dOut, out, q, k, v].map((tensor) => tensor.rowStride),
        numKeyValueHeads,
        queries,
        keys,
        ...problem,
      )
      variant.attentionBackwardKeyValue(
        [Math.ceil(keys / variant.keyValue[1]) * variant.columnSplits, numKeyValueHeads, batch],
        variant.keyValue[2] * 32,
        ...[dk, dv, dOut, lse, delta, q, k, v].map((tensor) => tensor.address),
        docStart,
        ...[dk, dv, dOut, q, k, v].map((tensor) => tensor.rowStride),
        numHeads,
        queries,
        keys,
        ...problem,
      )
    },
  }
}

function problemOf(q: Tensor, k: Tensor, options: AttentionOptions) {
  const [batch, queries] = q.shape as [number, number]
  const scale = options.scale === 0 ? LEAST_SCALE : options.scale
  const problem = [options.headDim, scale, Number(options.isCausal), options.window]
  return { batch, queries, keys: k.shape[1]!, problem }
}

function makeVariant(launcher: Launcher, dtype: Dtype, size: PaddedSize, isAligned: boolean): Variant {
  const rowBytes = size * 2
  const forwardBytes = ([queries, keys]: Config) => rowBytes * (queries + 4 * keys)
  const queryBytes = ([queries, keys]: Config) => rowBytes * (2 * queries + 4 * keys)
  const keyValueBytes = ([queries, keys]: Config) => rowBytes * (2 * keys + 4 * queries) + 24 * queries
  const pick = (configs: readonly Config[], bytes: (config: Config) => number): Config => {
    const config = configs.find((candidate) => bytes(candidate) <= launcher.maxSharedBytes)
    invariant(config !== undefined, `attention tiles for headDim ${size} in ${launcher.maxSharedBytes} bytes`)
    return config
  }
  const forward = pick(FORWARD[size], forwardBytes)
  const query = pick(BACKWARD_QUERY[size], queryBytes)
  const keyValue = pick(BACKWARD_KEY_VALUE[size], keyValueBytes)
  // The accumulators of dk and dv of 256 columns do not fit the registers.
  const columnSplits = size === 256 ? 2 : 1
  const common = { HEAD_DIM: size, ALIGNED: Number(isAligned) }
  const blocks = ([queries, keys, warps, minBlocks]: Config) => ({
    ...common,
    BLOCK_QUERIES: queries,
    BLOCK_KEYS: keys,
    WARPS: warps,
    MIN_BLOCKS: minBlocks,
  })
  return {
    forward,
    query,
    keyValue,
    columnSplits,
    attentionForward: launcher.kernel('attention-mma-forward', 'attention_forward', 'pppppplllliiiifii', {
      dtype,
      defines: blocks(forward),
      sharedBytes: forwardBytes(forward),
    }),
    attentionBackwardQuery: launcher.kernel(
      'attention-mma-backward',
      'attention_backward_query',
      'ppppppppplllllliiiifii',
      { dtype, defines: { ...blocks(query), PART: 1 }, sharedBytes: queryBytes(query) },
    ),
    attentionBackwardKeyValue: launcher.kernel(
      'attention-mma-backward',
      'attention_backward_key_value',
      'ppppppppplllllliiiifii',
      {
        dtype,
        defines: { ...blocks(keyValue), PART: 2, COLUMN_SPLITS: columnSplits },
        sharedBytes: keyValueBytes(keyValue),
      },
    ),
  }
}
