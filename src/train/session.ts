// The loop around a Pretraining: steps until the end or a stop, evaluations and checkpoints on their days, metrics in
// the run folder, a live picture. What pretrain and demo share.
import type { CheckpointWriter } from '../checkpoint/writer.ts'
import type { LiveView, RunContext } from '../config/context.ts'
import type { DeviceMemory } from '../core/device.ts'
import { TrainyardError } from '../core/errors.ts'
import type { TokenDataset } from '../data/dataset.ts'
import { formatCount, formatDuration, formatPercent } from '../display/format.ts'
import { renderTraining, type TrainingStatus, trainingLine } from '../display/training.ts'
import { EnergyMeter, type MeasuredEnergy } from '../machine/energy.ts'
import { anonymousBytes, describeMemory } from '../machine/memory.ts'
import { parameterCount } from '../nn/module.ts'
import { Checkpoints } from './checkpoints.ts'
import type { MeasuredPeak } from './measured-peak.ts'
import { ownComponents, PeakMemory, takenOf } from './memory.ts'
import type { Evaluation, Pretraining, StepReport } from './pretrain.ts'
import type { RunDir } from './run-dir.ts'
import { describeLastStep, SpikeDetector } from './spike.ts'

export interface SessionOptions {
  run: RunDir
  title: string
  maxSteps: number
  /** Stop after this step as if asked to, with a checkpoint (0: never). */
  stopAfterStep: number
  /** End the run after this many evaluations without a lower held-out loss (0: never). */
  patience: number
  /** Evaluate the given weights before the first step: what fine-tuning is measured against. */
  evalFirst: boolean
  /** 0: only at the end. */
  evalEverySteps: number
  saveEverySteps: number
  keepLast: number
  /** Keep these many of the lowest held-out loss too, and save at each evaluation that is one of them. */
  keepBest: number
  /** Writes checkpoints beside training; closed at the end. undefined: training waits for them. */
  writer: CheckpointWriter | undefined
  validation: TokenDataset | undefined
  /** Documents of an evaluation during training (default all). */
  evalDocuments: readonly number[] | undefined
  /** Stop at a loss this many standard deviations above the last ones (0: only at one that is no number). */
  spikeSigmas: number
  /** Of the device, for the percentage; measured again when it was plainly disturbed, and at the end. */
  peak: MeasuredPeak | undefined
  hint: string
}

export interface SessionResult {
  /** False when a signal or `stopAfterStep` ended it early; a checkpoint was then written. */
  isFinished: boolean
  lastReport: StepReport | undefined
  evaluation: Evaluation | undefined
  /** Before the first step, where that was asked for and this session made it. */
  firstEvaluation: Evaluation | undefined
  /** Wall seconds of training steps, and tokens trained in them. */
  seconds: number
  tokens: number
  /** FLOP/s of those steps as a part of the peak. */
  peakShare: number | undefined
  /** Highest anonymous memory of the process. */
  peakAnonymousBytes: number
  /** The device's own memory when most of it was taken; undefined where it has none. */
  peakOwn: DeviceMemory | undefined
  /** What peakShare is a part of: `f32 peak`. */
  peakName: string | undefined
}

/** Speed is averaged over this many of the last steps. */
const RECENT_STEPS = 20
/** A peak that must be wrong is measured again this often at most. */
const MEASURE_EVERY_STEPS = 10
/** Memory is looked at after every step, and this often while the program waits for something. */
const SAMPLE_EVERY_MS = 50

