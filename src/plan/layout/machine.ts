// A cluster as the cost model sees it: devices, the links between them, and the few constants that say how much of a data
// sheet real programs reach. The constants are the same for every model, layout and row of a table.
import { ConfigError } from '../../core/errors.ts'
import { type DeviceSpec, findDevice, peakFlops } from '../devices.ts'

/** How much of the data sheet is reached. One set for all; docs/layout.md says what each was set on. */
export interface MachineConstants {
  /** Share of the peak that the inner loop of a large product runs at, at the clock that the power limit allows. */
  readonly matrixEfficiency: number
  /** The same for products of 8-bit floats. */
  readonly matrixEfficiency8Bit: number
  /** Filling and emptying a tile of a product costs as much as this many further steps of its inner dimension. */
  readonly tileOverheadDepth: number
  /** Share of the memory's bandwidth that kernels reach which only move data. */
  readonly memoryEfficiency: number
  /** Share of the bandwidth of links inside a node that collectives reach (their bus bandwidth). */
  readonly linkEfficiency: number
  /** Share of the network's bandwidth that collectives and transfers between nodes reach. */
  readonly networkEfficiency: number
  /** Seconds of one hop of a ring between two devices, for no bytes. */
  readonly linkLatency: number
  /** Seconds more where the hop goes to another node. */
  readonly networkLatency: number
  /** Seconds between the end of a kernel's useful work and the start of the next one's. */
  readonly kernelGap: number
  /** Communication that runs beside products takes multiprocessors and memory from them: this share of its time. */
  readonly overlapCost: number
  /** Share of the peak that fused attention reaches, forward and backward together, by the kernel's generation. */
  readonly attentionEfficiency: Readonly<Record<'flash2' | 'flash3', number>>
}

/** Fixed facts of a device that its data sheet row does not have. */
interface Chip {
  readonly multiprocessors: number
  readonly constants: MachineConstants
  /** Whether estimates for such a device were compared with published runs; else it is given another's shares. */
  readonly isCompared: boolean
}

/** Rows and columns of the tile of a product that one multiprocessor works on (CUTLASS and cuBLAS: 256 x 128). */
export const TILE = { rows: 128, columns: 256 } as const

const COMMON = {
  tileOverheadDepth: 64,
  memoryEfficiency: 0.65,
  linkEfficiency: 0.72,
  networkEfficiency: 0.66,
  linkLatency: 2e-6,
  networkLatency: 8e-6,
  kernelGap: 4e-6,
  overlapCost: 0.2,
} as const

/** FlashAttention-2 there: arXiv:2307.08691 section 4.1. */
const AMPERE: MachineConstants = {
  ...COMMON,
  matrixEfficiency: 0.78,
  matrixEfficiency8Bit: 0.78,
  attentionEfficiency: { flash2: 0.55, flash3: 0.55 },
}

/** FlashAttention-2 and -3 there: arXiv:2407.08608 section 4. */
const HOPPER: MachineConstants = {
  ...COMMON,
  matrixEfficiency: 0.66,
  matrixEfficiency8Bit: 0.6,
  attentionEfficiency: { flash2: 0.35, flash3: 0.5 },
}

/** By a device's name, or by its start: the first that fits. */
const CHIPS: Readonly<Record<string, Chip>> = {
  'A100 80GB': { multiprocessors: 108, constants: AMPERE, isCompared: true },
  A100: { multiprocessors: 108, constants: AMPERE, isCompared: false },
  'H100 SXM': { multiprocessors: 132, constants: HOPPER, isCompared: true },
  'H100 PCIe': { multiprocessors: 114, constants: HOPPER, isCompared: false },
  H100: { multiprocessors: 132, constants: HOPPER, isCompared: false },
  H200: { multiprocessors: 132, constants: HOPPER, isCompared: false },
  B200: { multiprocessors: 148, constants: HOPPER, isCompared: false },
  V100: { multiprocessors: 80, constants: AMPERE, isCompared: false },
  MI300X: { multiprocessors: 304, constants: AMPERE, isCompared: false },
  L40S: { multiprocessors: 142, constants: AMPERE, isCompared: false },
  L4: { multiprocessors: 58, constants: AMPERE, isCompared: false },
  'RTX 4090': { multiprocessors: 128, constants: AMPERE, isCompared: false },
  'RTX 5090': { multiprocessors: 170, constants: AMPERE, isCompared: false },
}
const UNKNOWN_CHIP: Chip = { multiprocessors: 108, constants: AMPERE, isCompared: false }

