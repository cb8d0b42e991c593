// Energy that this machine takes, where it tells: RAPL counters of processors and memory (Linux powercap; Intel, AMD), and
// the power that NVIDIA's driver shows, summed over time. Of the whole machine, not of one process.
import { readText } from './read-text.ts'
import { ask } from './shell.ts'

const POWERCAP = '/sys/class/powercap'
/** Counters wrap round after some 260 kJ: at 1 kW in four minutes. */
const COUNTER_EVERY_MS = 30_000
/** Asking the driver starts a program and takes its locks for some milliseconds. */
const POWER_EVERY_MS = 10_000
const MOST_PACKAGES = 16

export interface MeasuredEnergy {
  readonly joules: number
  /** What was measured: 'package-0', 'dram', 'NVIDIA H100 80GB HBM3'. What is not here took energy too. */
  readonly sources: readonly string[]
}

export interface EnergyProbes {
  read(path: string): string | undefined
  /** Names and watts of the cards now; undefined where there are none. */
  power(): Promise<{ name: string; watts: number }[] | undefined>
}

interface Counter {
  readonly name: string
  readonly path: string
  /** Microjoules at which it starts again from 0. */
  readonly range: number
  last: number
}

/** Measures from `start` to `stop`; neither keeps the program alive. */
export class EnergyMeter {
  readonly #probes: EnergyProbes
  readonly #counters: Counter[]
  readonly #timers: NodeJS.Timeout[]
  readonly #cards = new Set<string>()
  #joules = 0
  #lastPower: { watts: number; at: number } | undefined
  #asking: Promise<void> | undefined

  private constructor(probes: EnergyProbes) {
    this.#probes = probes
    this.#counters = listCounters(probes.read)
    this.#asking = this.#askPower()
    this.#timers = [
      setInterval(() => this.#readCounters(), COUNTER_EVERY_MS),
      setInterval(() => {
        if (this.#lastPower !== undefined) this.#asking ??= this.#askPower()
      }, POWER_EVERY_MS),
    ]
    for (const timer of this.#timers) timer.unref()
  }

  static start(probes: EnergyProbes = { read: readText, power: askNvidia }): EnergyMeter {
    return new EnergyMeter(probes)
  }

  /** Ends the measurement. @returns undefined where nothing could be measured */
  async stop(): Promise<MeasuredEnergy | undefined> {
    for (const timer of this.#timers) clearInterval(timer)
    this.#readCounters()
    await this.#asking
    if (this.#lastPower !== undefined) await this.#askPower()
    const sources = [...this.#counters.map(({ name }) => name), ...this.#cards]
    return sources.length === 0 ? undefined : { joules: this.#joules, sources }
  }

  #readCounters(): void {
    for (const counter of this.#counters) {
      const now = Number(this.#probes.read(counter.path) ?? Number.NaN)
      if (!Number.isFinite(now)) continue
      const used = now >= counter.last ? now - counter.last : now + counter.range - counter.last
      this.#joules += used * 1e-6
      counter.last = now
    }
  }

  async #askPower(): Promise<void> {
    const cards = await this.#probes.power()
    this.#asking = undefined
    if (cards === undefined || cards.length === 0) return
    const at = performance.now()
    const watts = cards.reduce((total, card) => total + card.watts, 0)
    for (const { name } of cards) this.#cards.add(name)
    if (this.#lastPower !== undefined) {
      this.#joules += (((watts + this.#lastPower.watts) / 2) * (at - this.#lastPower.at)) / 1000
    }
    this.#lastPower = { watts, at }
  }
}

/** Packages, and memory beside them; cores lie inside their package. Readable by root alone on most systems. */
function listCounters(read: EnergyProbes['read']): Counter[] {
  const found: Counter[] = []
  for (let index = 0; index < MOST_PACKAGES; index++) {
    for (const zone of [
      `intel-rapl:${index}`,
      `intel-rapl:${index}:0`,
      `intel-rapl:${index}:1`,
      `intel-rapl:${index}:2`,
    ]) {
      const name = read(`${POWERCAP}/${zone}/name`)?.trim()
      const isPackage = zone.split(':').length === 2
      if (name === undefined || (!isPackage && name !== 'dram')) continue
      const path = `${POWERCAP}/${zone}/energy_uj`
      const last = Number(read(path) ?? Number.NaN)
      const range = Number(read(`${POWERCAP}/${zone}/max_energy_range_uj`) ?? Number.NaN)
      if (Number.isFinite(last) && Number.isFinite(range)) found.push({ name, path, range, last })
    }
  }
  return found
}

async function askNvidia(): Promise<{ name: string; watts: number }[] | undefined> {
  const answer = await ask('nvidia-smi', ['--query-gpu=name,power.draw', '--format=csv,noheader,nounits'])
  if (answer === undefined || answer === '') return undefined
  return answer.split('\n').flatMap((line) => {
    const [name, watts] = line.split(',').map((part) => part.trim())
    return name === undefined || !Number.isFinite(Number(watts)) ? [] : [{ name, watts: Number(watts) }]
  })
}
