// The table of devices, from their makers' data sheets. Data sheets like to print peaks with structured sparsity: rows hold
// the dense ones, `isSparse` doubles them. What was checked where is in docs/planning.md.
import type { DeviceSpec, PeakTable } from './devices.ts'

const T = 1e12
const GB = 1e9
const GiB = 2 ** 30

/** 2:4 sparsity doubles every tensor-core format; fp32 and fp64 have none. */
function doubled(peak: PeakTable): PeakTable {
  const formats = Object.entries(peak).filter(([format]) => format !== 'fp32' && format !== 'fp64')
  return Object.fromEntries(formats.map(([format, flops]) => [format, 2 * flops]))
}

type Row = Omit<DeviceSpec, 'sparsePeakFlops' | 'aliases'> & { aliases?: readonly string[]; isSparse?: boolean }

/** @param row.isSparse  whether it has units for 2:4 sparsity, default false */
function device({ isSparse = false, aliases = [], ...row }: Row): DeviceSpec {
  return { ...row, aliases, sparsePeakFlops: isSparse ? doubled(row.peakFlops) : {} }
}

const V100_PEAK = { fp64: 7.8 * T, fp32: 15.7 * T, fp16: 125 * T }
const A100_PEAK = { fp64: 19.5 * T, fp32: 19.5 * T, tf32: 156 * T, bf16: 312 * T, fp16: 312 * T, int8: 624 * T }
const H100_PEAK = {
  fp64: 67 * T,
  fp32: 67 * T,
  tf32: 494.7 * T,
  bf16: 989.4 * T,
  fp16: 989.4 * T,
  fp8: 1978.9 * T,
  int8: 1978.9 * T,
}
const NVLINK_3 = { linkBandwidth: 300 * GB, devicesPerNode: 8, networkBandwidth: 25 * GB }
const NVLINK_4 = { linkBandwidth: 450 * GB, devicesPerNode: 8, networkBandwidth: 50 * GB }

