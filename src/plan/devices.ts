// What a device can do at most, and the way from a name to a row of device-table.ts or to a slice of mig.ts.
import { didYouMean } from '../config/suggest.ts'
import { ConfigError } from '../core/errors.ts'
import { WHOLE_DEVICES } from './device-table.ts'
import { MIG_SLICES } from './mig.ts'
import { squash } from './spelling.ts'

/** Number formats of a matrix product's factors. */
export type Precision = 'fp64' | 'fp32' | 'tf32' | 'bf16' | 'fp16' | 'fp8' | 'fp4' | 'int8'

/** FLOP/s (int8: operations per second) by format; a format that is absent has no units of its own. */
export type PeakTable = Readonly<Partial<Record<Precision, number>>>

export interface DeviceSpec {
  readonly name: string
  readonly aliases: readonly string[]
  /** Dense matrix products with sums in fp32 (fp64 for fp64), FLOP/s. */
  readonly peakFlops: PeakTable
  /** The same with 2:4 structured sparsity, which training does not use. */
  readonly sparsePeakFlops: PeakTable
  /** Vendors' GB of device memory are GiB; a driver keeps up to 2 % of it. */
  readonly memoryBytes: number
  /** Bytes per second between the chip and its memory. */
  readonly memoryBandwidth: number
  /** Bytes per second to other devices of the node, in one direction. */
  readonly linkBandwidth?: number
  /** Devices that share such links: of the usual server, or of the pod. */
  readonly devicesPerNode?: number
  /** Bytes per second and device to other nodes in one direction, in the maker's reference server. */
  readonly networkBandwidth?: number
  /** Thermal design power of one device in watts; undefined where it is not published. */
  readonly watts?: number
  /** Where the figures are from. */
  readonly source: string
}

/** Every device that has a row, whole ones first. */
export const DEVICES: readonly DeviceSpec[] = [...WHOLE_DEVICES, ...MIG_SLICES]

/** Drivers put the maker before the name. */
const withoutMaker = (name: string): string => squash(name).replace(/^(nvidia|amd|google)/, '')

/** @throws ConfigError with the nearest name */
export function findDevice(name: string): DeviceSpec {
  const wanted = withoutMaker(name)
  const found =
    DEVICES.find((spec) => squash(spec.name) === wanted) ??
    DEVICES.find(({ aliases }) => aliases.some((alias) => squash(alias) === wanted))
  if (found !== undefined) return found
  const names = WHOLE_DEVICES.map((spec) => spec.name)
  const known = WHOLE_DEVICES.flatMap((spec) => [spec.name, ...spec.aliases])
  throw new ConfigError(
    `plan: expected cpu or a device such as ${names.join(', ')}, got ${JSON.stringify(name)}${didYouMean(name, known, JSON.stringify)}`,
  )
}

/** The device with less memory. @param limitBytes  of it that may be taken; undefined for all */
export function limitMemory(device: DeviceSpec, limitBytes: number | undefined): DeviceSpec {
  return { ...device, memoryBytes: Math.min(device.memoryBytes, limitBytes ?? device.memoryBytes) }
}

/** FLOP/s of dense products, and the format that the device's units compute them in. */
export interface ProductPeak {
  readonly format: Precision
  readonly flops: number
}

/**
 * The peak of products in a format; a wider one computes where a device has no units for it (fp8 on an A100: bf16), and
 * bf16 stands for fp16 but not the other way round.
 * @throws ConfigError where the device has none of them
 */
export function productPeak(spec: DeviceSpec, precision: Precision): ProductPeak {
  const order: Record<Precision, readonly Precision[]> = {
    fp64: ['fp64'],
    fp32: ['fp32'],
    tf32: ['tf32', 'fp32'],
    bf16: ['bf16', 'fp32'],
    fp16: ['fp16', 'bf16', 'fp32'],
    fp8: ['fp8', 'bf16', 'fp16', 'fp32'],
    fp4: ['fp4', 'fp8', 'bf16', 'fp16', 'fp32'],
    int8: ['int8', 'bf16', 'fp16', 'fp32'],
  }
  for (const format of order[precision]) {
    const flops = spec.peakFlops[format]
    if (flops !== undefined) return { format, flops }
  }
  throw new ConfigError(
    `plan: ${spec.name} has no peak for ${precision}: choose one of ${Object.keys(spec.peakFlops).join(', ')}`,
  )
}

/** FLOP/s of `productPeak`. */
export function peakFlops(spec: DeviceSpec, precision: Precision): number {
  return productPeak(spec, precision).flops
}

/** A machine whose speed was measured, such as this processor, as a row. @param measuredFlops  in fp32 products */
export function measuredDevice(
  name: string,
  figures: { measuredFlops: number; memoryBytes: number; memoryBandwidth: number },
): DeviceSpec {
  const { measuredFlops, ...memory } = figures
  const none = { aliases: [], sparsePeakFlops: {} }
  return { name, ...none, peakFlops: { fp32: measuredFlops }, ...memory, source: 'measured here' }
}
