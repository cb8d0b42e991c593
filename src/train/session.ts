// The loop around a Pretraining: steps until the end or a stop, evaluations and checkpoints on their days, metrics in
// the run folder, a live picture. What pretrain and demo share.
import { totalmem } from 'node:os'
import type { LiveView, RunContext } from '../config/context.ts'
import type { TokenDataset } from '../data/dataset.ts'
import { renderTraining, type TrainingStatus, trainingLine } from '../display/training.ts'
import type { Evaluation, Pretraining, StepReport } from './pretrain.ts'
import type { RunDir } from './run-dir.ts'

export interface SessionOptions {
  run: RunDir
  title: string
  maxSteps: number
  /** Stop after this step as if asked to, with a checkpoint (0: never). */
  stopAfterStep: number
  /** Evaluate the given weights before the first step: what fine-tuning is measured against. */
  evalFirst: boolean
  /** 0: only at the end. */
  evalEverySteps: number
  saveEverySteps: number
  keepLast: number
  validation: TokenDataset | undefined
  /** Documents of an evaluation during training (default all). */
  evalDocuments: readonly number[] | undefined
  /** Measured peak of the device in FLOP/s, for the percentage. */
  peakFlops: number | undefined
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
}

/** Speed is averaged over this many of the last steps. */
const RECENT_STEPS = 20

/** Trains from where `training` stands to `maxSteps`. */
export async function runSession(
  training: Pretraining,
  context: RunContext,
  options: SessionOptions,
): Promise<SessionResult> {
  const { run, maxSteps } = options
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
  }
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
      ...(options.peakFlops && mean > 0 && { peakShare: training.flopsPerStep / mean / options.peakFlops }),
      memoryBytes: process.memoryUsage().rss,
      memoryTotalBytes: totalmem(),
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

  const live = context.live(view)
  let savedAt = -1
  try {
    if (options.evalFirst && training.stepsDone === 0) result.firstEvaluation = await evaluate(undefined)
    while (training.stepsDone < maxSteps) {
      if (context.signal.aborted || (options.stopAfterStep > 0 && training.stepsDone >= options.stopAfterStep)) {
        result.isFinished = false
        break
      }
      const report = await training.trainStep(context.turn.bind(context))
      result.lastReport = report
      result.seconds += report.seconds
      result.tokens += batchTokens
      losses.push({ x: report.step, y: report.loss })
      recent.push(report.seconds)
      if (recent.length > RECENT_STEPS) recent.shift()
      run.appendMetrics({
        step: report.step,
        'train/loss': report.loss,
        'optim/lr': report.lr,
        'optim/gradNorm': report.gradNorm,
        'optim/isFinite': report.isFinite ? 1 : 0,
        'data/trainedTokens': report.trainedTokens,
        'data/epoch': report.epoch,
        'perf/tokensPerSecond': batchTokens / report.seconds,
      })
      live.update()
      await context.turn()
      if (isDue(options.evalEverySteps) && training.stepsDone < maxSteps) await evaluate(options.evalDocuments)
      if (isDue(options.saveEverySteps)) {
        await training.save(run, options.keepLast)
        savedAt = training.stepsDone
      }
    }
    if (savedAt !== training.stepsDone) await training.save(run, options.keepLast)
    if (result.isFinished) result.evaluation = await evaluate(undefined)
  } finally {
    live.stop()
  }
  await run.writeActual({
    steps: training.stepsDone,
    tokens: training.stepsDone * batchTokens,
    seqLen,
    secondsOfThisSession: result.seconds,
    tokensPerSecond: result.seconds > 0 ? result.tokens / result.seconds : 0,
    ...(options.peakFlops &&
      result.seconds > 0 && {
        peakFlops: options.peakFlops,
        peakShare: ((result.tokens / batchTokens) * training.flopsPerStep) / result.seconds / options.peakFlops,
      }),
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
    ...(result.evaluation && { evaluation: { ...result.evaluation } }),
  })
  return result
}