const NVIDIA: readonly DeviceSpec[] = [
  device({
    name: 'H100 SXM',
    aliases: ['H100', 'H100 80GB HBM3', 'H100 SXM5'],
    peakFlops: H100_PEAK,
    isSparse: true,
    memoryBytes: 80 * GiB,
    memoryBandwidth: 3350 * GB,
    ...NVLINK_4,
    watts: 700,
    source: 'NVIDIA H100 data sheet (its tensor-core figures are sparse: halved here); DGX H100 for the network',
  }),
  device({
    name: 'H100 NVL',
    peakFlops: {
      fp64: 60 * T,
      fp32: 60 * T,
      tf32: 417.5 * T,
      bf16: 835.5 * T,
      fp16: 835.5 * T,
      fp8: 1670.5 * T,
      int8: 1670.5 * T,
    },
    isSparse: true,
    memoryBytes: 94 * GiB,
    memoryBandwidth: 3900 * GB,
    linkBandwidth: 300 * GB,
    devicesPerNode: 2,
    watts: 400,
    source: 'NVIDIA H100 data sheet (its tensor-core figures are sparse: halved here)',
  }),
  device({
    name: 'H100 PCIe',
    peakFlops: {
      fp64: 51 * T,
      fp32: 51 * T,
      tf32: 378 * T,
      bf16: 756.5 * T,
      fp16: 756.5 * T,
      fp8: 1513 * T,
      int8: 1513 * T,
    },
    isSparse: true,
    memoryBytes: 80 * GiB,
    memoryBandwidth: 2000 * GB,
    linkBandwidth: 300 * GB,
    devicesPerNode: 2,
    watts: 350,
    source: 'NVIDIA H100 PCIe product brief PB-11133 and H100 architecture white paper',
  }),
  device({
    name: 'H200',
    aliases: ['H200 SXM'],
    peakFlops: H100_PEAK,
    isSparse: true,
    memoryBytes: 141 * GiB,
    memoryBandwidth: 4800 * GB,
    ...NVLINK_4,
    watts: 700,
    source: 'NVIDIA H200 data sheet (its tensor-core figures are sparse: halved here)',
  }),
  device({
    name: 'B200',
    aliases: ['B200 SXM'],
    peakFlops: {
      fp64: 37 * T,
      fp32: 75 * T,
      tf32: 1100 * T,
      bf16: 2250 * T,
      fp16: 2250 * T,
      fp8: 4500 * T,
      int8: 4500 * T,
      fp4: 9000 * T,
    },
    isSparse: true,
    memoryBytes: 180 * GiB,
    memoryBandwidth: 7700 * GB,
    linkBandwidth: 900 * GB,
    devicesPerNode: 8,
    networkBandwidth: 50 * GB,
    watts: 1000,
    source:
      'NVIDIA Blackwell data sheet, one device of HGX B200 (its tensor-core figures are sparse: halved here); DGX B200 for the network',
  }),
  device({
    name: 'A100 80GB',
    aliases: ['A100', 'A100 SXM', 'A100 SXM 80GB', 'A100 80GB SXM'],
    peakFlops: A100_PEAK,
    isSparse: true,
    memoryBytes: 80 * GiB,
    memoryBandwidth: 2039 * GB,
    ...NVLINK_3,
    watts: 400,
    source: 'NVIDIA A100 data sheet; DGX A100 for the network',
  }),
  device({
    name: 'A100 40GB',
    aliases: ['A100 SXM 40GB', 'A100 40GB SXM'],
    peakFlops: A100_PEAK,
    isSparse: true,
    memoryBytes: 40 * GiB,
    memoryBandwidth: 1555 * GB,
    ...NVLINK_3,
    watts: 400,
    source: 'NVIDIA A100 data sheet; DGX A100 for the network',
  }),
  device({
    name: 'A100 PCIe',
    aliases: ['A100 PCIe 80GB', 'A100 80GB PCIe'],
    peakFlops: A100_PEAK,
    isSparse: true,
    memoryBytes: 80 * GiB,
    memoryBandwidth: 1935 * GB,
    linkBandwidth: 300 * GB,
    devicesPerNode: 2,
    watts: 300,
    source: 'NVIDIA A100 data sheet',
  }),
  device({
    name: 'V100 32GB',
    aliases: ['V100', 'V100 SXM2', 'V100 SXM3'],
    peakFlops: V100_PEAK,
    memoryBytes: 32 * GiB,
    memoryBandwidth: 900 * GB,
    linkBandwidth: 150 * GB,
    devicesPerNode: 8,
    networkBandwidth: 6.25 * GB,
    watts: 300,
    source: 'NVIDIA V100 data sheet; DGX-1 (four 100 Gb/s adapters for eight devices) for the network',
  }),
  device({
    name: 'V100 16GB',
    peakFlops: V100_PEAK,
    memoryBytes: 16 * GiB,
    memoryBandwidth: 900 * GB,
    linkBandwidth: 150 * GB,
    devicesPerNode: 8,
    networkBandwidth: 6.25 * GB,
    watts: 300,
    source: 'NVIDIA V100 data sheet',
  }),
  device({
    name: 'L4',
    peakFlops: {
      fp32: 30.3 * T,
      tf32: 60 * T,
      bf16: 121 * T,
      fp16: 121 * T,
      fp8: 242.5 * T,
      int8: 242.5 * T,
    },
    isSparse: true,
    memoryBytes: 24 * GiB,
    memoryBandwidth: 300 * GB,
    linkBandwidth: 32 * GB,
    watts: 72,
    source: 'NVIDIA L4 data sheet (its tensor-core figures are sparse: halved here); link: PCIe 4.0 x16',
  }),
  device({
    name: 'L40S',
    peakFlops: {
      fp32: 91.6 * T,
      tf32: 183 * T,
      bf16: 362 * T,
      fp16: 362 * T,
      fp8: 733 * T,
      int8: 733 * T,
    },
    isSparse: true,
    memoryBytes: 48 * GiB,
    memoryBandwidth: 864 * GB,
    linkBandwidth: 32 * GB,
    watts: 350,
    source: 'NVIDIA L40S data sheet; link: PCIe 4.0 x16',
  }),
  device({
    name: 'RTX 4090',
    aliases: ['4090', 'GeForce RTX 4090'],
    peakFlops: {
      fp32: 82.6 * T,
      tf32: 82.6 * T,
      bf16: 165.2 * T,
      fp16: 165.2 * T,
      fp8: 330.3 * T,
      int8: 660.6 * T,
    },
    isSparse: true,
    memoryBytes: 24 * GiB,
    memoryBandwidth: 1008 * GB,
    linkBandwidth: 32 * GB,
    watts: 450,
    source: 'NVIDIA Ada GPU architecture white paper, appendix A (sums in fp32); link: PCIe 4.0 x16',
  }),
  device({
    name: 'RTX 5090',
    aliases: ['5090', 'GeForce RTX 5090'],
    peakFlops: {
      fp32: 104.8 * T,
      tf32: 104.8 * T,
      bf16: 209.5 * T,
      fp16: 209.5 * T,
      fp8: 419 * T,
      int8: 838 * T,
      fp4: 1676 * T,
    },
    isSparse: true,
    memoryBytes: 32 * GiB,
    memoryBandwidth: 1792 * GB,
    linkBandwidth: 64 * GB,
    watts: 575,
    source: 'NVIDIA RTX Blackwell GPU architecture white paper, appendix A (sums in fp32); link: PCIe 5.0 x16',
  }),
]

