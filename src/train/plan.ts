// The dry run: the real model and micro-batch on the meta device. Gives the memory plan that the device then follows,
// exact FLOPs and bytes, and the memory of parameters, gradients and optimizer states.
import type { MemoryPlan } from '../core/allocator.ts'
import { allocateGradients } from '../core/arena.ts'
import type { Device } from '../core/device.ts'
import { Tape } from '../core/tape.ts'
import { MemoryTrace, MetaDevice } from '../backends/meta/meta-device.ts'
import type { DecoderModel } from '../models/decoder.ts'
import { materialize, parameterCount } from '../nn/module.ts'
import { Optimizer, type UpdateRule } from '../optim/optimizer.ts'
import { BatchTensors, type MicroStepOptions, microStep } from './step.ts'

export interface StepPlan {
  readonly memory: MemoryPlan
  readonly parameterCount: number
  readonly parameterBytes: number
  readonly gradientBytes: number
  readonly optimizerBytes: number
  /** Of one micro-batch, forward and backward, recomputation included. */
  readonly flops: number
  /** Bytes that the ops of one micro-batch read and write at least. */
  readonly bytes: number
}

/**
 * Plans one micro-batch of a model.
 * @param model   a fresh model (shapes only): it is bound to the meta device and must not be used afterwards
 * @param target  the device that will run it, for its dtypes and widths
 */
export function planStep(
  model: DecoderModel,
  target: Pick<Device, 'floatDtype' | 'itemBytes'>,
  shape: { microBatchSize: number; seqLen: number },
  rule: UpdateRule,
  options: MicroStepOptions,
): StepPlan {
  const meta = new MetaDevice(target)
  const arenas = materialize(model, meta)
  const parameterBytes = arenas.reduce((sum, arena) => sum + arena.weights.storage.bytes, 0)
  allocateGradients(arenas)
  const gradientBytes = arenas.reduce((sum, arena) => sum + (arena.gradients?.storage.bytes ?? 0), 0)
  const optimizer = new Optimizer(arenas, rule)
  const batch = new BatchTensors(meta, shape.microBatchSize, shape.seqLen)
  const trace = new MemoryTrace()
  let flops = 0
  let bytes = 0
  meta.trace = trace
  {
    using tape = new Tape(meta, {
      allocator: trace,
      recompute: options.recompute,
      onOp: ({ op, inputs, attributes }, phase) => {
        const cost = op.cost(inputs, attributes)[phase]
        flops += cost.flops
        bytes += cost.bytes
      },
    })
    microStep(model, batch, optimizer.scalars, tape, options, true)
  }
  meta.trace = undefined
  return {
    memory: trace.plan(),
    parameterCount: parameterCount(model),
    parameterBytes,
    gradientBytes,
    optimizerBytes: optimizer.stateBytes,
    flops,
    bytes,
  }
}
