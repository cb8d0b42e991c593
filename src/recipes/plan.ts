// trainyard plan: what a training would take of compute, time and memory, before it is started; a what-if at a terminal.
import { resolve } from 'node:path'
import type { RunContext } from '../config/context.ts'
import { parseFlags } from '../config/flags.ts'
import { defineRecipe } from '../config/recipe.ts'
import { resolveConfig } from '../config/resolve.ts'
import { overlay } from '../config/values.ts'
import { ConfigError } from '../core/errors.ts'
import { describeMemory } from '../machine/memory.ts'
import { openDevice } from '../open.ts'
import { type Cost, costLines, costOf } from '../plan/cost/cost.ts'
import { readPrices, type Site } from '../plan/cost/prices.ts'
import { type DeviceSpec, findDevice, measuredDevice } from '../plan/devices.ts'
import { reportLines } from '../plan/report.ts'
import { type Answer, answer } from '../plan/what-if.ts'
import { measureDeviceRates } from '../train/step-time.ts'
import { measuredPeakOf } from './device-fields.ts'
import { type Config, config, type PlanDevice, questionOf } from './plan-question.ts'

const recipe = defineRecipe({
  name: 'plan',
  summary: 'see what a training would take of compute, time and memory, before it is started',
  description:
    'Counts parameters and FLOPs, judges the number of tokens, estimates the time at an assumed share of the peak, and stacks the memory of one device: all in closed form, in milliseconds, for any cluster. A model that Trainyard can train is also planned exactly, by a dry run.\n\nAt a terminal it asks what to change and shows the new picture: devices=64 zero=1, or the flags themselves.',
  examples: [
    { command: 'plan llama-3-8b --devices 64 --zero 1', does: 'a published model on 64 H100' },
    { command: 'plan gpt-3-175b --device a100 --devices 1024 --tensor 8 --pipeline 8 --json', does: 'for a program' },
    {
      command: 'plan depth-12 --device cpu --precision fp32',
      does: "pretrain's own model of 12 layers, on this machine",
    },
  ],
  config,
  positional: ['model'],
  async run(options, context) {
    const on = await openPlanDevice(options.device, context)
    const first = await answer(questionOf(options, on, context.cwd))
    if (options.json) {
      const { device } = on
      context.log(JSON.stringify({ ...first, device, cost: costOfRun(options, first, device, context)?.cost }, null, 2))
      return
    }
    show(options, first, on.device, context)
    if (context.canPrompt) await whatIf(options, on, context)
  },
})
export default recipe

function show(options: Config, result: Answer, device: DeviceSpec, context: RunContext): void {
  const { columns, hasColor: color } = context
  const costs = costOfRun(options, result, device, context)
  const cost = costs === undefined ? [] : costLines(costs.cost, costs.site)
  for (const line of reportLines(result, { device, columns, color, cost })) context.log(line)
}

/** Money, energy and carbon; undefined for a device whose power nobody knows. */
function costOfRun(
  { prices: file, site: name }: Config,
  { time }: Answer,
  device: DeviceSpec,
  { cwd }: RunContext,
): { cost: Cost; site: Site } | undefined {
  const prices = readPrices(file === undefined ? undefined : resolve(cwd, file))
  const site = prices.site(name)
  if (prices.watts(device) === undefined) return undefined
  return { cost: costOf({ device, deviceHours: time.deviceHours, prices, site }), site }
}

/** Asks for changes until an empty line. A change that is not possible says so and is dropped. */
async function whatIf(options: Config, first: PlanDevice, context: RunContext): Promise<void> {
  let current: Record<string, unknown> = options
  let on = first
  while (!context.signal.aborted) {
    const line = await context.prompt('\nchange (devices=64 zero=1 ...; empty line to end): ')
    if (line === undefined || line.trim() === '') return
    try {
      const words = line.trim().split(/\s+/)
      const flags = words.map((word) => (/^[A-Za-z]\w*=/.test(word) ? `--${word}` : word))
      const { values } = parseFlags('plan', recipe.fields, [], flags)
      const changed = overlay(current, values)
      const config = resolveConfig('plan', recipe.config, [{ source: 'flags', values: changed }])
      const next = config.device === current.device ? on : await openPlanDevice(config.device, context)
      const result = await answer(questionOf(config, next, context.cwd))
      current = changed
      on = next
      show(config, result, on.device, context)
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error
      context.warn(error.message)
    }
  }
}

/** This machine's processor, by its kernels. */
async function measureProcessor(context: RunContext): Promise<PlanDevice> {
  const cpu = await openDevice('cpu', {}, context.env)
  const rates = measureDeviceRates(cpu)
  const measuredFlops = Math.max(measuredPeakOf(cpu).flops, rates.productFlops)
  cpu.close()
  const memoryBytes = describeMemory().availableBytes
  const device = measuredDevice('this processor', { measuredFlops, memoryBytes, memoryBandwidth: rates.bandwidth })
  return { device, rates }
}

async function openPlanDevice(name: string, context: RunContext): Promise<PlanDevice> {
  return name === 'cpu' ? await measureProcessor(context) : { device: findDevice(name) }
}
