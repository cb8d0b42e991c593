// Whether a layout fits: its memory on the fullest device, by the closed forms of src/plan/memory.ts.
import type { Architecture } from '../architecture.ts'
import { type DeviceMemory, deviceMemory, type MemorySetup, stageMemory } from '../memory.ts'
import type { OptimizerName, PrecisionName } from '../precision.ts'
import { type Layout, microBatches } from './layout.ts'
import type { Cluster } from './machine.ts'
import type { Software } from './software.ts'

/** Part of a device's memory for its driver, communication buffers and what allocators cannot fill. */
const RESERVED_SHARE = 0.06

export interface Formats {
  readonly precision: PrecisionName
  readonly optimizer: OptimizerName
}

export const DEFAULT_FORMATS: Formats = { precision: 'bf16-fp32-gradients', optimizer: 'adamw' }

export function layoutMemory(
  model: Architecture,
  layout: Layout,
  software: Software,
  { precision, optimizer }: Formats = DEFAULT_FORMATS,
): DeviceMemory {
  const setup: MemorySetup = {
    precision,
    optimizer,
    microBatchSize: layout.microBatchSize,
    microBatches: microBatches(layout),
    seqLen: layout.seqLen,
    recompute: layout.recompute,
    attention: software.attention === 'materialized' ? 'unfused' : 'flash',
    hasDropout: software.hasDropout,
    parallelism: {
      data: layout.dataParallel,
      tensor: layout.tensorParallel,
      pipeline: layout.pipelineParallel,
      expert: layout.expertParallel,
      context: layout.contextParallel,
      zeroStage: layout.zeroStage,
      sequence: software.hasSequenceParallel && layout.tensorParallel > 1,
      // First and last chunks may be without layers: their rank holds no less for it.
      virtualStages: Math.min(layout.chunks, Math.max(1, Math.floor(model.numHiddenLayers / layout.pipelineParallel))),
    },
  }
  return layout.schedule === 'gpipe' && layout.pipelineParallel > 1
    ? gpipeMemory(model, setup)
    : deviceMemory(model, setup)
}

/** The closed form holds micro-batches as 1F1B does, as many as there are stages from this one on; GPipe holds them all. */
function gpipeMemory(model: Architecture, setup: MemorySetup): DeviceMemory {
  const { pipeline } = setup.parallelism
  const first = (microBatches: number): number => stageMemory(model, { ...setup, microBatches }, 0).activations
  const perMicroBatch = first(2) - first(1)
  const [one, other] = [0, pipeline - 1].map((stage): DeviceMemory => {
    const memory = stageMemory(model, setup, stage)
    const more = (setup.microBatches - Math.min(pipeline - stage, setup.microBatches)) * perMicroBatch
    return { ...memory, activations: memory.activations + more, total: memory.total + more }
  })
  return one!.total >= other!.total ? one! : other!
}

export function memoryLimit(on: Cluster): number {
  return on.device.memoryBytes * (1 - RESERVED_SHARE)
}
