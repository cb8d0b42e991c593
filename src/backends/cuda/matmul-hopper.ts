// Launcher of kernels/matmul-hopper.cu: products of 16-bit floats on wgmma whose bias, residual, GELU, GELU's derivative
// and sums over rows are made while the next tile is multiplied. For compute capability 9.0; which products run on it is
// decided in matmul.ts, by timing it beside cuBLASLt.
import type { MatmulOptions } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import { DTYPE_NUMBER } from './elements.ts'
import { blocksFor, type CudaKernel, type Launcher, memoized, type TensorMap } from './launcher.ts'

/** How the kernel is compiled: see the top of the kernel file. */
export interface HopperVariant {
  readonly tileColumns: number
  readonly isPingPong: boolean
  readonly cluster: 1 | 2
  readonly stages: number
}

export const HOPPER_VARIANTS: readonly HopperVariant[] = [
  { tileColumns: 128, isPingPong: true, cluster: 2, stages: 6 },
  { tileColumns: 192, isPingPong: true, cluster: 2, stages: 5 },
  { tileColumns: 256, isPingPong: false, cluster: 2, stages: 4 },
]

const TILE_ROWS = 128
const TILE_INNER = 64
const PANEL_COLUMNS = 64
const THREADS = 384
const EPILOGUE = { none: 0, residual: 1, gelu: 2, geluBackward: 3 } as const
type Epilogue = keyof typeof EPILOGUE
/** Rows of tiles whose columns are gone through together: their part of a stays in the second-level cache. */
const GROUP_ROWS = 16
/** Behind the tiles in shared memory, and before them to reach a multiple of 1024. */
const EXTRA_SHARED_BYTES = 1024 + 256
const MAX_MAPS = 8192

export class HopperProducts {
  readonly #launcher: Launcher
  readonly #kernel: (dtype: 'bf16' | 'f16', variant: number, isKn: boolean, epilogue: Epilogue) => CudaKernel
  readonly #addParts: CudaKernel
  readonly #variants: readonly HopperVariant[]
  readonly #maps = new Map<string, TensorMap>()

  constructor(launcher: Launcher, variants: readonly HopperVariant[] = HOPPER_VARIANTS) {
    this.#launcher = launcher
    this.#variants = variants
    const defines = { OUT_DTYPE: DTYPE_NUMBER.f32, X_DTYPE: DTYPE_NUMBER.f32 }
    this.#addParts = launcher.kernel('elementwise', 'add_row_sums', 'ppiii', { defines })
    this.#kernel = memoized((dtype: 'bf16' | 'f16', variant: number, isKn: boolean, epilogue: Epilogue) => {
      const { tileColumns, isPingPong, cluster, stages } = variants[variant]!
      return launcher.kernel('matmul-hopper', 'matmul_hopper', 'mmmplplppiiii', {
        dtype,
        defines: {
          TILE_N: tileColumns,
          STAGES: stages,
          PINGPONG: Number(isPingPong),
          CLUSTER: cluster,
          B_IS_KN: Number(isKn),
          EPILOGUE: EPILOGUE[epilogue],
        },
        sharedBytes: sharedBytesOf(variants[variant]!),
      })
    })
  }

  /** Whether the kernel can compute this: 16-bit floats throughout, a stored [M, K], 16-byte accesses, nothing added to out. */
  supports(out: Tensor, a: Tensor, b: Tensor, options: MatmulOptions): boolean {
    const { transposeA, accumulate, bias, residual, gelu, geluBackward, sumOfA, sumOfB } = options
    const tensors = [out, a, b, bias, residual, gelu?.preActivation, geluBackward].filter((x) => x !== undefined)
    return (
      this.#launcher.computeCapability === 90 &&
      (a.dtype === 'bf16' || a.dtype === 'f16') &&
      !transposeA &&
      !accumulate &&
      sumOfA === undefined &&
      sumOfB === undefined &&
      (residual === undefined || gelu === undefined) &&
      out.columnCount % 8 === 0 &&
      tensors.every((x) => x.dtype === a.dtype && x.address % 16 === 0 && x.rowStride % 8 === 0)
    )
  }

  /** @param sums  f32 [parts, N] for the sums of `partRows` rows each, with geluBackward */
  run(variant: number, out: Tensor, a: Tensor, b: Tensor, options: MatmulOptions, sums = 0): void {
    const { transposeB = false, bias, residual, gelu, geluBackward } = options
    const { tileColumns, cluster } = this.#variants[variant]!
    const epilogue = gelu ? 'gelu' : geluBackward ? 'geluBackward' : residual ? 'residual' : 'none'
    const extra = gelu?.preActivation ?? geluBackward ?? residual ?? out
    const tileRows = Math.ceil(Math.ceil(out.rowCount / TILE_ROWS) / cluster)
    const tiles = tileRows * Math.ceil(out.columnCount / tileColumns)
    const clusters = Math.floor(this.#launcher.multiprocessors / cluster)
    this.#kernel(a.dtype as 'bf16' | 'f16', variant, !transposeB, epilogue)(
      cluster * Math.min(tiles, clusters),
      THREADS,
      this.#map(a, TILE_ROWS),
      transposeB ? this.#map(b, tileColumns / cluster) : this.#map(b, TILE_INNER),
      this.#map(extra, TILE_ROWS),
      out.address,
      out.rowStride,
      extra.address,
      extra.rowStride,
      bias?.address ?? 0,
      sums,
      out.rowCount,
      out.columnCount,
      a.columnCount,
      Math.max(1, GROUP_ROWS / cluster),
    )
  }

  /** sums [N] (+)= the sum of parts [parts, N], in their order. */
  addParts(sums: Tensor, partials: number, parts: number, accumulate: boolean): void {
    const columns = sums.size
    this.#addParts(blocksFor(columns, 32), 1024, sums.address, partials, parts, columns, Number(accumulate))
  }

  /** Rows whose sums make one part. */
  partRows(variant: number): number {
    return this.#variants[variant]!.isPingPong ? TILE_ROWS : TILE_ROWS / 2
  }

  #map(x: Tensor, rows: number): TensorMap {
    const key = `${x.address} ${x.rowCount} ${x.columnCount} ${x.rowStride} ${rows} ${x.dtype}`
    let map = this.#maps.get(key)
    if (map === undefined) {
      if (this.#maps.size >= MAX_MAPS) this.#maps.clear()
      map = this.#launcher.tensorMap({
        dtype: x.dtype,
        address: x.address,
        sizes: [x.columnCount, x.rowCount],
        strides: [x.rowStride],
        box: [PANEL_COLUMNS, rows],
        swizzle: 128,
      })
      this.#maps.set(key, map)
    }
    return map
  }
}

/** Stages of both factors, and barriers. */
function sharedBytesOf({ tileColumns, stages }: HopperVariant): number {
  return stages * 2 * TILE_INNER * (TILE_ROWS + tileColumns) + EXTRA_SHARED_BYTES
}
