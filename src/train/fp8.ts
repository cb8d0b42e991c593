// Training with products in fp8: which weights of a model have an fp8 form, the scales of their products, and what is
// done to both once a step. Head and embedding, which belong to no layer, stay as they are.
import { standaloneTensor, tensorFrom } from '../core/allocator.ts'
import { unitOf } from '../core/arena.ts'
import type { Device } from '../core/device.ts'
import { CheckpointError, ConfigError } from '../core/errors.ts'
import {
  FP8_HISTORY,
  FP8_LARGEST,
  FP8_MULTIPLE,
  FP8_SLOT_STRIDE,
  type Fp8Saved,
  type Fp8ScaleState,
  type Fp8Slot,
  type Fp8Weight,
} from '../core/fp8.ts'
import type { Parameter } from '../core/parameter.ts'
import { parameters } from '../nn/module.ts'
import { primed } from '../ops/fp8.ts'

const FILL = new Array<number>(FP8_SLOT_STRIDE - 1).fill(0)
const KINDS = ['weight', 'input', 'gradient'] as const

export class Fp8Training {
  readonly #device: Device
  readonly #weights: readonly (readonly [Parameter, Fp8Weight])[]
  readonly #state: Fp8ScaleState | undefined

  private constructor(device: Device, chosen: readonly Parameter[]) {
    this.#device = device
    const state = device.fp8!.scaling === 'tensor' ? makeState(device, KINDS.length * chosen.length) : undefined
    this.#state = state
    this.#weights = chosen.map((parameter, i) => {
      const slots = state && {
        weight: slotOf(state, KINDS.length * i),
        input: slotOf(state, KINDS.length * i + 1),
        gradient: slotOf(state, KINDS.length * i + 2),
      }
      const [rows, columns] = parameter.shape as [number, number]
      const scales = (count: number) => slots?.weight.inverse ?? standaloneTensor(device, [count], 'f32')
      const fp8: Fp8Weight = {
        slots,
        matrix: {
          format: 'e4m3',
          rows: standaloneTensor(device, [rows, columns], 'u8'),
          columns: standaloneTensor(device, [columns, rows], 'u8'),
          rowScale: scales(rows),
          columnScale: scales(columns),
        },
        isStale: true,
      }
      parameter.fp8Form = fp8
      return [parameter, fp8] as const
    })
  }

  /**
   * Gives the matrices of a model's layers that gain from it their fp8 form, in memory of `device`.
   * @param model  materialised
   * @returns undefined where the device was not asked for fp8
   */
  static of(model: object, device: Device): Fp8Training | undefined {
    const chosen = chosenWeights(model, device)
    return chosen.length === 0 ? undefined : new Fp8Training(device, chosen)
  }

  /** Bytes of the weights in fp8. */
  get weightBytes(): number {
    return this.#weights.reduce(
      (sum, [, { matrix }]) => sum + matrix.rows.storage.bytes + matrix.columns.storage.bytes,
      0,
    )
  }

  get weightCount(): number {
    return this.#weights.length
  }

  /** Casts the weights that were changed by something else than an update. Before a step, outside of recordings. */
  refresh(): void {
    for (const [parameter, fp8] of this.#weights) {
      if (!fp8.isStale) continue
      primed(this.#device.fp8!, fp8.slots?.weight, 'e4m3', () => this.#cast(parameter, fp8))
      this.#cast(parameter, fp8)
      fp8.isStale = false
    }
  }

  /** After the optimizer's update: new scales from what was seen in this step, and the new weights in fp8. */
  update(): void {
    if (this.#state !== undefined) this.#device.fp8!.updateScales(this.#state)
    for (const [parameter, fp8] of this.#weights) this.#cast(parameter, fp8)
  }

  #cast(parameter: Parameter, { matrix, slots }: Fp8Weight): void {
    this.#device.fp8!.cast(matrix, parameter, slots?.weight, {})
  }

  /** Undefined where there is nothing to keep: scales are made anew by rows, or no step has made any yet. */
  async saved(): Promise<Fp8Saved | undefined> {
    if (this.#state === undefined || !this.#weights.some(([, { slots }]) => slots!.input.isPrimed)) return undefined
    const [scales, history] = await Promise.all([
      this.#device.read(this.#state.scale),
      this.#device.read(this.#state.history),
    ])
    const scale = Array.from(scales).filter((_, i) => i % FP8_SLOT_STRIDE === 0)
    return { weights: this.#names(), scale, history: Array.from(history) }
  }

  /** @throws CheckpointError unless it is of the same weights */
  restore({ weights, scale, history }: Fp8Saved): void {
    const state = this.#state
    if (state === undefined) return
    const slots = KINDS.length * this.#weights.length
    const isSame = weights.join() === this.#names().join()
    if (!isSame || scale.length !== slots || history.length !== slots * FP8_HISTORY) {
      throw new CheckpointError(
        `the checkpoint's fp8 scales are of ${weights.length} other weights than the ${this.#weights.length} of this model; resume with the precision and the model of the run`,
      )
    }
    const strided = (values: readonly number[]) => values.flatMap((value) => [value, ...FILL])
    this.#device.write(state.scale, strided(scale))
    this.#device.write(state.inverse, strided(scale.map((x) => 1 / x)))
    this.#device.write(state.history, history)
    // The weights' own largest numbers are noted again when they are cast.
    this.#device.kernels.fill(state.amax, 0)
    for (const [, fp8] of this.#weights) {
      fp8.isStale = true
      for (const kind of KINDS) fp8.slots![kind].isPrimed = true
    }
  }

  #names(): string[] {
    return this.#weights.map(([parameter]) => parameter.partNames().join('+'))
  }
}

/** The matrices of a model's layers whose products are made in fp8 on this device. */
function chosenWeights(model: object, { fp8 }: Pick<Device, 'fp8'>): Parameter[] {
  if (fp8 === undefined) return []
  return parameters(model).filter(({ path, shape }) => {
    if (unitOf(path) === 'shared' || shape.length !== 2) return false
    const [rows, columns] = shape as [number, number]
    return rows % FP8_MULTIPLE === 0 && columns % FP8_MULTIPLE === 0 && fp8.gains(rows, columns)
  })
}

/**
 * @param model  shapes suffice
 * @param rows   tokens of a micro-batch
 * @throws ConfigError where a device was asked for fp8 and no product of this training would be made so
 */
export function expectFp8Used(model: object, device: Pick<Device, 'fp8'>, rows: number): void {
  if (device.fp8 === undefined) return
  if (rows % FP8_MULTIPLE !== 0) {
    throw new ConfigError(
      `pretrain: with precision fp8 microBatchSize x seqLen must be a multiple of ${FP8_MULTIPLE}, got ${rows}: try ${Math.ceil(rows / FP8_MULTIPLE) * FP8_MULTIPLE}, or use --precision bf16`,
    )
  }
  if (chosenWeights(model, device).length === 0) {
    throw new ConfigError(
      `pretrain: precision fp8 needs matrices large enough to gain from it (docs/precision.md), this model has none: use --precision bf16, or a wider model`,
    )
  }
}

function makeState(device: Device, count: number): Fp8ScaleState {
  const filled = (value: number, ...shape: number[]) => {
    const tensor = standaloneTensor(device, shape, 'f32')
    device.kernels.fill(tensor, value)
    return tensor
  }
  const largest = Array.from({ length: count }, (_, i) => FP8_LARGEST[i % KINDS.length === 2 ? 'e5m2' : 'e4m3'])
  return {
    scale: filled(1, count * FP8_SLOT_STRIDE),
    inverse: filled(1, count * FP8_SLOT_STRIDE),
    amax: filled(0, count * FP8_SLOT_STRIDE),
    largest: tensorFrom(device, [count], largest, 'f32'),
    history: filled(0, count, FP8_HISTORY),
  }
}

function slotOf({ scale, inverse, amax }: Fp8ScaleState, i: number): Fp8Slot {
  const at = i * FP8_SLOT_STRIDE
  return { scale: scale.slice(at, 1), inverse: inverse.slice(at, 1), amax: amax.slice(at, 1), isPrimed: false }
}
