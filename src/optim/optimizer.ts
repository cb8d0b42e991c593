// What an optimizer is: states in flat buffers beside the parameter arenas, a slicing unit, and one step that reads
// every number that changes (learning rate, bias corrections, clip factor, finite flag) from device scalars, so that
// no step waits for a read-back. Builders are in adam.ts, sgd.ts, lion.ts and muon.ts.
import { standaloneTensor, tensorFrom } from '../core/allocator.ts'
import { allocateGradients, type ParameterArena } from '../core/arena.ts'
import { type LossScaleOptions, SCALAR } from '../core/kernels.ts'
import type { Tensor } from '../core/tensor.ts'

/** State tensors of one arena, by name (`m`, `v` ...), each laid out like the arena's weights. */
export interface ArenaState {
  readonly arena: ParameterArena
  readonly states: Readonly<Record<string, Tensor>>
}

/** The rule that turns gradients into new weights; `Optimizer` adds scalars, clipping and bookkeeping. */
export interface UpdateRule {
  readonly name: string
  /** Names of the states that an arena needs. */
  stateNames(arena: ParameterArena): readonly string[]
  /** What may not be cut when states are sharded: any byte, or whole matrices. */
  readonly slicingUnit: 'element' | 'matrix'
  /** Betas for the bias corrections, where there are any. */
  readonly betas: readonly [number, number]
  /** FLOPs of products in one update; absent where it has none. */
  updateFlops?(arenas: readonly ParameterArena[]): number
  /** All arenas at once. */
  update(states: readonly ArenaState[], scalars: Tensor): void
}

/** A step's numbers as the host knows them. */
export interface StepSettings {
  /** Learning rate of this step. */
  lr: number
  /** Number of this step, from 1 (bias corrections). */
  step: number
  /** Largest global gradient norm, 0 for no clipping. */
  gradClip: number
}

/** Gradients made larger than they are, for 16-bit floats whose range ends at 6e-8. */
export interface LossScaling {
  readonly initialScale: number
  /** Absent: the scale stays (static scaling). */
  readonly dynamic?: LossScaleOptions
}

/** Norm of the gradients before clipping, whether they were finite (else nothing was updated), and the loss scaling. */
export interface StepNorm {
  readonly gradNorm: number
  readonly isFinite: boolean
  /** What the gradients of this step were multiplied by, and what those of the next will be. */
  readonly usedGradScale: number
  readonly gradScale: number
  readonly skippedSteps: number
}

export class Optimizer {
  readonly rule: UpdateRule
  readonly arenas: readonly ParameterArena[]
  readonly states: readonly ArenaState[]
  /** f64, slots named by SCALAR; shared with the loss, which reads lossScale. */
  readonly scalars: Tensor
  readonly lossScaling: LossScaling | undefined
  /** Arenas whose gradients lie in memory of the step, which binds them. */
  readonly sharedArenas: readonly ParameterArena[]
  /** As far as the device has told: `lastNorm` asks it. */
  #skippedSteps = 0
  #gradScale: number

  /**
   * Makes gradient buffers and zeroed states for every trainable arena.
   * @param isGradientMemoryShared  the memory of gradients is the step's (MicroStepOptions.isWholeStep)
   */
  constructor(
    arenas: readonly ParameterArena[],
    rule: UpdateRule,
    lossScaling?: LossScaling,
    isGradientMemoryShared = false,
  ) {
    allocateGradients(arenas, isGradientMemoryShared)
    this.sharedArenas = arenas.filter(
      ({ gradients }) => gradients !== undefined && gradients.storage.buffer === undefined,
    )
    this.rule = rule
    this.arenas = arenas.filter((arena) => arena.key.isTrainable)
    this.states = this.arenas.map((arena) => ({ arena, states: zeroStates(arena, rule.stateNames(arena)) }))
    const device = arenas[0]!.weights.device
    this.lossScaling = lossScaling
    const values = new Float64Array(SCALAR.count)
    this.#gradScale = lossScaling?.initialScale ?? 1
    values[SCALAR.gradScale] = this.#gradScale
    values[SCALAR.hysteresisLeft] = lossScaling?.dynamic?.hysteresis ?? 0
    this.scalars = tensorFrom(device, [SCALAR.count], values, 'f64')
  }

