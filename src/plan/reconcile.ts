// plan.json against actual.json and the metrics of a run: what was predicted, what came, how far apart they are, and how
// far a simple guess would have been. Reads values, writes nothing.

/** One quantity of a run. */
export interface Reconciled {
  readonly name: string
  readonly unit: 'parameters' | 'bytes' | 'seconds' | 'tokens/s' | 'nats'
  readonly predicted: number
  readonly measured: number
  /** predicted / measured - 1. */
  readonly error: number
  /** A prediction that needs no plan, and its error. */
  readonly guess?: { readonly what: string; readonly value: number; readonly error: number }
}

type Record_ = Readonly<Record<string, unknown>>

/** Losses at the end are noisy: the mean of so many steps is compared. */
const LAST_STEPS = 20

/** @param metrics  of metrics.jsonl, in order; the training losses are read */
export function reconcile(plan: Record_, actual: Record_, metrics: readonly Record_[]): Reconciled[] {
  const predicted = reader(plan)
  const measured = reader(actual)
  const losses = metrics.map((record) => record['train/loss']).filter((loss) => typeof loss === 'number')
  const parameters = predicted('parameterCount')
  const rows: (Reconciled | undefined)[] = [
    row('parameters', 'parameters', parameters, measured('parameterCount')),
    row('activations of a step', 'bytes', predicted('activationBytes'), measured('arenaBytes')),
    row(
      'memory of the process',
      'bytes',
      predicted('peakAnonymousBytes'),
      measured('peakAnonymousBytes'),
      parameters && { what: '16 bytes a parameter', value: 16 * parameters },
    ),
    row(
      'memory of the card',
      'bytes',
      predicted('peakDeviceBytes'),
      measured('peakDeviceBytes'),
      parameters && { what: '18 bytes a parameter', value: 18 * parameters },
    ),
    timeRow(predicted, measured),
    row(
      'tokens per second',
      'tokens/s',
      predicted('estimatedTokensPerSecond'),
      measured('tokensPerSecond'),
      ratio(predicted('peakFlops'), parameters && 6 * parameters, '6 N D at the whole peak'),
    ),
    lossRow(
      'loss of the first step',
      predicted('initialLoss'),
      isFirst(metrics) ? losses[0] : undefined,
      predicted('vocabSize'),
    ),
    row('loss at the end', 'nats', predicted('expectedLoss'), meanOfLast(losses)),
  ]
  return rows.filter((entry) => entry !== undefined)
}

function reader(record: Record_): (key: string) => number | undefined {
  return (key) => {
    const value = record[key]
    return typeof value === 'number' && Number.isFinite(value) ? value : undefined
  }
}

type Guess = { readonly what: string; readonly value: number }

function row(
  name: string,
  unit: Reconciled['unit'],
  predicted: number | undefined,
  measured: number | undefined,
  guess?: Guess | 0,
): Reconciled | undefined {
  if (predicted === undefined || measured === undefined || measured === 0) return undefined
  const error = (value: number): number => value / measured - 1
  return {
    name,
    unit,
    predicted,
    measured,
    error: error(predicted),
    ...(guess && { guess: { ...guess, error: error(guess.value) } }),
  }
}

/** Only of a run that went to its end: the plan is of all its steps. */
function timeRow(predicted: Reading, measured: Reading): Reconciled | undefined {
  if (measured('steps') !== predicted('maxSteps')) return undefined
  const [parameters, tokens, peak] = [predicted('parameterCount'), predicted('tokens'), predicted('peakFlops')]
  const flops = parameters === undefined || tokens === undefined ? undefined : 6 * parameters * tokens
  return row(
    'time of training',
    'seconds',
    predicted('estimatedSeconds'),
    measured('secondsOfThisSession'),
    ratio(flops, peak, '6 N D at the whole peak'),
  )
}

type Reading = (key: string) => number | undefined

function ratio(above: number | undefined, below: number | undefined, what: string): Guess | undefined {
  return above === undefined || below === undefined || below === 0 ? undefined : { what, value: above / below }
}

function lossRow(
  name: string,
  predicted: number | undefined,
  measured: number | undefined,
  vocabSize: number | undefined,
): Reconciled | undefined {
  return row(
    name,
    'nats',
    predicted,
    measured,
    vocabSize && { what: 'ln of the vocabulary', value: Math.log(vocabSize) },
  )
}

function isFirst(metrics: readonly Record_[]): boolean {
  return metrics[0]?.step === 1
}

function meanOfLast(losses: readonly number[]): number | undefined {
  const last = losses.slice(-LAST_STEPS)
  return last.length === 0 ? undefined : last.reduce((sum, loss) => sum + loss, 0) / last.length
}
