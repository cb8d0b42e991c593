// trainyard bench step: how fast this machine trains, and where the time of a step goes.
import { z } from 'zod'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { formatCount, formatFlops, formatPercent } from '../display/format.ts'
import { table } from '../display/text.ts'
import { openDevice } from '../open.ts'
import { CPU_SHAPES, openShape, undisturbed } from '../train/bench-shapes.ts'
import { timeKernels } from '../train/step-times.ts'
import { measuredPeakOf } from './device-fields.ts'

export default defineRecipe({
  name: 'bench step',
  summary: 'time training steps on this machine, kernel by kernel',
  description:
    'Trains a GPT-2 shape on random tokens and prints tokens per second, model FLOP/s ((6 P + 12 L d T) a token) as a part of the measured peak, and the time of one step by kernel, which sums to the step.',
  examples: [
    { command: 'bench step', does: 'the character model' },
    { command: 'bench step --shape 124M --matmul-precision bf16', does: 'GPT-2 small, products in bf16' },
  ],
  config: z.object({
    shape: field(z.enum(Object.keys(CPU_SHAPES) as [string, ...string[]]).default('char'), {
      describe: 'char: 0.8 M parameters, 10M: 6.8 M without positions, 124M: GPT-2 small',
    }),
    passes: field(z.number().int().min(1).default(3), { describe: 'rounds of some steps; the fastest quarter counts' }),
    threads: field(z.number().int().min(1).optional(), { describe: 'CPU threads; default all', example: 2 }),
    matmulPrecision: field(z.enum(['f32', 'bf16']).default('f32'), { describe: 'products in matmul; sums are f32' }),
    json: field(z.boolean().default(false), { describe: 'print one JSON object' }),
  }),
  async run({ shape: name, passes, threads, matmulPrecision, json }, context) {
    const device = await openDevice('cpu', { matmulPrecision, ...(threads !== undefined && { threads }) }, context.env)
    const shape = CPU_SHAPES[name]!
    const { step, tokensPerStep, parameterCount, flopsPerStep } = await openShape(device, shape)
    await step()
    const times: number[] = []
    const peak = measuredPeakOf(device)
    for (let pass = 0; pass < passes && !context.signal.aborted; pass++) {
      for (let i = 0; i < shape.steps; i++) {
        const start = performance.now()
        await step()
        times.push(performance.now() - start)
        await context.turn()
      }
      peak.measureAgain()
    }
    const milliseconds = undisturbed(times)
    const flops = (flopsPerStep / milliseconds) * 1000
    const timed = await timeKernels(device, step)
    const inKernels = timed.kernels.reduce((sum, time) => sum + time.milliseconds, 0)
    const rest = { kernel: 'JavaScript and the rest', calls: 1, milliseconds: timed.milliseconds - inKernels }
    const facts = {
      shape: name,
      threads: device.threads,
      isa: device.isa,
      matmulPrecision,
      parameterCount,
      millisecondsPerStep: milliseconds,
      tokensPerSecond: (tokensPerStep / milliseconds) * 1000,
      flopsPerSecond: flops,
      peakFlopsPerSecond: peak.flops,
    }
    device.close()
    if (json) {
      context.log(JSON.stringify({ ...facts, stepByKernel: [...timed.kernels, rest], timedStep: timed.milliseconds }))
      return
    }
    context.log(
      `${name}: ${formatCount(parameterCount)} parameters, ${milliseconds.toFixed(1)} ms per step, ${formatCount(facts.tokensPerSecond)} tok/s`,
    )
    context.log(
      `${formatFlops(flops)}, ${formatPercent(flops / peak.flops)} of the measured ${peak.what} of ${formatFlops(peak.flops)} (${device.threads} threads, ${device.isa}, ${matmulPrecision} products)`,
    )
    const rows = [...timed.kernels, rest].map((time) => [
      time.kernel,
      time === rest ? '' : String(time.calls),
      `${time.milliseconds.toFixed(2)} ms`,
      formatPercent(time.milliseconds / timed.milliseconds),
    ])
    const total = ['one step', '', `${timed.milliseconds.toFixed(2)} ms`, formatPercent(1)]
    const lines = table([['kernel', 'calls', 'time', 'share'], ...rows, total], {
      align: ['left', 'right', 'right', 'right'],
      hasHeading: true,
    })
    for (const line of lines) context.log(line)
  },
})
