// Tensor maps of attention's operands for the Hopper kernels: boxes of some positions of one head, one panel wide.
import type { Tensor } from '../../core/tensor.ts'
import type { Launcher, TensorMap } from './launcher.ts'

/** Columns of a shared-memory panel: 128 bytes of 16-bit elements. */
export const PANEL_COLUMNS = 64
/** Tensor maps are kept by address and shape; a training step has a few per layer. */
const MAX_MAPS = 8192

export type HeadMaps = (x: Tensor, heads: number, headDim: number, rows: number) => TensorMap

/** Makes the map of x [B, T, heads * headDim] (or a column slice) for boxes of `rows` positions, or finds it again. */
export function headMaps(launcher: Launcher): HeadMaps {
  const maps = new Map<string, TensorMap>()
  return (x, heads, headDim, rows) => {
    const [batch, positions] = x.shape as [number, number]
    const key = `${x.address} ${batch} ${positions} ${x.rowStride} ${heads} ${headDim} ${rows} ${x.dtype}`
    let map = maps.get(key)
    if (map === undefined) {
      if (maps.size >= MAX_MAPS) maps.clear()
      map = launcher.tensorMap({
        dtype: x.dtype,
        address: x.address,
        sizes: [headDim, heads, positions, batch],
        strides: [headDim, x.rowStride, positions * x.rowStride],
        box: [PANEL_COLUMNS, 1, rows, 1],
        swizzle: 128,
      })
      maps.set(key, map)
    }
    return map
  }
}

/** Whether every row allows 16-byte accesses. */
export function isAligned(x: Tensor): boolean {
  return x.address % 16 === 0 && x.rowStride % 8 === 0
}