const OTHERS: readonly DeviceSpec[] = [
  device({
    name: 'MI300X',
    peakFlops: {
      fp64: 163.4 * T,
      fp32: 163.4 * T,
      tf32: 653.7 * T,
      bf16: 1307.4 * T,
      fp16: 1307.4 * T,
      fp8: 2614.9 * T,
      int8: 2614.9 * T,
    },
    isSparse: true,
    memoryBytes: 192 * GiB,
    memoryBandwidth: 5300 * GB,
    linkBandwidth: 448 * GB,
    devicesPerNode: 8,
    networkBandwidth: 50 * GB,
    watts: 750,
    source: 'AMD Instinct MI300X data sheet; link: seven of 64 GB/s in one direction; network: 400 Gb/s a device',
  }),
  device({
    name: 'TPU v3',
    peakFlops: { bf16: 123 * T },
    memoryBytes: 32 * GiB,
    memoryBandwidth: 900 * GB,
    linkBandwidth: 280 * GB,
    devicesPerNode: 1024,
    watts: 262,
    source:
      'Google Cloud, TPU v3 (a chip of two cores); four links of 70 GB/s and most power: arXiv:2304.01433, table 4',
  }),
  device({
    name: 'TPU v4',
    peakFlops: { bf16: 275 * T, int8: 275 * T },
    memoryBytes: 32 * GiB,
    memoryBandwidth: 1200 * GB,
    linkBandwidth: 300 * GB,
    devicesPerNode: 4096,
    watts: 192,
    source: 'Jouppi et al. 2023 (arXiv:2304.01433) table 4: most power measured, six links of 50 GB/s',
  }),
  device({
    name: 'TPU v5e',
    aliases: ['TPU v5 lite'],
    peakFlops: { bf16: 197 * T, int8: 393 * T },
    memoryBytes: 16 * GiB,
    memoryBandwidth: 819 * GB,
    linkBandwidth: 200 * GB,
    devicesPerNode: 256,
    networkBandwidth: 3.125 * GB,
    source:
      'Google Cloud, TPU v5e: 400 GB/s of interconnect in both directions together, 6.4 Tb/s of network for 256 chips',
  }),
  device({
    name: 'TPU v5p',
    peakFlops: { bf16: 459 * T, int8: 918 * T },
    memoryBytes: 95 * GiB,
    memoryBandwidth: 2765 * GB,
    linkBandwidth: 600 * GB,
    devicesPerNode: 8960,
    networkBandwidth: 6.25 * GB,
    source: 'Google Cloud, TPU v5p: 1200 GB/s of interconnect in both directions together, 50 Gb/s of network a chip',
  }),
  device({
    name: 'TPU v6e',
    aliases: ['Trillium'],
    peakFlops: { bf16: 918 * T, int8: 1836 * T },
    memoryBytes: 32 * GiB,
    memoryBandwidth: 1638 * GB,
    linkBandwidth: 400 * GB,
    devicesPerNode: 256,
    source: 'Google Cloud, TPU v6e: 800 GB/s of interconnect in both directions together',
  }),
  apple('M1', 2.6, 16, 68.25, "Apple's presentation of the M1"),
  apple('M1 Max', 10.4, 64, 400, "Apple's presentation of the M1 Max"),
  apple('M1 Ultra', 21, 128, 800, "Apple's presentation of the M1 Ultra"),
  apple('M2', 3.6, 24, 100, "Apple's presentation of the M2"),
  apple('M2 Max', 13.6, 96, 400, "Apple's presentation of the M2 Max"),
  apple('M2 Ultra', 27.2, 192, 800, "Apple's presentation of the M2 Ultra"),
  apple('M3 Max', 14.1, 128, 400, 'Apple for memory; peak: 40 cores x 128 lanes x 2 x 1.38 GHz, not published'),
]

/** The GPU of an Apple chip with the most memory it comes with. It multiplies fp16 no faster than fp32. */
function apple(chip: string, teraflops: number, memory: number, bandwidth: number, source: string): DeviceSpec {
  return device({
    name: `Apple ${chip}`,
    aliases: [chip],
    peakFlops: { fp32: teraflops * T, fp16: teraflops * T },
    memoryBytes: memory * GiB,
    memoryBandwidth: bandwidth * GB,
    source: `${source} (its GPU alone)`,
  })
}

/** Whole devices, without slices. */
export const WHOLE_DEVICES: readonly DeviceSpec[] = [...NVIDIA, ...OTHERS]
