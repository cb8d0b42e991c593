// The time of a matrix product by its shape: whole tiles on the multiprocessors in waves, each tile as deep as the inner
// dimension and a constant more, and never faster than memory brings the factors.
import { type Precision, peakFlops } from '../devices.ts'
import { type Cluster, clockShare, TILE } from './machine.ts'

/** Of a product's factors. */
export type ProductPrecision = Extract<Precision, 'fp32' | 'tf32' | 'bf16' | 'fp16' | 'fp8'>

const FACTOR_BYTES: Readonly<Record<ProductPrecision, number>> = { fp32: 4, tf32: 4, bf16: 2, fp16: 2, fp8: 1 }

/** Of what fp8 factors are rounded from and their products are written in, and of every other product. */
export function activationBytes(precision: ProductPrecision): number {
  return Math.max(2, FACTOR_BYTES[precision])
}

/** The average last wave of tiles is half full. */
const LAST_WAVE = 0.5

/**
 * Seconds of `count` products [rows, depth] x [depth, columns] in one launch.
 *     waves * tileFlops * (1 + overheadDepth / depth) / rate of a multiprocessor
 */
export function gemmSeconds(
  on: Cluster,
  rows: number,
  columns: number,
  depth: number,
  precision: ProductPrecision = 'bf16',
  count = 1,
): number {
  const { constants, multiprocessors, device } = on
  // A tile may lie on its side, so that either dimension is filled up to its short side only.
  const short = Math.min(TILE.rows, TILE.columns)
  const tileRows = Math.ceil(rows / short) * short
  const tileColumns = Math.ceil(columns / short) * short
  const tileArea = TILE.rows * TILE.columns
  const waves = (count * tileRows * tileColumns) / tileArea / multiprocessors + LAST_WAVE
  const efficiency = precision === 'fp8' ? constants.matrixEfficiency8Bit : constants.matrixEfficiency
  const rate = (peakFlops(device, precision) * efficiency * clockShare(on.powerShare)) / multiprocessors
  const arithmetic = (waves * 2 * tileArea * (depth + constants.tileOverheadDepth)) / rate
  const bytes =
    count * (FACTOR_BYTES[precision] * depth * (rows + columns) + activationBytes(precision) * rows * columns)
  return Math.max(arithmetic, memorySeconds(on, bytes)) + constants.kernelGap
}

/** Seconds to read or write so many bytes of device memory. */
export function memorySeconds(on: Cluster, bytes: number): number {
  return bytes / (on.device.memoryBandwidth * on.constants.memoryEfficiency)
}

/** What one multiplication of large matrices reaches, as a share of the device's peak. */
export function gemmEfficiency(on: Cluster, rows: number, columns: number, depth: number): number {
  return (2 * rows * columns * depth) / gemmSeconds(on, rows, columns, depth) / peakFlops(on.device, 'bf16')
}
