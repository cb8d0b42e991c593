// Options that choose where a recipe runs and in which element type, and the device that they mean. No recipe itself.
import { z } from 'zod'
import type { CpuDevice } from '../backends/cpu/device.ts'
import type { CudaDevice } from '../backends/cuda/device.ts'
import { field } from '../config/field.ts'
import { ConfigError } from '../core/errors.ts'
import { openDevice } from '../open.ts'
import { MeasuredPeak } from '../train/measured-peak.ts'
import type { MeasuredSpeed } from '../train/plan-report.ts'
import type { Numerics } from '../train/pretrain.ts'
import { measureDeviceRates } from '../train/step-time.ts'

const whole = z.number().int().min(1)

export const deviceFields = {
  device: field(
    z
      .string()
      .regex(/^(cpu|cuda(:\d+)?)$/, 'cpu, cuda or cuda:1')
      .default('cpu'),
    {
      describe: 'cpu, or an NVIDIA GPU: cuda, or cuda:1 for the second',
    },
  ),
  precision: field(z.enum(['bf16', 'f16', 'f32', 'fp8']).default('bf16'), {
    describe:
      'cuda: element type of activations and of the weights that products read; masters and sums are f32; fp8: bf16, and products of the layers in 8 bits while training',
  }),
  fp8Scaling: field(z.enum(['tensor', 'row']).default('tensor'), {
    describe: 'precision fp8: one scale a matrix, from the steps before, or one a row, from its numbers (slower)',
  }),
  attention: field(z.enum(['auto', 'own', 'mma', 'cudnn', 'simple']).default('auto'), {
    describe: 'cuda: attention kernels; auto takes the fastest, own leaves cuDNN out, mma are those of older cards',
  }),
  deterministic: field(z.boolean().default(true), {
    describe: 'cuda: the same bits in every run; without, attention backward may be faster',
  }),
  threads: field(whole.optional(), { describe: 'cpu: threads; default all', example: 2 }),
  matmulPrecision: field(z.enum(['f32', 'bf16']).default('f32'), { describe: 'cpu: products in matmul; sums are f32' }),
}

const { fp8Scaling: _, ...withoutScaling } = deviceFields

/** The same where nothing is trained: fp8 would change nothing there. */
export const inferenceDeviceFields = {
  ...withoutScaling,
  precision: field(z.enum(['bf16', 'f16', 'f32']).default('bf16'), {
    describe: 'cuda: element type of activations and weights; a model that was trained in fp8 runs in bf16',
  }),
}

export interface DeviceChoice {
  device: string
  precision: 'bf16' | 'f16' | 'f32' | 'fp8'
  /** Default tensor. */
  fp8Scaling?: 'tensor' | 'row'
  attention: 'auto' | 'own' | 'mma' | 'cudnn' | 'simple'
  deterministic: boolean
  threads?: number | undefined
  matmulPrecision: 'f32' | 'bf16'
}

type Environment = Readonly<Record<string, string | undefined>>

/** Options that say nothing to the device that was chosen, with their defaults. */
const OF_CARDS = { precision: 'bf16', fp8Scaling: 'tensor', attention: 'auto', deterministic: true } as const
const OF_CPUS = { threads: undefined, matmulPrecision: 'f32' } as const

/** @throws ConfigError for an option of the other kind of device: it would be set and do nothing */
export function refuseForeignOptions(choice: Partial<DeviceChoice> & Pick<DeviceChoice, 'device'>): void {
  const isCard = choice.device !== 'cpu'
  for (const [name, usual] of Object.entries(isCard ? OF_CPUS : OF_CARDS)) {
    const value = choice[name as keyof DeviceChoice]
    if (value === undefined || value === usual) continue
    const [own, advice] = isCard
      ? ['cpu', 'leave it out']
      : ['cuda', name === 'precision' ? 'leave it out; matmulPrecision is its like there' : 'leave it out']
    throw new ConfigError(`${name}: ${value} is for --device ${own}, got it with --device ${choice.device}: ${advice}`)
  }
  if (choice.fp8Scaling === 'row' && choice.precision !== 'fp8') {
    throw new ConfigError(
      `fp8Scaling: row is for --precision fp8, got it with ${choice.precision}: leave it out, or set precision`,
    )
  }
}

/** @throws DeviceError when it cannot be opened, ConfigError for a name that is none or an option of another device */
export async function openChosenDevice(choice: DeviceChoice, env?: Environment): Promise<CpuDevice | CudaDevice> {
  refuseForeignOptions(choice)
  const { device, precision, fp8Scaling = 'tensor', attention, deterministic, threads, matmulPrecision } = choice
  if (device === 'cpu') {
    return await openDevice('cpu', { matmulPrecision, ...(threads !== undefined && { threads }) }, env)
  }
  if (!/^cuda(:\d+)?$/.test(device)) {
    throw new ConfigError(`device: must be cpu, cuda or cuda:1 ..., got ${device}`)
  }
  const name = device as 'cuda' | `cuda:${number}`
  return await openDevice(name, { precision, fp8Scaling, attention, isDeterministic: deterministic }, env)
}

/** What decides the bits of a run on this device. */
export function numericsOf(device: CpuDevice | CudaDevice): Numerics {
  if ('isa' in device) {
    const { name, isa, matmulPrecision, threads } = device
    return { device: name, isa, matmulPrecision, threads }
  }
  const { precision, fp8, fingerprint } = device
  return { device: 'cuda', precision, ...(fp8 && { fp8Scaling: fp8.scaling }), fingerprint }
}

/** What a plan's estimate of time goes by. */
export function measuredSpeedOf(device: CpuDevice | CudaDevice, { flops: peakFlops }: MeasuredPeak): MeasuredSpeed {
  // Products in fp8 are not among what is measured.
  if ('runtime' in device && device.fp8 !== undefined) return { peakFlops }
  return { peakFlops, rates: measureDeviceRates(device) }
}

/** The speed that percentages refer to, measured here and now. */
export function measuredPeakOf(device: CpuDevice | CudaDevice): MeasuredPeak {
  if ('isa' in device) {
    return new MeasuredPeak({
      what: 'f32 peak',
      // bf16 products are faster than the peak's f32 multiply-adds.
      isRoof: device.matmulPrecision === 'f32',
      measure: () => device.measurePeakFlops().f32,
    })
  }
  const { floatDtype, fp8 } = device
  return new MeasuredPeak({
    what: `${floatDtype} matmul rate`,
    // Products in fp8 are faster.
    isRoof: fp8 === undefined,
    measure: () => device.measureMatmulFlops(),
  })
}
