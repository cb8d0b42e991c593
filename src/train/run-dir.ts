// The folder of a run: its resolved configuration, logs that are appended line by line, samples, the plan and what was
// measured. Opening it again demands the same configuration. Checkpoints inside it belong to checkpoint/store.ts.
import { appendFileSync, existsSync, mkdirSync, readFileSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { isJsonObject, readJsonObject, someNames, writeContents, writeJson } from '../checkpoint/files.ts'
import { cleanTemporary } from '../checkpoint/store.ts'
import { CheckpointError, ConfigError } from '../core/errors.ts'

export type JsonRecord = Readonly<Record<string, unknown>>

export class RunDir {
  readonly path: string

  private constructor(path: string) {
    this.path = path
  }

  /**
   * Opens `path` as the folder of a run with this configuration: made if it is not there, otherwise checked, and cleared
   * of what a crash left in its checkpoints. Without `resume`, a folder that has a configuration already is refused.
   * @param config    the resolved configuration, JSON values only
   * @param options.defaults  what options mean that the run's file does not have yet: it is of an earlier version
   * @param harmless  dotted keys that may differ when a run goes on (`maxSteps`, `log`): a key covers those below it
   * @throws ConfigError naming the keys that differ
   */
  static async open(
    path: string,
    config: JsonRecord,
    options: { resume?: boolean; harmless?: readonly string[]; defaults?: JsonRecord } = {},
  ): Promise<RunDir> {
    const configPath = join(path, 'config.json')
    if (existsSync(configPath)) {
      if (options.resume !== true) {
        throw new ConfigError(`${path}: there is a run already; go on with --resume, or choose another name`)
      }
      const old = { ...asJson(options.defaults ?? {}), ...readJsonObject(configPath) }
      refuseDifferences(old, asJson(config), options.harmless ?? [], path)
      await cleanTemporary(path)
      for (const name of ['metrics.jsonl', 'log.jsonl']) dropCutLine(join(path, name))
    }
    mkdirSync(join(path, 'samples'), { recursive: true })
    await writeJson(configPath, config)
    return new RunDir(path)
  }

  /** Adds one line to metrics.jsonl: `{ step, 'train/loss': 3.2, ... }`. Non-finite numbers become null, as in JSON. */
  appendMetrics(record: JsonRecord & { readonly step: number }): void {
    this.#appendLine('metrics.jsonl', record)
  }

  /** Adds one line to log.jsonl. @param time  ISO 8601 */
  appendLog(record: JsonRecord & { readonly time: string; readonly message: string }): void {
    this.#appendLine('log.jsonl', record)
  }

  #appendLine(name: string, record: JsonRecord): void {
    try {
      appendFileSync(join(this.path, name), `${JSON.stringify(record)}\n`)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      throw new CheckpointError(
        `${this.path}: the folder of the run was removed or moved while it was written to: put it back and go on with --resume, or start the run again`,
        { cause: error },
      )
    }
  }

  /** Records of metrics.jsonl; a line that a crash cut short is left out. */
  metrics(): (JsonRecord & { readonly step: number })[] {
    return readMetrics(this.path)
  }

  /** Drops metrics of steps after `step`, which a run that goes on from there will write again. */
  async rewindMetrics(step: number): Promise<void> {
    const kept = this.metrics().filter((record) => record.step <= step)
    await writeContents(join(this.path, 'metrics.jsonl'), kept.map((record) => `${JSON.stringify(record)}\n`).join(''))
  }

  /** Writes samples/step-N.txt. */
  async writeSample(step: number, text: string): Promise<void> {
    await writeContents(join(this.path, 'samples', `step-${step}.txt`), text)
  }

  /** What is known of a step that went wrong: spikes/step-N.json. @returns its path */
  async writeSpike(step: number, record: JsonRecord): Promise<string> {
    const path = join(this.path, 'spikes', `step-${step}.json`)
    await writeJson(path, record)
    return path
  }

  /** What the planner predicts: plan.json. */
  async writePlan(plan: JsonRecord): Promise<void> {
    await writeJson(join(this.path, 'plan.json'), plan)
  }

  /** What was measured: actual.json, beside the plan. */
  async writeActual(actual: JsonRecord): Promise<void> {
    await writeJson(join(this.path, 'actual.json'), actual)
  }
}

/** Records of a run's metrics.jsonl, of a run that somebody else may be writing too; none where there is no such file. */
export function readMetrics(folder: string): (JsonRecord & { readonly step: number })[] {
  const path = join(folder, 'metrics.jsonl')
  if (!existsSync(path)) return []
  return readFileSync(path, 'utf8').split('\n').flatMap(parseMetricsLine)
}

/** A crash can end a log in the middle of a line; the next line must not be glued to it. */
function dropCutLine(path: string): void {
  if (!existsSync(path)) return
  const bytes = readFileSync(path)
  const end = bytes.lastIndexOf(0x0a) + 1
  if (end < bytes.length) truncateSync(path, end)
}

function parseMetricsLine(line: string): (JsonRecord & { readonly step: number })[] {
  try {
    const value: unknown = JSON.parse(line)
    return isJsonObject(value) && typeof value.step === 'number' ? [value as JsonRecord & { step: number }] : []
  } catch {
    return []
  }
}

/** The value as it reads back from a file: `undefined` fields gone, numbers as JSON has them. */
function asJson(config: JsonRecord): JsonRecord {
  return JSON.parse(JSON.stringify(config)) as JsonRecord
}

function refuseDifferences(old: JsonRecord, now: JsonRecord, harmless: readonly string[], path: string): void {
  const isHarmless = (key: string): boolean => harmless.some((name) => key === name || key.startsWith(`${name}.`))
  const differing = differingKeys(old, now).filter(({ key }) => !isHarmless(key))
  if (differing.length === 0) return
  const shown = differing.map(({ key, was, is }) => `${key} was ${toText(was)}, now ${toText(is)}`)
  throw new ConfigError(
    `${path}: the run was started with another configuration: ${someNames(shown)}; use the same, or start a run of another name`,
  )
}

function toText(value: unknown): string {
  return value === undefined ? 'not set' : JSON.stringify(value)
}

/** Dotted keys whose values differ; arrays are compared whole. */
export function differingKeys(a: unknown, b: unknown, prefix = ''): { key: string; was: unknown; is: unknown }[] {
  if (isJsonObject(a) && isJsonObject(b)) {
    const keys = new Set([...Object.keys(a), ...Object.keys(b)])
    return [...keys].flatMap((key) => differingKeys(a[key], b[key], prefix === '' ? key : `${prefix}.${key}`))
  }
  return isDeepStrictEqual(a, b) ? [] : [{ key: prefix, was: a, is: b }]
}
