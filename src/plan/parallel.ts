// How a model is cut over devices, and which cuts are possible: each impossible one is refused with what would work.
import { ConfigError } from '../core/errors.ts'
import type { Architecture } from './architecture.ts'

export interface Parallelism {
  /** Copies of the model that take different data. */
  readonly data: number
  /** Devices that share each matrix. */
  readonly tensor: number
  /** Stages of layers. */
  readonly pipeline: number
  /** Devices that share the experts of a layer: they are taken from data and context. */
  readonly expert: number
  /** Devices that share a sequence. */
  readonly context: number
  /** 0: everything on each device; 1: optimizer states cut over data and context; 2: gradients too; 3: weights too. */
  readonly zeroStage: 0 | 1 | 2 | 3
  /** Whether what tensor parallelism leaves whole (norms, dropout) is cut along the sequence (arXiv:2205.05198). */
  readonly sequence: boolean
  /** Pieces of layers on each stage, taken in turns (interleaved schedule); 1 for none. */
  readonly virtualStages: number
}

export const ONE_DEVICE: Parallelism = {
  data: 1,
  tensor: 1,
  pipeline: 1,
  expert: 1,
  context: 1,
  zeroStage: 0,
  sequence: false,
  virtualStages: 1,
}

/** Devices that the cuts take together. */
export function deviceCount({ data, tensor, pipeline, context }: Parallelism): number {
  return data * tensor * pipeline * context
}

/** @throws ConfigError that says what would work */
export function checkParallelism(model: Architecture, seqLen: number, cuts: Parallelism): void {
  const { tensor, pipeline, expert, context, data, virtualStages } = cuts
  for (const [name, value] of Object.entries({ data, tensor, pipeline, expert, context, virtualStages })) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new ConfigError(`plan: ${name} parallelism must be a whole number of at least 1, got ${value}`)
    }
  }
  const { numAttentionHeads: heads, numHiddenLayers: layers, experts } = model
  if (heads % tensor !== 0) refuse('tensor parallelism', tensor, `divide the ${heads} attention heads`, divisors(heads))
  if (pipeline * virtualStages > layers) {
    throw new ConfigError(
      `plan: pipeline parallelism ${pipeline} with ${virtualStages} pieces a stage needs as many layers, got ${layers}; at most ${layers} work`,
    )
  }
  if (cuts.sequence && tensor === 1) {
    throw new ConfigError(
      'plan: sequence cuts along the sequence what tensor parallelism leaves whole, of which there is none: set tensor to 2 or more, or leave sequence out',
    )
  }
  if (virtualStages > 1 && pipeline === 1) {
    throw new ConfigError(
      `plan: virtualStages cuts the stages of a pipeline, of which there is one: set pipeline to 2 or more, or leave it out`,
    )
  }
  if (seqLen % context !== 0)
    refuse('context parallelism', context, `divide the sequence of ${seqLen}`, divisors(seqLen))
  if (expert === 1) return
  if (experts === undefined) {
    throw new ConfigError(`plan: ${model.name} has no experts: expert parallelism must be 1, got ${expert}`)
  }
  if (experts.count % expert !== 0) {
    refuse('expert parallelism', expert, `divide the ${experts.count} experts`, divisors(experts.count))
  }
  if ((data * context) % expert !== 0) {
    refuse('expert parallelism', expert, `divide data x context = ${data * context}`, divisors(data * context))
  }
}

const SHOWN = 8

function refuse(what: string, got: number, must: string, works: readonly number[]): never {
  const near = [...works].sort((a, b) => Math.abs(a - got) - Math.abs(b - got)).slice(0, SHOWN)
  throw new ConfigError(`plan: ${what} must ${must}, got ${got}; ${near.sort((a, b) => a - b).join(', ')} work`)
}

/** Rising. */
export function divisors(count: number): number[] {
  const small: number[] = []
  for (let value = 1; value * value <= count; value++) if (count % value === 0) small.push(value)
  const large = small.map((value) => count / value).filter((value) => value * value !== count)
  return [...small, ...large.reverse()]
}
