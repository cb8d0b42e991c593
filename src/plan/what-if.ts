// One question of the planner, answered whole: what a model trained on so many tokens, in such a way, on such devices takes
// of compute, time and memory, and whether it is a good use of them. Pure numbers; report.ts writes them.
import type { HfConfig } from '../checkpoint/hf-config.ts'
import { ConfigError } from '../core/errors.ts'
import type { StepPlan } from '../train/plan.ts'
import { arenaBytes, totalBytes } from '../train/plan.ts'
import { type DeviceRates, stepSeconds } from '../train/step-time.ts'
import { type Architecture, countParameters, type ParameterCounts } from './architecture.ts'
import { type DeviceSpec, type ProductPeak, productPeak } from './devices.ts'
import { dryRun } from './dry-run.ts'
import {
  CONVENTIONS,
  type Convention,
  type FlopsByPart,
  forwardFlops,
  type TrainingFlops,
  trainingFlops,
  trainingFlopsPerToken,
} from './flops.ts'
import { adapterParameters, type DeviceMemory, deviceMemory, type MemorySetup } from './memory.ts'
import { cheapestFix, type MemoryFix } from './memory-fix.ts'
import { deviceCount } from './parallel.ts'
import { PRECISIONS } from './precision.ts'
import { judge, type Verdict } from './verdict.ts'

export interface Question extends MemorySetup {
  readonly model: Architecture
  /** Present where Trainyard can build the model: it is then planned exactly too. */
  readonly ownConfig?: HfConfig | undefined
  readonly tokens: number
  readonly device: DeviceSpec
  /** Measured of `device`: a model of our own is then timed op by op. */
  readonly rates?: DeviceRates | undefined
  /** What part of the peak does what the mathematics needs; absent: it is estimated. */
  readonly mfu?: number | undefined
}

