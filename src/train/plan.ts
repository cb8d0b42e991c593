// The dry run: the real model and micro-batch on the meta device. Gives the memory plan that the device then follows,
// exact FLOPs and bytes, and the memory of parameters, gradients and optimizer states.
import type { MemoryPlan } from '../core/allocator.ts'
import { gradientStorages, type ParameterArena } from '../core/arena.ts'
import { type DryRunDevice, MemoryTrace } from '../core/memory-trace.ts'
import { Tape, type TapeOptions } from '../core/tape.ts'
import type { DecoderModel } from '../models/decoder.ts'
import { materialize, parameterCount } from '../nn/module.ts'
import { Optimizer, type UpdateRule } from '../optim/optimizer.ts'
import { Fp8Training } from './fp8.ts'
import { BatchTensors, evalStep, type MicroStepOptions, microStep } from './step.ts'

/** What one traced program costs. */
export interface ProgramPlan {
  readonly memory: MemoryPlan
  readonly flops: number
  /** Bytes that its ops read and write at least. */
  readonly bytes: number
  /** The same op by op, in their order. */
  readonly ops: readonly OpWork[]
}

/** What one call of an op, forward or a half of its backward, computes and moves. */
export interface OpWork {
  /** `linear`, as the op calls itself. */
  readonly op: string
  readonly flops: number
  readonly bytes: number
}

export interface StepPlan {
  /** One micro-batch, forward and backward, recomputation included. */
  readonly train: ProgramPlan
  /** The forward alone, for evaluation. */
  readonly evaluate: ProgramPlan
  readonly parameterCount: number
  /** Masters, and the copies that ops read where these are narrower, in fp8 too. */
  readonly parameterBytes: number
  /** The masters alone. */
  readonly masterBytes: number
  readonly gradientBytes: number
  /** The part of gradientBytes that lies in the memory of the micro-batch. */
  readonly sharedGradientBytes: number
  readonly optimizerBytes: number
  /** Inputs, tables such as RoPE's, and what an update needs for a while. */
  readonly otherBytes: number
  /** FLOPs of products of one update (Muon's), which are not among those of the micro-batch. */
  readonly updateFlops: number
}

/**
 * Traces `program`, which must make its tensors inside the tape it is given.
 * @param keeps  arenas whose gradients it makes in its own memory, for the update after it
 */
export function planProgram(
  meta: DryRunDevice,
  options: Pick<TapeOptions, 'recompute' | 'recomputeBlocks' | 'record'>,
  program: (tape: Tape) => void,
  keeps: readonly ParameterArena[] = [],
): ProgramPlan {
  const trace = new MemoryTrace()
  for (const arena of keeps) {
    const storages = gradientStorages(arena).map(({ storage }) => storage)
    trace.keep(storages, storages[0]!.bytes)
  }
  const ops: OpWork[] = []
  meta.trace = trace
  try {
    using tape = new Tape(meta, {
      ...options,
      allocator: trace,
      onOp: ({ op, inputs, attributes }, phase) => {
        const { flops, bytes } = op.cost(inputs, attributes)[phase]
        ops.push({ op: op.id, flops, bytes })
      },
    })
    program(tape)
  } finally {
    meta.trace = undefined
  }
  const total = (of: 'flops' | 'bytes'): number => ops.reduce((sum, op) => sum + op[of], 0)
  return { memory: trace.plan(), flops: total('flops'), bytes: total('bytes'), ops }
}

/**
 * Plans the training of a model.
 * @param model  a fresh model (shapes only): it is bound to the meta device and must not be used afterwards
 * @param meta   from `openMeta(device)`
 */
export function planStep(
  model: DecoderModel,
  meta: DryRunDevice & { readonly allocatedBytes: number },
  shape: { microBatchSize: number; seqLen: number },
  rule: UpdateRule,
  options: MicroStepOptions,
): StepPlan {
  const before = meta.allocatedBytes
  const arenas = materialize(model, meta)
  const fp8 = Fp8Training.of(model, meta)
  const optimizer = new Optimizer(arenas, rule, undefined, options.isWholeStep)
  const shared = optimizer.sharedArenas
  const batch = new BatchTensors(meta, shape.microBatchSize, shape.seqLen)
  const { scalars } = optimizer
  // For the memory that it asks for outside the arena; the numbers mean nothing here.
  optimizer.step({ lr: 0, step: 1, gradClip: 1 })
  // Gradients count as empty again, as they are when a step's first micro-batch runs.
  optimizer.begin(1)
  const masterBytes = arenas.reduce((sum, arena) => sum + arena.weights.storage.bytes, 0)
  const workingBytes = arenas.reduce((sum, arena) => sum + (arena.working?.storage.bytes ?? 0), 0)
  const parameterBytes = masterBytes + workingBytes + (fp8?.weightBytes ?? 0)
  const gradientBytes = arenas.reduce((sum, arena) => sum + (arena.gradients?.storage.bytes ?? 0), 0)
  const sharedGradientBytes = shared.reduce((sum, arena) => sum + arena.gradients!.storage.bytes, 0)
  const optimizerBytes = optimizer.stateBytes
  const heldBytes = parameterBytes + gradientBytes - sharedGradientBytes + optimizerBytes
  const { recompute, recomputeLayers: recomputeBlocks } = options
  const train = (tape: Tape): void => microStep(model, batch, scalars, tape, options, true)
  return {
    train: planProgram(meta, { recompute, recomputeBlocks }, train, shared),
    evaluate: planProgram(meta, { record: false }, () => evalStep(model, batch, scalars, true)),
    parameterCount: parameterCount(model),
    parameterBytes,
    masterBytes,
    gradientBytes,
    sharedGradientBytes,
    optimizerBytes,
    otherBytes: meta.allocatedBytes - before - heldBytes,
    updateFlops: rule.updateFlops?.(optimizer.arenas) ?? 0,
  }
}

/** Bytes of the block that the tensors of a micro-batch lie in, of training or evaluation. */
export function arenaBytes({ train, evaluate }: StepPlan): number {
  return Math.max(train.memory.totalBytes, evaluate.memory.totalBytes)
}

/** Bytes that training holds on the device. */
export function totalBytes(plan: StepPlan): number {
  const gradientBytes = plan.gradientBytes - plan.sharedGradientBytes
  return plan.parameterBytes + gradientBytes + plan.optimizerBytes + plan.otherBytes + arenaBytes(plan)
}
