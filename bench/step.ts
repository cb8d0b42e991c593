// Training steps of the CPU shapes: milliseconds, tokens/s and model FLOP/s beside the FMA peak measured in the same run.
//   node bench/step.ts [char] [10M] [124M] [--threads 2] [--precision bf16] [--passes 3] [--ops]
// --ops prints the time of one step by kernel.
import { parseArgs } from 'node:util'
import type { Kernels } from '../src/core/kernels.ts'
import { openDevice } from '../src/open.ts'
import { CPU_SHAPES, type CpuShape, openShape, undisturbed } from './cpu-shapes.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string', default: '2' },
    precision: { type: 'string', default: 'f32' },
    passes: { type: 'string', default: '3' },
    ops: { type: 'boolean', default: false },
  },
})

const device = await openDevice('cpu', {
  threads: Number(values.threads),
  matmulPrecision: values.precision === 'bf16' ? 'bf16' : 'f32',
})

/** Wraps every kernel with a clock; costs a microsecond a call. */
function timeKernels(kernels: Kernels): Map<string, { ms: number; calls: number }> {
  const times = new Map<string, { ms: number; calls: number }>()
  const table = kernels as unknown as Record<string, (...args: unknown[]) => void>
  for (const [name, kernel] of Object.entries(table)) {
    const time = { ms: 0, calls: 0 }
    times.set(name, time)
    table[name] = (...args) => {
      const start = performance.now()
      kernel(...args)
      time.ms += performance.now() - start
      time.calls++
    }
  }
  return times
}

async function run(name: string, shape: CpuShape): Promise<void> {
  const { step, tokensPerStep, parameterCount, flopsPerStep } = await openShape(device, shape)
  const timed = async (): Promise<number> => {
    const start = performance.now()
    await step()
    return performance.now() - start
  }
  await timed()
  const times: number[] = []
  let peak = 0
  for (let pass = 0; pass < Number(values.passes); pass++) {
    peak = Math.max(peak, device.measurePeakFlops().f32)
    for (let i = 0; i < shape.steps; i++) times.push(await timed())
  }
  const ms = undisturbed(times)
  const flops = (flopsPerStep / ms) * 1e3
  console.log(
    `${name.padEnd(5)} ${(parameterCount / 1e6).toFixed(1).padStart(6)} M  ${ms.toFixed(1).padStart(8)} ms/step  ${((tokensPerStep / ms) * 1e3).toFixed(0).padStart(7)} tok/s  ${(flops / 1e9).toFixed(0).padStart(5)} GFLOP/s  ${((100 * flops) / peak).toFixed(1).padStart(5)} % of ${(peak / 1e9).toFixed(0)}`,
  )
  if (!values.ops) return
  const clock = timeKernels(device.kernels)
  const wall = await timed()
  const rows = [...clock].filter(([, t]) => t.calls > 0).sort((a, b) => b[1].ms - a[1].ms)
  const kernels = rows.reduce((sum, [, t]) => sum + t.ms, 0)
  for (const [kernel, { ms: spent, calls }] of rows) {
    console.log(
      `      ${kernel.padEnd(24)} ${spent.toFixed(2).padStart(8)} ms  ${((100 * spent) / wall).toFixed(1).padStart(5)} %  ${calls} calls`,
    )
  }
  console.log(
    `      ${'JavaScript and the rest'.padEnd(24)} ${(wall - kernels).toFixed(2).padStart(8)} ms  ${((100 * (wall - kernels)) / wall).toFixed(1).padStart(5)} %`,
  )
}

console.log(`threads ${device.threads}, ${device.isa}, matmul ${device.matmulPrecision}`)
for (const name of positionals.length > 0 ? positionals : Object.keys(CPU_SHAPES)) {
  const chosen = CPU_SHAPES[name]
  if (chosen === undefined)
    throw new Error(`bench/step: shape must be one of ${Object.keys(CPU_SHAPES).join(', ')}, got ${name}`)
  await run(name, chosen)
}
device.close()
