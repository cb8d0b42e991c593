// Money, energy and carbon of device-hours: power x PUE x grid intensity (Strubell et al. 2019, arXiv:1906.02243; Patterson
// et al. 2021, arXiv:2104.10350), and a share of the manufacture (Luccioni et al. 2022, arXiv:2211.02001).
import { ConfigError } from '../../core/errors.ts'
import { formatCount } from '../../display/format.ts'
import type { DeviceSpec } from '../devices.ts'
import type { Embodied, Prices, Site } from './prices.ts'

const HOURS_PER_YEAR = 8760

export interface CostInput {
  readonly device: DeviceSpec
  readonly deviceHours: number
  readonly prices: Prices
  readonly site: Site
  /** Mean watts of a device, in place of its design power. */
  readonly watts?: number
  /** Whether to count the manufacture. */
  readonly hasEmbodied?: boolean
}

export interface Cost {
  readonly deviceHours: number
  readonly currency: string
  /** Hours times hourly price; undefined without a price. */
  readonly rent: number | undefined
  readonly electricity: number
  /** Of the devices, kilowatt-hours. */
  readonly deviceKwh: number
  /** Of the whole site: with idle parts and PUE. */
  readonly siteKwh: number
  /** Kilograms of CO2 equivalents. */
  readonly carbon: {
    /** Of the devices' own energy, without the site. */
    readonly dynamic: number
    /** Of what the site adds. */
    readonly site: number
    readonly embodied: number
    readonly total: number
  }
}

/** @throws ConfigError where a device's power is not known, or manufacture is to be counted without figures */
export function costOf({ device, deviceHours, prices, site, watts, hasEmbodied = false }: CostInput): Cost {
  if (!(deviceHours >= 0)) {
    throw new ConfigError(`plan: device-hours must be a number of at least 0, got ${deviceHours}`)
  }
  const power = watts ?? prices.watts(device)
  if (power === undefined) {
    throw new ConfigError(
      `plan: the power of ${device.name} is not published: give watts for it in a file of prices (--prices)`,
    )
  }
  const deviceKwh = (deviceHours * power) / 1000
  const { siteKwh, dynamicKg, siteKg } = footprintAt(site, deviceKwh)
  const embodied = hasEmbodied ? embodiedKg(deviceHours, prices.embodied) : 0
  const hourly = prices.hourly(device)
  return {
    deviceHours,
    currency: prices.currency,
    rent: hourly === undefined ? undefined : hourly * deviceHours,
    electricity: siteKwh * site.electricity,
    deviceKwh,
    siteKwh,
    carbon: { dynamic: dynamicKg, site: siteKg, embodied, total: dynamicKg + siteKg + embodied },
  }
}

export interface SiteFootprint {
  readonly siteKwh: number
  /** Kilograms of CO2 equivalents of the devices' own energy, and of what the site adds. */
  readonly dynamicKg: number
  readonly siteKg: number
}

/** What kilowatt-hours of devices become at a site, with its idle parts and PUE. */
export function footprintAt(site: Site, deviceKwh: number): SiteFootprint {
  const siteKwh = deviceKwh * (1 + site.idleShare) * site.pue
  return { siteKwh, dynamicKg: deviceKwh * site.gridKgPerKwh, siteKg: (siteKwh - deviceKwh) * site.gridKgPerKwh }
}

/** Manufacture of the hours' share of a device's working life, and of its part of a server. */
function embodiedKg(deviceHours: number, embodied: Embodied | undefined): number {
  if (embodied === undefined) {
    throw new ConfigError('plan: the file of prices has no embodied figures: copy them from src/plan/cost/prices.yaml')
  }
  const { deviceKg, serverKg, devicesPerServer, years, utilization } = embodied
  return (deviceHours * (deviceKg + serverKg / devicesPerServer)) / (years * utilization * HOURS_PER_YEAR)
}

/** The cost in lines for a terminal. */
export function costLines(cost: Cost, site: Site): string[] {
  const { carbon, currency } = cost
  const money = (value: number): string => `${formatCount(value).replace('G', 'B')} ${currency}`
  const rent = cost.rent === undefined ? 'no hourly price known' : `rent ${money(cost.rent)}`
  const parts = [
    `devices ${formatMass(carbon.dynamic)}`,
    `site ${formatMass(carbon.site)}`,
    ...(carbon.embodied > 0 ? [`manufacture ${formatMass(carbon.embodied)}`] : []),
  ]
  return [
    `${formatCount(cost.deviceHours)} device-hours: ${rent}, electricity ${money(cost.electricity)}`,
    `${formatEnergy(cost.siteKwh)} at site ${site.name} (devices ${formatEnergy(cost.deviceKwh)}), ${formatMass(carbon.total)} CO2eq: ${parts.join(', ')}`,
  ]
}

/** 1234567 kWh -> '1.23 GWh'. */
export function formatEnergy(kilowattHours: number): string {
  return `${formatCount(kilowattHours * 1000).replace(/([kMGTPE]?)$/, ' $1Wh')}`
}

/** 24690 kg -> '24.7 t'. */
export function formatMass(kilograms: number): string {
  if (kilograms >= 999.5) return `${formatCount(kilograms / 1000)} t`
  return kilograms >= 1 || kilograms === 0 ? `${formatCount(kilograms)} kg` : `${formatCount(kilograms * 1000)} g`
}
