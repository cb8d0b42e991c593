// Slices of multi-instance GPUs: compute by multiprocessors, memory and bandwidth by eighths, no links.
import { WHOLE_DEVICES } from './device-table.ts'
import type { DeviceSpec, PeakTable } from './devices.ts'

/** Multiprocessors of a slice's compute part by its first number; the memory part is `memory` eighths. */
interface MigTable {
  readonly of: string
  readonly multiprocessors: number
  readonly slices: Readonly<Record<string, { readonly multiprocessors: number; readonly memoryEighths: number }>>
}

const slice = (multiprocessors: number, memoryEighths: number) => ({ multiprocessors, memoryEighths })
const hopperSlices = (first: string, second: string, half: string, whole: string): MigTable['slices'] => ({
  [`1g.${first}gb`]: slice(16, 1),
  [`2g.${second}gb`]: slice(32, 2),
  [`3g.${half}gb`]: slice(60, 4),
  [`4g.${half}gb`]: slice(64, 4),
  [`7g.${whole}gb`]: slice(132, 8),
})
const ampereSlices = (first: string, second: string, half: string, whole: string): MigTable['slices'] => ({
  [`1g.${first}gb`]: slice(14, 1),
  [`2g.${second}gb`]: slice(28, 2),
  [`3g.${half}gb`]: slice(42, 4),
  [`4g.${half}gb`]: slice(56, 4),
  [`7g.${whole}gb`]: slice(98, 8),
})

const MIG: readonly MigTable[] = [
  { of: 'H100 SXM', multiprocessors: 132, slices: hopperSlices('10', '20', '40', '80') },
  { of: 'H100 NVL', multiprocessors: 132, slices: hopperSlices('12', '24', '47', '94') },
  { of: 'H200', multiprocessors: 132, slices: hopperSlices('18', '35', '71', '141') },
  { of: 'A100 40GB', multiprocessors: 108, slices: ampereSlices('5', '10', '20', '40') },
  { of: 'A100 80GB', multiprocessors: 108, slices: ampereSlices('10', '20', '40', '80') },
]

export const MIG_SLICES: readonly DeviceSpec[] = MIG.flatMap(({ of, multiprocessors, slices }) => {
  const whole = WHOLE_DEVICES.find(({ name }) => name === of)!
  const scaled = (peak: PeakTable, share: number): PeakTable =>
    Object.fromEntries(Object.entries(peak).map(([format, flops]) => [format, flops * share]))
  return Object.entries(slices).map(([profile, part]): DeviceSpec => {
    const share = part.multiprocessors / multiprocessors
    const memoryShare = part.memoryEighths / 8
    return {
      name: `${of} MIG ${profile}`,
      aliases: [`${of} ${profile}`],
      peakFlops: scaled(whole.peakFlops, share),
      sparsePeakFlops: scaled(whole.sparsePeakFlops, share),
      memoryBytes: whole.memoryBytes * memoryShare,
      memoryBandwidth: whole.memoryBandwidth * memoryShare,
      source: `NVIDIA MIG user guide: ${part.multiprocessors} of ${multiprocessors} multiprocessors, ${part.memoryEighths} of 8 parts of memory; ${of} for the rest`,
    }
  })
})
