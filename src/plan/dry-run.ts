// What this program itself would need to train a model: the real model and step on the meta device, without the device it
// stands for. Exact memory of a step and FLOPs op by op, where the closed forms of memory.ts and flops.ts are estimates.
import { createModel, type HfConfig } from '../checkpoint/hf-config.ts'
import { DTYPE_BYTES } from '../core/dtype.ts'
import type { Recompute } from '../core/tape.ts'
import { DropoutStreams } from '../models/decoder.ts'
import { openMeta } from '../open.ts'
import { planStep, type StepPlan } from '../train/plan.ts'
import { type OptimizerSettings, updateRule } from '../train/settings.ts'

export interface DryRunSetup {
  readonly microBatchSize: number
  readonly seqLen: number
  readonly recompute: Recompute
  readonly optimizer: OptimizerSettings['kind']
  /** Of activations and of the weights that ops read; masters, gradients and states are f32. */
  readonly floatDtype: 'f32' | 'bf16' | 'f16'
  /** A step is one micro-batch: on a card its gradients then lie where activations lay. */
  readonly isWholeStep?: boolean
}

/** Rows of logits that exist at once, in elements: as on the CPU for f32, as on a card else. */
const LOGITS_CHUNK = { f32: 2 ** 22, bf16: 2 ** 29, f16: 2 ** 29 } as const

/** Takes milliseconds and no memory to speak of, whatever the size of the model. */
export async function dryRun(config: HfConfig, setup: DryRunSetup): Promise<StepPlan> {
  const { floatDtype, optimizer, recompute, isWholeStep = false, ...shape } = setup
  const meta = await openMeta({
    floatDtype,
    masterDtype: 'f32',
    logitsChunkElements: LOGITS_CHUNK[floatDtype],
    itemBytes: (dtype) => DTYPE_BYTES[dtype],
  })
  const rule = updateRule({ kind: optimizer, weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0.95 })
  const options = { recompute, dropout: 0, streams: new DropoutStreams(0), isWholeStep }
  return planStep(createModel(config), meta, shape, rule, options)
}