/** Trains from where `training` stands to `maxSteps`. */
export async function runSession(
  training: Pretraining,
  context: RunContext,
  options: SessionOptions,
): Promise<SessionResult> {
  const { run, maxSteps, peak } = options
  const { seqLen, batchTokens } = training.settings
  const history = run.metrics()
  const losses = history.flatMap((m) =>
    typeof m['train/loss'] === 'number' ? [{ x: m.step, y: m['train/loss'] }] : [],
  )
  const valLosses = history.flatMap((m) => (typeof m['val/loss'] === 'number' ? [{ x: m.step, y: m['val/loss'] }] : []))
  const recent: number[] = []
  const result: SessionResult = {
    isFinished: true,
    lastReport: undefined,
    evaluation: undefined,
    firstEvaluation: undefined,
    seconds: 0,
    tokens: 0,
    peakShare: undefined,
    peakAnonymousBytes: 0,
    peakOwn: undefined,
    peakName: undefined,
  }
  const memoryTotalBytes = describeMemory().totalBytes
  const meter = EnergyMeter.start()
  let energy: MeasuredEnergy | undefined
  const started = performance.now()
  const status = (): TrainingStatus => {
    const report = result.lastReport
    const mean = recent.reduce((sum, s) => sum + s, 0) / Math.max(1, recent.length)
    return {
      title: options.title,
      step: training.stepsDone,
      maxSteps,
      losses,
      valLosses,
      ...(report && { lr: report.lr, gradNorm: report.gradNorm }),
      tokens: training.stepsDone * batchTokens,
      tokensPerSecond: mean > 0 ? batchTokens / mean : 0,
      ...(peak && mean > 0 && { peakShare: training.flopsPerStep / mean / peak.flops }),
      // As the plan counts it.
      memoryBytes: anonymousBytes(),
      memoryTotalBytes,
      elapsedSeconds: (performance.now() - started) / 1000,
      etaSeconds: mean * (maxSteps - training.stepsDone),
      hint: options.hint,
    }
  }
  const view: LiveView = {
    frame: (size) => renderTraining(status(), { ...size, color: context.hasColor }),
    line: () => trainingLine(status()),
  }
  const evaluate = async (documents: readonly number[] | undefined): Promise<Evaluation | undefined> => {
    if (options.validation === undefined) return undefined
    const evaluation = await training.evaluate(options.validation, {
      ...(documents && { documents }),
      turn: context.turn.bind(context),
    })
    valLosses.push({ x: training.stepsDone, y: evaluation.loss })
    run.appendMetrics({
      step: training.stepsDone,
      'val/loss': evaluation.loss,
      'val/bpb': evaluation.bitsPerByte,
    })
    return evaluation
  }
  const isDue = (every: number): boolean => every > 0 && training.stepsDone % every === 0

  /** The state after a bad step is not saved: the newest checkpoint is one from before. */
  const spikeError = async (problem: string, report: StepReport): Promise<TrainyardError> => {
    const path = await run.writeSpike(report.step, await describeLastStep(training, report, problem))
    return new TrainyardError(
      `training stopped at step ${report.step}: ${problem}; its documents and the norms of its layers are in ${path}, and pretrain with --replay ${report.step} runs exactly this step again`,
    )
  }

  const detector = new SpikeDetector(options.spikeSigmas)
  const memory = new PeakMemory(training.device)
  const checkpoints = new Checkpoints(training, run, {
    keep: { keepLast: options.keepLast, keepBest: options.keepBest },
    writer: options.writer,
    peak: memory,
    warn: (sentence) => context.warn(sentence),
  })
  const sampling = setInterval(() => memory.sample(), SAMPLE_EVERY_MS).unref()
  const live = context.live(view)
  using _ = context.interruptNotice('stopping after this step')
  try {
    if (options.evalFirst && training.stepsDone === 0) result.firstEvaluation = await evaluate(undefined)
    // Over the same documents: what patience goes by.
    const comparable: number[] = []
    // Of the present state, where it was evaluated.
    let evaluation: Evaluation | undefined
    while (training.stepsDone < maxSteps && !isOverdue(comparable, options.patience)) {
      if (context.signal.aborted || (options.stopAfterStep > 0 && training.stepsDone >= options.stopAfterStep)) {
        result.isFinished = false
        break
      }
      const report = await training.trainStep(context.turn.bind(context))
      result.lastReport = report
      memory.sample()
      // No step is faster than the peak: it was measured while something else ran.
      const isTooFast = peak?.isRoof && training.flopsPerStep / report.seconds > peak.flops
      if (isTooFast && report.step % MEASURE_EVERY_STEPS === 1) peak.measureAgain()
      result.seconds += report.seconds
      result.tokens += batchTokens
      losses.push({ x: report.step, y: report.loss })
      recent.push(report.seconds)
      if (recent.length > RECENT_STEPS) recent.shift()
      run.appendMetrics({
        step: report.step,
        'train/loss': report.loss,
        'optim/lr': report.lr,
        // An overflow has no norm.
        ...(report.isFinite && { 'optim/gradNorm': report.gradNorm }),
        'optim/isFinite': report.isFinite ? 1 : 0,
        ...(training.settings.lossScaling && {
          'optim/gradScale': report.gradScale,
          'optim/skippedSteps': report.skippedSteps,
        }),
        'data/trainedTokens': report.trainedTokens,
        'data/epoch': report.epoch,
        'perf/tokensPerSecond': batchTokens / report.seconds,
      })
      live.update()
      await context.turn()
      const { dynamic } = training.settings.lossScaling ?? {}
      const isScaleSearch = dynamic !== undefined && Number.isFinite(report.loss) && report.gradScale > dynamic.minScale
      // A gradient too large for its floats only means that the next scale is smaller.
      const problem = report.isFinite || !isScaleSearch ? detector.check(report) : undefined
      if (problem !== undefined) {
        await checkpoints.finish()
        throw await spikeError(problem, report)
      }
      const isLast = training.stepsDone === maxSteps
      // At the end everything is evaluated; only to be compared with the others, the same documents as theirs first.
      const isEvaluated = isLast ? options.keepBest > 0 : isDue(options.evalEverySteps)
      evaluation = isEvaluated ? await evaluate(options.evalDocuments) : undefined
      if (evaluation !== undefined) comparable.push(evaluation.loss)
      if (isDue(options.saveEverySteps) || (evaluation !== undefined && checkpoints.isBest(evaluation))) {
        await checkpoints.save(evaluation)
      }
    }
    if (checkpoints.savedStep !== training.stepsDone) await checkpoints.save(evaluation)
    // The last one must be there before the run counts as done.
    await checkpoints.finish()
    if (result.isFinished) result.evaluation = await evaluate(undefined)
    memory.sample()
  } finally {
    await options.writer?.close()
    clearInterval(sampling)
    live.stop()
    energy = await meter.stop()
  }
  if (peak !== undefined && result.seconds > 0) {
    peak.measureAgain()
    result.peakShare = ((result.tokens / batchTokens) * training.flopsPerStep) / result.seconds / peak.flops
  }
  result.peakAnonymousBytes = memory.bytes
  result.peakOwn = memory.own
  result.peakName = peak?.what
  await run.writeActual({
    parameterCount: parameterCount(training.step.model),
    arenaBytes: training.step.arenaBytes,
    steps: training.stepsDone,
    tokens: training.stepsDone * batchTokens,
    seqLen,
    secondsOfThisSession: result.seconds,
    tokensPerSecond: result.seconds > 0 ? result.tokens / result.seconds : 0,
    ...(result.peakShare !== undefined && { peakFlops: peak!.flops, peakShare: result.peakShare }),
    cpuSecondsOfThisSession: cpuSecondsOfProcess(),
    ...(energy && { energyJoulesOfThisSession: energy.joules, energySources: energy.sources }),
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
    peakAnonymousBytes: memory.bytes,
    predictedAnonymousBytes: training.memory.totalBytes,
    ...(memory.own && {
      peakDeviceBytes: takenOf(memory.own),
      predictedDeviceBytes: training.memory.ownTotalBytes,
      peakDeviceBytesByComponent: ownComponents(training.memory, memory.own),
    }),
    ...(result.evaluation && { evaluation: { ...result.evaluation } }),
  })
  return result
}

/** User and system time of all threads since the process began. */
function cpuSecondsOfProcess(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

/** Whether the last `patience` held-out losses were all above an earlier one. */
function isOverdue(losses: readonly number[], patience: number): boolean {
  if (patience === 0 || losses.length <= patience) return false
  const best = Math.min(...losses.slice(0, -patience))
  return losses.slice(-patience).every((loss) => loss >= best)
}

/** What the session trained and how fast, in one line. */
export function speedSentence({ tokens, seconds, peakShare, peakName }: SessionResult): string {
  const share = peakShare === undefined ? '' : `, ${formatPercent(peakShare)} of the measured ${peakName}`
  return `trained ${formatCount(tokens)} tokens in ${formatDuration(seconds)}: ${formatCount(tokens / seconds)} tok/s${share}`
}
