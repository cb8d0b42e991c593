// trainyard bench attention: attention by tiles beside attention by whole matrices, over the length of a sequence.
import { totalmem } from 'node:os'
import { z } from 'zod'
import type { CpuDevice } from '../backends/cpu/device.ts'
import type { CudaDevice } from '../backends/cuda/device.ts'
import type { RunContext } from '../config/context.ts'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { ConfigError } from '../core/errors.ts'
import { renderBarChart } from '../display/chart.ts'
import { formatBytes, formatCount, formatDuration, formatFlops } from '../display/format.ts'
import { table } from '../display/text.ts'
import { type AttentionComparison, compareAttention, type FormTimes, longestLength } from '../train/attention-bench.ts'
import { inferenceDeviceFields, openChosenDevice } from './device-fields.ts'

const { device, precision, attention, threads } = inferenceDeviceFields
const whole = z.number().int().min(1)

/** What each kind of device does in some seconds. */
const USUAL = {
  cpu: { tokens: 4096, heads: 4, headDim: 64, lengths: [256, 512, 1024, 2048, 4096] },
  cuda: { tokens: 16384, heads: 16, headDim: 128, lengths: [256, 512, 1024, 2048, 4096, 8192, 16384] },
} as const

type Config = z.infer<typeof config>
const config = z.object({
  device,
  precision,
  attention,
  threads,
  lengths: field(z.array(whole).default([]), {
    describe: 'lengths of sequences to measure; default powers of two',
    unit: 'tokens',
    example: 1024,
  }),
  tokens: field(whole.optional(), { describe: 'tokens in all: their number of sequences falls with the length' }),
  heads: field(whole.optional(), { describe: 'heads of a token' }),
  headDim: field(whole.optional(), { describe: 'columns of a head' }),
  repeats: field(whole.default(7), {
    describe: 'times that each pass is timed; the median counts, on a CPU the fastest',
  }),
  json: field(z.boolean().default(false), { describe: 'print one JSON object' }),
})

export default defineRecipe({
  name: 'bench attention',
  summary: 'attention by tiles beside the vanilla form: time, FLOPs and memory traffic over the length',
  description:
    'Times the attention that models use, which never makes the matrix of scores, beside the vanilla form: a product, a softmax and a product over whole matrices, whose probabilities are kept for the backward. Both run on the same random tensors of this device, without a mask, so that their forwards do the same FLOPs. Bytes are counted: what each operation must read from and write to the memory.',
  examples: [
    { command: 'bench attention', does: 'both forms on the CPU' },
    { command: 'bench attention --device cuda --lengths 1024,4096', does: 'two lengths on a GPU' },
  ],
  config,
  async run(chosen, context) {
    const usual = USUAL[chosen.device === 'cpu' ? 'cpu' : 'cuda']
    const { tokens = usual.tokens, heads = usual.heads, headDim = usual.headDim } = chosen
    const lengths = chosen.lengths.length > 0 ? chosen.lengths : usual.lengths.filter((length) => length <= tokens)
    const uneven = lengths.find((length) => tokens % length !== 0)
    if (uneven !== undefined) {
      throw new ConfigError(`lengths: must divide tokens (${tokens}), got ${uneven}: choose another, or set --tokens`)
    }
    const opened = await openChosenDevice({ ...chosen, deterministic: true, matmulPrecision: 'f32' }, context.env)
    try {
      const rows: AttentionComparison[] = []
      for (const length of lengths) {
        if (context.signal.aborted) break
        const shape = { heads: (tokens / length) * heads, length, headDim }
        rows.push(await compareAttention(opened, shape, chosen.repeats))
        await context.turn()
      }
      const longest = longestOf(opened, heads, headDim)
      const facts = { device: opened.name, dtype: opened.floatDtype, tokens, heads, headDim }
      if (chosen.json) context.log(JSON.stringify({ ...facts, rows, longest }))
      else show(context, chosen, facts, rows, longest)
    } finally {
      opened.close()
    }
  },
})

interface Longest {
  memoryBytes: number
  tiles: number
  vanilla: number
}

/** Of one sequence, forward and backward, in all of the device's memory. */
function longestOf(device: CpuDevice | CudaDevice, headsOfToken: number, headDim: number): Longest {
  const memoryBytes = 'ownMemory' in device ? device.ownMemory().totalBytes : totalmem()
  const size = { headsOfToken, headDim, elementBytes: device.itemBytes(device.floatDtype) }
  return {
    memoryBytes,
    tiles: longestLength(memoryBytes, size, 'tiles'),
    vanilla: longestLength(memoryBytes, size, 'vanilla'),
  }
}

function show(
  context: RunContext,
  { repeats }: Config,
  facts: { device: string; dtype: string; tokens: number; heads: number; headDim: number },
  rows: readonly AttentionComparison[],
  longest: Longest,
): void {
  context.log(
    `${facts.tokens} tokens, ${facts.heads} heads of ${facts.headDim}, ${facts.dtype} on ${facts.device}, no mask; each timed ${repeats} times; bytes counted`,
  )
  const cells = ({ form, forward, backward, heldBytes }: FormTimes): string[] => [
    form,
    ...[forward, backward].flatMap(({ milliseconds, flops, bytes }) => [
      formatDuration(milliseconds / 1000),
      formatFlops((flops / milliseconds) * 1000),
      formatBytes(bytes),
    ]),
    formatBytes(heldBytes),
  ]
  const lines = rows.flatMap(({ length, tiles, vanilla }) => [
    [String(length), ...cells(tiles)],
    ['', ...('problem' in vanilla ? ['vanilla', vanilla.problem, '', '', '', '', '', ''] : cells(vanilla))],
  ])
  const heading = ['length', 'form', 'forward', '', 'moved', 'backward', '', 'moved', 'held']
  const align = ['right', 'left', ...Array.from({ length: 7 }, () => 'right' as const)] as ('left' | 'right')[]
  for (const line of table([heading, ...lines], { align, hasHeading: true })) context.log(line)
  context.log('')
  context.log('forward and backward:')
  const total = ({ forward, backward }: FormTimes): number => forward.milliseconds + backward.milliseconds
  const bars = rows.flatMap(({ length, tiles, vanilla }) => [
    { label: `${String(length).padStart(7)} tiles`, value: total(tiles) },
    'problem' in vanilla
      ? { label: '        vanilla', value: 0, note: vanilla.problem }
      : {
          label: '        vanilla',
          value: total(vanilla),
          note: `${(total(vanilla) / total(tiles)).toFixed(1)} times as long, ${ratioOfBytes(vanilla, tiles)} times the bytes`,
        },
  ])
  const format = (milliseconds: number): string => formatDuration(milliseconds / 1000)
  for (const line of renderBarChart(bars, { width: context.columns, format, color: context.hasColor })) {
    context.log(line)
  }
  context.log('')
  const farthest = rows.map(({ distance }) => Math.max(distance?.out ?? 0, distance?.dq ?? 0))
  context.log(
    `results of the two forms differ by ${Math.max(...farthest).toExponential(1)} of their norm at most; one sequence fits ${formatBytes(longest.memoryBytes)} up to ${formatCount(longest.vanilla)} tokens as vanilla and ${formatCount(longest.tiles)} by tiles`,
  )
}

function ratioOfBytes(vanilla: FormTimes, tiles: FormTimes): string {
  return ((vanilla.forward.bytes + vanilla.backward.bytes) / (tiles.forward.bytes + tiles.backward.bytes)).toFixed(0)
}
