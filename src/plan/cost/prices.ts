// The figures that cost, energy and carbon are computed with: read from YAML that the user can edit, checked by name.
import { readFileSync } from 'node:fs'
import { parse } from 'yaml'
import { z } from 'zod'
import { didYouMean } from '../../config/suggest.ts'
import { ConfigError } from '../../core/errors.ts'
import { type DeviceSpec, findDevice } from '../devices.ts'

const share = z.number().min(0)
const positive = z.number().positive()

const schema = z.strictObject({
  currency: z.string().min(1).default('USD'),
  devices: z.record(z.string(), z.strictObject({ hourly: share.optional(), watts: positive.optional() })).default({}),
  sites: z
    .record(
      z.string(),
      z.strictObject({
        pue: z.number().min(1),
        idleShare: share.default(0),
        gridKgPerKwh: share,
        electricity: share.default(0),
      }),
    )
    .default({}),
  embodied: z
    .strictObject({
      deviceKg: share,
      serverKg: share,
      devicesPerServer: positive,
      years: positive,
      utilization: z.number().positive().max(1),
    })
    .optional(),
})

/** What a site adds to its devices' power, and what its electricity costs and emits. */
export interface Site {
  readonly name: string
  /** Power of the whole site over power of its computers. */
  readonly pue: number
  /** Energy of nodes, network and storage beside the devices, as a share of the devices' energy. */
  readonly idleShare: number
  /** Kilograms of CO2 equivalents a kilowatt-hour. */
  readonly gridKgPerKwh: number
  /** Price of a kilowatt-hour. */
  readonly electricity: number
}

/** Emissions of manufacture, and over what they are written off. */
export interface Embodied {
  readonly deviceKg: number
  readonly serverKg: number
  readonly devicesPerServer: number
  readonly years: number
  /** Share of those years in which the devices work. */
  readonly utilization: number
}

export interface Prices {
  readonly currency: string
  /** Price of one device for an hour; undefined where the file has none. */
  hourly(device: DeviceSpec): number | undefined
  /** Watts that a device takes; undefined where neither the file nor its data sheet says. */
  watts(device: DeviceSpec): number | undefined
  /** @throws ConfigError for a site that the file does not have */
  site(name: string): Site
  readonly embodied: Embodied | undefined
}

const DEFAULT_PRICES = new URL('prices.yaml', import.meta.url)

/**
 * @param path  YAML as in src/plan/cost/prices.yaml, which is the default
 * @throws ConfigError that names file and key
 */
export function readPrices(path?: string): Prices {
  const shown = path ?? 'prices.yaml'
  let text: string
  try {
    text = readFileSync(path ?? DEFAULT_PRICES, 'utf8')
  } catch (error) {
    throw new ConfigError(
      `plan: expected a file of prices at ${shown}, which cannot be read: copy src/plan/cost/prices.yaml`,
      {
        cause: error,
      },
    )
  }
  const parsed = schema.safeParse(parseYaml(text, shown))
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    throw new ConfigError(
      `plan: ${shown}: ${issue!.path.join('.') || 'the file'}: ${issue!.message}; see src/plan/cost/prices.yaml`,
    )
  }
  const { currency, devices, sites, embodied } = parsed.data
  // Names of the file are looked up as a user's are, so that a misspelt one is found here and not ignored.
  const rows = new Map(Object.entries(devices).map(([name, row]) => [findDevice(name).name, row]))
  return {
    currency,
    embodied,
    hourly: ({ name }) => rows.get(name)?.hourly,
    watts: ({ name, watts }) => rows.get(name)?.watts ?? watts,
    site: (name) => {
      const found = Object.hasOwn(sites, name) ? sites[name] : undefined
      if (found !== undefined) return { name, ...found }
      const known = Object.keys(sites)
      throw new ConfigError(
        `plan: expected a site of ${shown}, which has ${known.join(', ') || 'none'}, got ${JSON.stringify(name)}${didYouMean(name, known, JSON.stringify)}`,
      )
    },
  }
}

function parseYaml(text: string, shown: string): unknown {
  try {
    return parse(text)
  } catch (error) {
    throw new ConfigError(`plan: ${shown} is not YAML: ${(error as Error).message}`, { cause: error })
  }
}
