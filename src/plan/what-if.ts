// One question of the planner, answered whole: what a model trained on so many tokens, in such a way, on such devices takes
// of compute, time and memory, and whether it is a good use of them. Pure numbers; report.ts writes them.
import type { HfConfig } from '../checkpoint/hf-config.ts'
import { ConfigError } from '../core/errors.ts'
import type { StepPlan } from '../train/plan.ts'
import { arenaBytes, totalBytes } from '../train/plan.ts'
import { type Architecture, countParameters, type ParameterCounts } from './architecture.ts'
import { type DeviceSpec, peakFlops } from './devices.ts'
import { dryRun } from './dry-run.ts'
import {
  CONVENTIONS,
  type Convention,
  type FlopsByPart,
  forwardFlops,
  trainingFlops,
  trainingFlopsPerToken,
  trainingSeconds,
} from './flops.ts'
import { type DeviceMemory, deviceMemory, type MemorySetup } from './memory.ts'
import { cheapestFix, type MemoryFix } from './memory-fix.ts'
import { deviceCount } from './parallel.ts'
import { PRECISIONS } from './precision.ts'
import { judge, type Verdict } from './verdict.ts'

export interface Question extends MemorySetup {
  readonly model: Architecture
  /** Present where Trainyard can build the model: it is then planned exactly too. */
  readonly ownConfig?: HfConfig
  readonly tokens: number
  readonly device: DeviceSpec
  /** What part of the peak does what the mathematics needs. */
  readonly mfu: number
}

export interface Answer {
  readonly model: Architecture
  readonly parameters: ParameterCounts
  readonly tokens: number
  readonly verdict: Verdict
  /** Training FLOPs by the rule of each paper. */
  readonly flops: Readonly<Record<Convention, number>>
  /** Forward over one sequence. */
  readonly forward: FlopsByPart
  readonly time: {
    readonly devices: number
    readonly peakFlops: number
    readonly mfu: number
    /** Recomputation counted as work. */
    readonly hfu: number
    readonly tokensPerSecond: number
    readonly seconds: number
    readonly deviceHours: number
    readonly secondsPerStep: number
  }
  readonly memory: DeviceMemory
  /** Bytes of weights, masters, gradients and optimizer states by ZeRO stage; empty where nothing can be cut. */
  readonly statesByZeroStage: readonly number[]
  readonly limitBytes: number
  readonly fits: boolean
  /** Only where it does not fit and something would help. */
  readonly fix: MemoryFix | undefined
  /** This program on one device, by a dry run. */
  readonly own: OwnPlan | undefined
}

export interface OwnPlan {
  readonly floatDtype: 'f32' | 'bf16' | 'f16'
  readonly parameterBytes: number
  readonly gradientBytes: number
  readonly optimizerBytes: number
  readonly arenaBytes: number
  readonly totalBytes: number
  /** Of one micro-batch, op by op, recomputation included. */
  readonly flops: number
}

/** Part of a device's memory that its driver and libraries keep. */
const RESERVED_SHARE = 0.03

/** @throws ConfigError for numbers that mean nothing and cuts that are not possible */
export async function answer(question: Question): Promise<Answer> {
  const { model, tokens, device, precision, seqLen, parallelism, mfu } = question
  checkQuestion(question)
  const parameters = countParameters(model)
  const memory = deviceMemory(model, question)
  const devices = deviceCount(parallelism)
  const peak = peakFlops(device, PRECISIONS[precision].format)
  const perToken = trainingFlopsPerToken(model, seqLen, { recompute: executedPolicy(question) })
  const seconds = trainingSeconds(perToken.model * tokens, devices, peak, mfu)
  const limitBytes = device.memoryBytes * (1 - RESERVED_SHARE)
  const fits = memory.total <= limitBytes
  const stepTokens = question.microBatchSize * seqLen * question.microBatches * parallelism.data
  return {
    model,
    parameters,
    tokens,
    verdict: judge(parameters.active, tokens),
    flops: Object.fromEntries(
      (Object.keys(CONVENTIONS) as Convention[]).map((rule) => [rule, trainingFlops(rule, model, seqLen, tokens)]),
    ) as Record<Convention, number>,
    forward: forwardFlops(model, seqLen),
    time: {
      devices,
      peakFlops: peak,
      mfu,
      hfu: (mfu * perToken.hardware) / perToken.model,
      tokensPerSecond: tokens / seconds,
      seconds,
      deviceHours: (seconds * devices) / 3600,
      secondsPerStep: (seconds * stepTokens) / tokens,
    },
    memory,
    statesByZeroStage: parallelism.data * parallelism.context === 1 ? [] : zeroLadder(model, question),
    limitBytes,
    fits,
    fix: fits ? undefined : cheapestFix(model, question, limitBytes, device.devicesPerNode ?? 1),
    own: question.ownConfig && (await ownPlan(question)),
  }
}

const ZERO_STAGES = [0, 1, 2, 3] as const

function zeroLadder(model: Architecture, question: Question): number[] {
  return ZERO_STAGES.map((zeroStage) => {
    const parallelism = { ...question.parallelism, zeroStage }
    const { weights, masters, gradients, optimizer } = deviceMemory(model, { ...question, parallelism })
    return weights + masters + gradients + optimizer
  })
}

/** Flash attention makes its scores again in every backward; as elsewhere, that is not called recomputation. */
function executedPolicy({ recompute, attention }: Question): MemorySetup['recompute'] {
  return recompute === 'selective' && attention === 'flash' ? 'none' : recompute
}

async function ownPlan(question: Question): Promise<OwnPlan | undefined> {
  const { ownConfig, precision, optimizer, adapter, microBatchSize, seqLen, recompute } = question
  const floatDtype = ({ fp32: 'f32', 'bf16-fp32-gradients': 'bf16' } as const)[precision as 'fp32']
  if (floatDtype === undefined || optimizer === 'adamw-8bit' || adapter !== undefined) return undefined
  const run = { microBatchSize, seqLen, recompute, optimizer, floatDtype }
  const plan: StepPlan = await dryRun(ownConfig!, run)
  const { parameterBytes, gradientBytes, optimizerBytes } = plan
  return {
    floatDtype,
    parameterBytes,
    gradientBytes,
    optimizerBytes,
    arenaBytes: arenaBytes(plan),
    totalBytes: totalBytes(plan),
    flops: plan.train.flops,
  }
}

function checkQuestion({ model, tokens, seqLen, mfu, microBatchSize, microBatches }: Question): void {
  const positive = { tokens, mfu }
  for (const [name, value] of Object.entries(positive)) {
    if (!(value > 0 && Number.isFinite(value))) {
      throw new ConfigError(`plan: ${name} must be a number above 0, got ${value}`)
    }
  }
  if (mfu > 1) throw new ConfigError(`plan: mfu must be at most 1, the whole of the peak, got ${mfu}; 0.4 is usual`)
  for (const [name, value] of Object.entries({ seqLen, microBatchSize, microBatches })) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new ConfigError(`plan: ${name} must be a whole number of at least 1, got ${value}`)
    }
  }
  if (model.positions === 'learned' && seqLen > model.maxPositionEmbeddings) {
    throw new ConfigError(
      `plan: seqLen must be at most the ${model.maxPositionEmbeddings} positions that ${model.name} has, got ${seqLen}`,
    )
  }
}