function chipOf(device: DeviceSpec): Chip {
  const { name } = device
  const chip = Object.entries(CHIPS).find(([start]) => name.startsWith(start))?.[1] ?? UNKNOWN_CHIP
  const [whole, slice] = name.split(' MIG ')
  if (slice === undefined) return chip
  // A slice has as much less of the peak as it has fewer multiprocessors.
  const share = peakFlops(device, 'bf16') / peakFlops(findDevice(whole!), 'bf16')
  return { ...chip, multiprocessors: Math.round(chip.multiprocessors * share), isCompared: false }
}

export interface Cluster {
  readonly device: DeviceSpec
  readonly devices: number
  readonly devicesPerNode: number
  /** Bytes per second and device inside a node, in one direction. */
  readonly linkBandwidth: number
  /** Bytes per second and device between nodes, in one direction. */
  readonly networkBandwidth: number
  readonly multiprocessors: number
  /** Power limit of a device as a share of its design power: the clock of products follows it. */
  readonly powerShare: number
  readonly constants: MachineConstants
  /** Whether estimates for such devices were compared with published runs. */
  readonly isCompared: boolean
}

export interface ClusterInput {
  device: string | DeviceSpec
  devices: number
  devicesPerNode?: number | undefined
  linkBandwidth?: number | undefined
  networkBandwidth?: number | undefined
  memoryBandwidth?: number | undefined
  memoryBytes?: number | undefined
  powerShare?: number | undefined
  constants?: Partial<MachineConstants> | undefined
}

/** @throws ConfigError for an unknown device, or for several without a network between them */
export function cluster(input: ClusterInput): Cluster {
  const spec = typeof input.device === 'string' ? findDevice(input.device) : input.device
  const device: DeviceSpec = {
    ...spec,
    memoryBandwidth: input.memoryBandwidth ?? spec.memoryBandwidth,
    memoryBytes: input.memoryBytes ?? spec.memoryBytes,
  }
  const { devices } = input
  if (!Number.isSafeInteger(devices) || devices < 1) {
    throw new ConfigError(`plan layout: devices must be a whole number of at least 1, got ${devices}`)
  }
  const devicesPerNode = input.devicesPerNode ?? device.devicesPerNode ?? 1
  const linkBandwidth = input.linkBandwidth ?? device.linkBandwidth ?? 0
  const networkBandwidth = input.networkBandwidth ?? device.networkBandwidth ?? 0
  if (devices > devicesPerNode && devices % devicesPerNode !== 0) {
    const whole = Math.max(1, Math.round(devices / devicesPerNode)) * devicesPerNode
    throw new ConfigError(
      `plan layout: ${devices} devices do not fill nodes of ${devicesPerNode}: take ${whole}, or another --devices-per-node`,
    )
  }
  if (devices > devicesPerNode && networkBandwidth <= 0) {
    throw new ConfigError(
      `plan layout: ${device.name} has no usual network between nodes of ${devicesPerNode}: give --network-bandwidth in GB/s for each device, or more --devices-per-node`,
    )
  }
  if (devices > 1 && devicesPerNode > 1 && linkBandwidth <= 0) {
    throw new ConfigError(`plan layout: ${device.name} has no links inside a node: give --link-bandwidth in GB/s`)
  }
  const { multiprocessors, constants, isCompared } = chipOf(device)
  return {
    device,
    devices,
    devicesPerNode,
    linkBandwidth,
    networkBandwidth,
    multiprocessors,
    powerShare: input.powerShare ?? 1,
    constants: { ...constants, ...input.constants },
    isCompared,
  }
}

/** Share of the design power that memory and leakage take at any clock. */
const STATIC_POWER = 0.28

/** Clock of products at a share of the design power: what is left of it grows with clock times voltage squared. */
export function clockShare(powerShare: number): number {
  return powerShare >= 1 ? 1 : Math.cbrt(Math.max(0.05, powerShare - STATIC_POWER) / (1 - STATIC_POWER))
}
