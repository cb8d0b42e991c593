// The energy meter on made-up counters and cards: sums, wrapping round, what is left out.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EnergyMeter } from '../../src/machine/energy.ts'

const ZONE = '/sys/class/powercap/intel-rapl:'

test('RAPL: packages and memory are summed, cores are not, a counter that wraps goes on', async () => {
  const files: Record<string, string> = {
    [`${ZONE}0/name`]: 'package-0\n',
    [`${ZONE}0/energy_uj`]: '900000\n',
    [`${ZONE}0/max_energy_range_uj`]: '1000000\n',
    [`${ZONE}0:0/name`]: 'core',
    [`${ZONE}0:0/energy_uj`]: '0',
    [`${ZONE}0:0/max_energy_range_uj`]: '1000000',
    [`${ZONE}0:1/name`]: 'dram',
    [`${ZONE}0:1/energy_uj`]: '5',
    [`${ZONE}0:1/max_energy_range_uj`]: '1000000',
  }
  const meter = EnergyMeter.start({ read: (path) => files[path], power: async () => undefined })
  files[`${ZONE}0/energy_uj`] = '100000'
  files[`${ZONE}0:0/energy_uj`] = '700000'
  files[`${ZONE}0:1/energy_uj`] = '300005'
  const energy = await meter.stop()
  assert.deepEqual(energy?.sources, ['package-0', 'dram'])
  assert.ok(Math.abs(energy.joules - 0.5) < 1e-9, `${energy.joules}`)
})

test('cards: mean power times time', async () => {
  const other = { name: 'other', watts: 50 }
  const answers = [
    [{ name: 'card', watts: 100 }, other],
    [{ name: 'card', watts: 300 }, other],
  ]
  const meter = EnergyMeter.start({ read: () => undefined, power: async () => answers.shift() })
  const started = performance.now()
  await new Promise((resolve) => setTimeout(resolve, 50))
  const energy = await meter.stop()
  const seconds = (performance.now() - started) / 1000
  assert.deepEqual(energy?.sources, ['card', 'other'])
  assert.ok(energy.joules > 250 * 0.03 && energy.joules <= 250 * (seconds + 0.02), `${energy.joules} J in ${seconds} s`)
})

test('nothing that tells: no energy, not 0', async () => {
  assert.equal(await EnergyMeter.start({ read: () => undefined, power: async () => undefined }).stop(), undefined)
  // A counter that only root may read.
  const read = (path: string): string | undefined => (path === `${ZONE}0/name` ? 'package-0' : undefined)
  assert.equal(await EnergyMeter.start({ read, power: async () => [] }).stop(), undefined)
})
