// How much of a long run on many devices is progress: devices fail, the run goes back to its last checkpoint, and
// checkpoints take time too. Failures come independently of each other (exponential times between them): Young 1974
// (CACM 17:9) and Daly 2006 (FGCS 22:3).
import { ConfigError } from '../../core/errors.ts'

export interface Failures {
  /** Mean seconds between failures that stop the whole run. */
  readonly mtbfSeconds: number
  /** Seconds that training stands still for a checkpoint. */
  readonly checkpointSeconds: number
  /** Seconds from a failure until training goes on: noticing, replacing, starting, loading. */
  readonly restartSeconds: number
}

export interface Goodput {
  /** Seconds of training between two checkpoints. */
  readonly intervalSeconds: number
  /** Expected share of the time that becomes progress. */
  readonly share: number
  /** Expected shares of the rest. */
  readonly checkpoints: number
  readonly restarts: number
  /** Training that is lost and done again. */
  readonly lost: number
}

/** Mean time between failures of `devices`, any of which stops the run. */
export function clusterMtbf(deviceMtbfSeconds: number, devices: number): number {
  return deviceMtbfSeconds / devices
}

/** Young's interval: sqrt(2 x checkpoint x mtbf). Good where checkpoints are short beside the time between failures. */
export function youngInterval({ mtbfSeconds, checkpointSeconds }: Failures): number {
  return Math.sqrt(2 * checkpointSeconds * mtbfSeconds)
}

/** Daly's interval: Young's with two more terms (his equation 37); the mtbf where checkpoints take twice as long. */
export function dalyInterval(failures: Failures): number {
  const { mtbfSeconds: M, checkpointSeconds: C } = failures
  if (C >= 2 * M) return M
  const ratio = Math.sqrt(C / (2 * M))
  return youngInterval(failures) * (1 + ratio / 3 + (ratio * ratio) / 9) - C
}

/**
 * Expected goodput for an interval: of Daly's exact model (his equation 20), in which failures also strike during
 * checkpoints and restarts,
 *     share = interval / (M e^(R/M) (e^((interval + C)/M) - 1))
 * @throws ConfigError for times that are not above 0 (checkpoints and restarts: below 0)
 */
export function expectedGoodput(failures: Failures, intervalSeconds: number): Goodput {
  checkTimes(failures, intervalSeconds)
  const { mtbfSeconds: M, checkpointSeconds: C, restartSeconds: R } = failures
  const segment = M * Math.exp(R / M) * Math.expm1((intervalSeconds + C) / M)
  // Failures of a segment, each followed by restarts until one is through.
  const failuresInSegment = Math.expm1((intervalSeconds + C) / M)
  const restarting = failuresInSegment * M * Math.expm1(R / M)
  const lost = Math.max(0, segment - restarting - intervalSeconds - C)
  return {
    intervalSeconds,
    share: intervalSeconds / segment,
    checkpoints: C / segment,
    restarts: restarting / segment,
    lost: lost / segment,
  }
}

/** The interval of the highest expected goodput, by golden section on its logarithm. */
export function bestGoodput(failures: Failures): Goodput {
  checkTimes(failures, 1)
  if (failures.checkpointSeconds === 0) {
    throw new ConfigError(
      'plan layout: checkpoints that take no time would be made at every step: give the seconds that training stands still for one, at least 0.001',
    )
  }
  const golden = (Math.sqrt(5) - 1) / 2
  let [low, high] = [
    Math.log(failures.checkpointSeconds / 100),
    Math.log(20 * failures.mtbfSeconds + failures.checkpointSeconds),
  ]
  const share = (logInterval: number): number => expectedGoodput(failures, Math.exp(logInterval)).share
  while (high - low > 1e-7) {
    const [left, right] = [high - golden * (high - low), low + golden * (high - low)]
    if (share(left) < share(right)) low = left
    else high = right
  }
  return expectedGoodput(failures, Math.exp((low + high) / 2))
}

function checkTimes({ mtbfSeconds, checkpointSeconds, restartSeconds }: Failures, intervalSeconds: number): void {
  const above = { 'time between failures': mtbfSeconds, 'time between checkpoints': intervalSeconds }
  for (const [what, value] of Object.entries(above)) {
    if (!(value > 0)) throw new ConfigError(`plan layout: the ${what} must be above 0 seconds, got ${value}`)
  }
  for (const [what, value] of Object.entries({ checkpoint: checkpointSeconds, restart: restartSeconds })) {
    if (!(value >= 0))
      throw new ConfigError(`plan layout: the time of a ${what} must be at least 0 seconds, got ${value}`)
  }
}