export interface Answer {
  readonly model: Architecture
  /** How it would be trained. */
  readonly setup: MemorySetup
  readonly parameters: ParameterCounts
  readonly tokens: number
  /** Absent where only adapters are trained: they have no compute-optimal amount of tokens. */
  readonly verdict?: Verdict
  /** Training FLOPs by the rule of each paper; of adapters, only what the mathematics needs (`exact`). */
  readonly flops: Readonly<Partial<Record<Convention, number>>> & { readonly exact: number }
  /** Forward over one sequence. */
  readonly forward: FlopsByPart
  readonly time: TrainingTime
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

export interface TrainingTime {
  readonly devices: number
  /** Of one device, and the format that it computes products in. */
  readonly peak: ProductPeak
  readonly mfu: number
  /** Recomputation counted as work. */
  readonly hfu: number
  /** Where the utilization is from: said by the user, measured op by op, or assumed. */
  readonly basis: 'given' | 'measured' | 'assumed'
  /** Of the time, what pipeline stages wait for each other; counted where the utilization is assumed. */
  readonly bubble: number
  readonly tokensPerSecond: number
  readonly seconds: number
  readonly deviceHours: number
  readonly secondsPerStep: number
}

export interface OwnPlan {
  readonly floatDtype: 'f32' | 'bf16' | 'f16'
  readonly parameterBytes: number
  /** Those with memory of their own: in a step of one micro-batch on a card they lie among the activations. */
  readonly gradientBytes: number
  readonly optimizerBytes: number
  readonly arenaBytes: number
  readonly totalBytes: number
  /** Of one micro-batch, op by op, recomputation included. */
  readonly flops: number
  /** Where the device's rates were measured. */
  readonly secondsPerStep?: number
}

/** Part of a device's memory that its driver and libraries keep. */
const RESERVED_SHARE = 0.03

/** Part of the peak that a device is assumed to compute at while it does not wait for another stage. */
export const ASSUMED_UTILIZATION = 0.4

/** @throws ConfigError for numbers that mean nothing and cuts that are not possible */
export async function answer(question: Question): Promise<Answer> {
  checkQuestion(question)
  const { model, tokens, device, seqLen, parallelism, ownConfig, mfu: _, rates: __, ...setup } = question
  const parameters = countParameters(model)
  const memory = deviceMemory(model, question)
  const own = ownConfig && (await ownPlan(question, ownConfig))
  const limitBytes = device.memoryBytes * (1 - RESERVED_SHARE)
  const fits = memory.total <= limitBytes
  const perToken = flopsPerToken(question)
  const isWhole = question.adapter === undefined
  const rules = isWhole ? (Object.keys(CONVENTIONS) as Convention[]) : []
  return {
    model,
    setup: { ...setup, seqLen, parallelism },
    parameters,
    tokens,
    ...(isWhole && { verdict: judge(parameters.active, tokens) }),
    flops: {
      ...Object.fromEntries(rules.map((rule) => [rule, trainingFlops(rule, model, seqLen, tokens)])),
      exact: perToken.model * tokens,
    },
    forward: forwardFlops(model, seqLen),
    time: trainingTime(question, perToken, own),
    memory,
    statesByZeroStage: parallelism.data * parallelism.context === 1 ? [] : zeroLadder(model, question),
    limitBytes,
    fits,
    fix: fits ? undefined : cheapestFix(model, question, limitBytes, device.devicesPerNode ?? 1),
    own,
  }
}

function flopsPerToken(question: Question): TrainingFlops {
  const { model, seqLen, adapter } = question
  return trainingFlopsPerToken(model, seqLen, {
    recompute: executedPolicy(question),
    ...(adapter && { adapterParameters: adapterParameters(model, adapter.rank, model.experts?.active) }),
  })
}

function trainingTime(question: Question, perToken: TrainingFlops, own: OwnPlan | undefined): TrainingTime {
  const { tokens, device, precision, seqLen, parallelism, microBatchSize, microBatches } = question
  const devices = deviceCount(parallelism)
  const peak = productPeak(device, PRECISIONS[precision].format)
  const stepTokens = microBatchSize * seqLen * microBatches * parallelism.data
  const bubble = bubbleShare(question)
  const again = perToken.hardware / perToken.model
  const measured = devices === 1 ? own?.secondsPerStep : undefined
  const [basis, mfu] =
    question.mfu !== undefined
      ? (['given', question.mfu] as const)
      : measured !== undefined
        ? (['measured', (perToken.model * stepTokens) / measured / peak.flops] as const)
        : (['assumed', (ASSUMED_UTILIZATION * (1 - bubble)) / again] as const)
  const tokensPerSecond = (devices * peak.flops * mfu) / perToken.model
  const seconds = tokens / tokensPerSecond
  return {
    devices,
    peak,
    mfu,
    hfu: mfu * again,
    basis,
    bubble: basis === 'assumed' ? bubble : 0,
    tokensPerSecond,
    seconds,
    deviceHours: (seconds * devices) / 3600,
    secondsPerStep: stepTokens / tokensPerSecond,
  }
}

/** (p - 1) / (v m) of the time that is worked (Narayanan et al. 2021, arXiv:2104.04473, section 2.2), as a part of all. */
function bubbleShare({ parallelism: { pipeline, virtualStages }, microBatches }: MemorySetup): number {
  const waiting = (pipeline - 1) / (virtualStages * microBatches)
  return waiting / (1 + waiting)
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

async function ownPlan(question: Question, config: HfConfig): Promise<OwnPlan | undefined> {
  const { precision, optimizer, adapter, microBatchSize, seqLen, recompute, microBatches, rates } = question
  const floatDtype = ({ fp32: 'f32', 'bf16-fp32-gradients': 'bf16' } as const)[precision as 'fp32']
  if (floatDtype === undefined || optimizer === 'adamw-8bit' || adapter !== undefined) return undefined
  // f32 stands for a processor here, where every gradient has memory of its own.
  const isWholeStep = microBatches === 1 && floatDtype !== 'f32'
  const plan: StepPlan = await dryRun(config, { microBatchSize, seqLen, recompute, optimizer, floatDtype, isWholeStep })
  const { parameterBytes, optimizerBytes } = plan
  return {
    floatDtype,
    parameterBytes,
    gradientBytes: plan.gradientBytes - plan.sharedGradientBytes,
    optimizerBytes,
    arenaBytes: arenaBytes(plan),
    totalBytes: totalBytes(plan),
    flops: plan.train.flops,
    // Rates are those of a processor, which computes in f32.
    ...(rates && floatDtype === 'f32' && { secondsPerStep: stepSeconds(plan, microBatches, rates) }),
  }
}

function checkQuestion({ model, tokens, seqLen, mfu, microBatchSize, microBatches, adapter }: Question): void {
  const positive = { tokens, ...(mfu !== undefined && { mfu }) }
  for (const [name, value] of Object.entries(positive)) {
    if (!(value > 0 && Number.isFinite(value))) {
      throw new ConfigError(`plan: ${name} must be a number above 0, got ${value}`)
    }
  }
  if (mfu !== undefined && mfu > 1) {
    throw new ConfigError(
      `plan: mfu must be at most 1, the whole of the peak, got ${mfu}; ${ASSUMED_UTILIZATION} is usual`,
    )
  }
  if (adapter !== undefined && adapter.rank > model.hiddenSize) {
    throw new ConfigError(
      `plan: loraRank must be at most the width ${model.hiddenSize} of ${model.name}, got ${adapter.rank}; 8 to 64 are usual`,
    )
  }
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