  /** Starts a step: parameter gradients count as empty, and the loss is scaled by 1 / trainedTokens. */
  begin(trainedTokens: number): void {
    for (const arena of this.arenas) for (const { parameter } of arena.segments) parameter.hasGradient = false
    this.scaleLoss(1 / trainedTokens)
  }

  /** What losses and their gradients are multiplied by from now on. */
  scaleLoss(scale: number): void {
    this.scalars.device.write(this.scalars.slice(SCALAR.lossScale, 1), [scale])
  }

  /** Clips by the global norm and updates every weight. A step with a non-finite gradient changes nothing. */
  step(settings: StepSettings): void {
    this.prepare(settings)
    this.update(settings.gradClip)
  }

  /** Tells the device the numbers of this step; `update` follows. Steps that were skipped moved no moments and correct none. */
  prepare({ lr, step }: StepSettings): void {
    const [beta1, beta2] = this.rule.betas
    const { device } = this.scalars
    const moved = Math.max(1, step - this.#skippedSteps)
    device.write(this.scalars.slice(SCALAR.lr, 3), [lr, 1 - beta1 ** moved, 1 - beta2 ** moved])
  }

  /** What `step` does on the device: kernel calls only, the same for every step. */
  update(gradClip: number): void {
    const { device } = this.scalars
    for (const arena of this.arenas) zeroMissingGradients(arena)
    const gradients = this.arenas.map((arena) => arena.gradients!)
    device.kernels.sumOfSquares(this.scalars, gradients)
    device.kernels.clipFactor(this.scalars, gradClip)
    this.rule.update(this.states, this.scalars)
    if (this.lossScaling?.dynamic !== undefined) {
      device.kernels.updateLossScale(this.scalars, this.lossScaling.dynamic)
    }
  }

  /** Scale, good steps, hysteresis and skipped steps: what a run goes on with; undefined where nothing is scaled. */
  async scalingState(): Promise<number[] | undefined> {
    if (this.lossScaling === undefined) return undefined
    return Array.from(await this.scalars.device.read(this.#scaling))
  }

  restoreScaling(values: readonly number[]): void {
    this.#gradScale = values[0]!
    this.#skippedSteps = values[SCALAR.skippedSteps - SCALAR.gradScale]!
    this.scalars.device.write(this.#scaling, values)
  }

  get #scaling(): Tensor {
    return this.scalars.slice(SCALAR.gradScale, SCALAR.count - SCALAR.gradScale)
  }

  /** What the device noted of the last step. Asked after every step, or steps that were skipped count as moved ones. */
  async lastNorm(): Promise<StepNorm> {
    const values = await this.scalars.device.read(this.scalars)
    const usedGradScale = this.#gradScale
    this.#gradScale = values[SCALAR.gradScale]!
    this.#skippedSteps = values[SCALAR.skippedSteps]!
    return {
      usedGradScale,
      gradNorm: values[SCALAR.gradNorm]!,
      isFinite: values[SCALAR.isFinite] === 1,
      gradScale: values[SCALAR.gradScale]!,
      skippedSteps: values[SCALAR.skippedSteps]!,
    }
  }

  /** Bytes of all state tensors. */
  get stateBytes(): number {
    return this.states.reduce(
      (sum, { states }) => sum + Object.values(states).reduce((s, t) => s + t.storage.bytes, 0),
      0,
    )
  }
}

function zeroStates(arena: ParameterArena, names: readonly string[]): Record<string, Tensor> {
  const { device } = arena.weights
  return Object.fromEntries(
    names.map((name) => {
      const state = standaloneTensor(device, [arena.length], device.masterDtype)
      device.kernels.fill(state, 0)
      return [name, state]
    }),
  )
}

/** A parameter that no micro-batch touched has a gradient of zero, not the last step's. */
function zeroMissingGradients(arena: ParameterArena): void {
  for (const { parameter } of arena.segments) {
    if (parameter.hasGradient || parameter.gradient === undefined) continue
    parameter.device.kernels.fill(parameter.gradient, 0)
    parameter.hasGradient = true
  }
}
