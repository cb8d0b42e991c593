// The campaign: damaged inputs through the readers, in this process, one after the other, and what was wrong with the
// answers. Input k of a target is the same whatever else runs, so that it can be run again alone.
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { TrainyardError } from '../../src/core/errors.ts'
import { FuzzRandom } from './fuzz-random.ts'
import { faultOf } from './judge.ts'
import { makeSeeds, readFolder, writeFolder } from './seeds.ts'
import type { FuzzTarget } from './target.ts'
import { dataTargets } from './targets-data.ts'
import { checkpointTargets } from './targets-models.ts'

const MAX_SECONDS = 2
const MAX_GROWTH_BYTES = 2 ** 30

export interface Outcome {
  readonly kind: 'accepted' | 'refused' | 'wrong'
  /** What was wrong, or the sentence of the refusal. */
  readonly detail: string
}

export async function openTargets(): Promise<FuzzTarget[]> {
  const seeds = await makeSeeds()
  return [...dataTargets(seeds), ...checkpointTargets(seeds)]
}

/** Inputs of each target in a campaign of about `count`. */
export function sharesOf(targets: readonly FuzzTarget[], count: number): Map<FuzzTarget, number> {
  const total = targets.reduce((sum, { weight }) => sum + weight, 0)
  return new Map(targets.map((target) => [target, Math.ceil((count * target.weight) / total)]))
}

/** A target with its good files in a folder, where inputs take their places one after the other. */
export class Workbench {
  readonly target: FuzzTarget
  readonly folder: string
  readonly #root: string
  readonly #seed: number

  constructor(target: FuzzTarget, seed: number) {
    this.target = target
    this.#seed = seed
    this.#root = mkdtempSync(join(tmpdir(), 'trainyard-fuzz-'))
    this.folder = join(this.#root, 'input')
    writeFolder(this.folder, target.files)
  }

  /** Writes input `index`, has it read, and puts the good files back. */
  async run(index: number): Promise<Outcome> {
    const { target, folder } = this
    const random = new FuzzRandom(this.#seed, `${target.name}.${index}`)
    const changes = target.mutate(random)
    this.#write(changes)
    const expected = new Map([...target.files, ...changes])
    const outcome = await this.#read(random)
    const touched = target.changesFiles === true ? undefined : differenceOf(expected, readFolder(folder))
    if (target.changesFiles) for (const name of target.files.keys()) rmSync(join(folder, name))
    this.#write(
      target.changesFiles ? target.files : new Map([...changes.keys()].map((name) => [name, target.files.get(name)])),
    )
    return touched === undefined ? outcome : { kind: 'wrong', detail: `${touched} was changed by the reader` }
  }

  #write(files: Iterable<readonly [string, Buffer | undefined]>): void {
    for (const [name, bytes] of files) {
      const path = join(this.folder, name)
      // A new file and not new contents: mappings of the old one must stay what they are.
      rmSync(path, { force: true })
      if (bytes === undefined) continue
      mkdirSync(dirname(path), { recursive: true })
      writeFileSync(path, bytes)
    }
  }

  async #read(random: FuzzRandom): Promise<Outcome> {
    const { target, folder } = this
    const peak = process.resourceUsage().maxRSS
    const started = performance.now()
    const cpu = process.cpuUsage()
    let outcome: Outcome = { kind: 'accepted', detail: '' }
    try {
      await target.read(folder, random)
    } catch (error) {
      const fault = faultOf(error, target, folder)
      if (fault !== undefined) outcome = { kind: 'wrong', detail: fault }
      else outcome = { kind: 'refused', detail: (error as TrainyardError).message }
    }
    // On a busy machine the clock runs on while nothing happens here.
    const { user, system } = process.cpuUsage(cpu)
    const seconds = Math.min((performance.now() - started) / 1000, (user + system) / 1e6)
    const growth = (process.resourceUsage().maxRSS - peak) * 1024
    // Both are told: memory takes time to fill.
    const faults = [
      ...(seconds > MAX_SECONDS ? [`took ${seconds.toFixed(1)} s`] : []),
      ...(growth > MAX_GROWTH_BYTES ? [`took ${(growth / 2 ** 20).toFixed(0)} MiB of memory`] : []),
    ]
    if (faults.length > 0) return { kind: 'wrong', detail: [...faults, outcome.detail].join('; ') }
    return outcome
  }

  /** Copies input `index` to a folder, to look at it. */
  keep(index: number, to: string): void {
    this.#write(this.target.mutate(new FuzzRandom(this.#seed, `${this.target.name}.${index}`)))
    cpSync(this.folder, to, { recursive: true })
  }

  [Symbol.dispose](): void {
    rmSync(this.#root, { recursive: true, force: true })
  }
}

/** The first file that is not as it was, or not there, or new. */
export function differenceOf(
  expected: ReadonlyMap<string, Buffer | undefined>,
  found: ReadonlyMap<string, Buffer>,
): string | undefined {
  for (const [name, bytes] of expected) {
    const now = found.get(name)
    if (bytes === undefined ? now !== undefined : now === undefined || !bytes.equals(now)) return name
  }
  return [...found.keys()].find((name) => !expected.has(name))
}
