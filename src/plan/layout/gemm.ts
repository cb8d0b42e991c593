// The time of a matrix product by its shape: whole tiles on the multiprocessors in waves, each tile as deep as the inner
// dimension and a constant more, and never faster than memory brings the factors.
import { peakFlops } from '../devices.ts'
import { type Cluster, clockShare, TILE } from './machine.ts'

export type ProductPrecision = 'bf16' | 'fp8'

/** The average last wave of tiles is half full. */
const LAST_WAVE = 0.5

/**
 * Seconds of `count` products [rows, depth] x [depth, columns] in one launch.
 *     waves * tileFlops * (1 + overheadDepth / depth) / rate of a multiprocessor
 * @param precision  of the factors; results are written in 2 bytes
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
  const tileRows = Math.ceil(rows / TILE.rows) * TILE.rows
  const tileColumns = Math.ceil(columns / TILE.rows) * TILE.rows
  const tileArea = TILE.rows * TILE.columns
  const waves = (count * tileRows * tileColumns) / tileArea / multiprocessors + LAST_WAVE
  const efficiency = precision === 'fp8' ? constants.matrixEfficiency8Bit : constants.matrixEfficiency
  const rate = (peakFlops(device, precision) * efficiency * clockShare(on.powerShare)) / multiprocessors
  const arithmetic = (waves * 2 * tileArea * (depth + constants.tileOverheadDepth)) / rate
  const factorBytes = precision === 'fp8' ? 1 : 2
  const bytes = count * (factorBytes * depth * (rows + columns) + 2 * rows * columns)
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
