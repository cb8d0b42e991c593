// trainyard doctor: what this machine has, what it lacks, and what each missing thing would enable. Changes nothing.
import { z } from 'zod'
import type { RunContext } from '../config/context.ts'
import { field } from '../config/field.ts'
import { wrap } from '../config/help.ts'
import { defineRecipe } from '../config/recipe.ts'
import { DeviceError } from '../core/errors.ts'
import { formatBytes, formatFlops, formatPercent } from '../display/format.ts'
import { pad, paint } from '../display/text.ts'
import { findLibraries, LIBRARIES, LIBRARY_PATH_SETTING, type LibraryName } from '../machine/libraries.ts'
import { MATMUL_SIZE, measureMatmulFlops } from '../machine/matmul-speed.ts'
import { describeMemory } from '../machine/memory.ts'
import { describeProcessor } from '../machine/processor.ts'
import { findCompiler, findMpiLauncher, listGpus } from '../machine/tools.ts'
import { openDevice } from '../open.ts'

/** What a missing library would enable. */
const ENABLES: Record<LibraryName, string> = {
  cuda: 'training on NVIDIA GPUs: install the NVIDIA driver',
  nvrtc: 'GPU kernels, compiled for your chip: install the CUDA toolkit, or pip install nvidia-cuda-nvrtc',
  cublasLt: 'fast matrix products on GPUs: install the CUDA toolkit, or pip install nvidia-cublas',
  cudnn: 'attention of cuDNN, the fastest for some shapes: install libcudnn9, or pip install nvidia-cudnn-cu13',
  nccl: 'training on several GPUs: install libnccl2, or pip install nvidia-nccl-cu13',
  mpi: 'training on several machines without GPUs: apt install mpich, or load the MPI module of your cluster',
}

type State = 'ok' | 'missing' | 'note'

interface Finding {
  section: string
  name: string
  state: State
  text: string
}

/** Multiply-adds and matrix products on all threads, the roof that percentages of peak refer to. About a second. */
async function measureProcessor(context: RunContext): Promise<Pick<Finding, 'name' | 'state' | 'text'>[]> {
  let isBuilding = false
  const onProgress = (): void => {
    if (!isBuilding) context.warn('building the CPU kernels (once, about a minute) ...')
    isBuilding = true
  }
  try {
    const device = await openDevice('cpu', { onProgress }, context.env)
    // In turns, because a virtual machine's cores are at times not its own; a peak below the product was disturbed.
    let [peak, product] = [0, 0]
    for (let round = 0; round < 2 || (round < 8 && peak < product); round++) {
      peak = Math.max(peak, device.measurePeakFlops().f32)
      product = Math.max(product, measureMatmulFlops(device, 100))
    }
    const narrow = await measureBf16(context)
    device.close()
    const threads = device.threads === 1 ? '1 thread' : `${device.threads} threads`
    const bf16 = narrow === undefined ? '' : `, ${formatFlops(narrow)} with bf16 factors`
    const size = `${MATMUL_SIZE} x ${MATMUL_SIZE} matrices`
    // Other programs had the cores whenever the peak was measured: no share of it is known, only a bound.
    const isDisturbed = peak < product
    const share = isDisturbed
      ? 'peak disturbed by other programs: measure again'
      : `${formatPercent(product / peak)} of peak`
    const roof = `${isDisturbed ? 'at least ' : ''}${formatFlops(Math.max(peak, product))}`
    return [
      { name: 'peak', state: 'ok', text: `${roof} in f32: ${threads}, ${device.isa} kernels` },
      {
        name: 'products',
        state: 'ok',
        text: `${formatFlops(product)} (${share})${bf16}; ${size}`,
      },
    ]
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error
    return [{ name: 'peak', state: 'missing', text: `training at all; ${error.message}` }]
  }
}

/** undefined where the processor, or the instruction set asked for, has no bf16 products. */
async function measureBf16(context: RunContext): Promise<number | undefined> {
  try {
    const device = await openDevice('cpu', { matmulPrecision: 'bf16' }, context.env)
    const flops = measureMatmulFlops(device)
    device.close()
    return flops
  } catch (error) {
    if (error instanceof DeviceError) return undefined
    throw error
  }
}

/** What the first card can do with the libraries that were found: --device cuda opens the same. */
async function examineCard(
  context: RunContext,
  isMeasuring: boolean,
): Promise<Pick<Finding, 'name' | 'state' | 'text'>[]> {
  try {
    const device = await openDevice('cuda', {}, context.env)
    const { card, libraryVersions } = device
    const { freeBytes, totalBytes } = device.ownMemory()
    const found: Pick<Finding, 'name' | 'state' | 'text'>[] = [
      {
        name: 'card',
        state: 'ok',
        text: `${card.name}: compute capability ${(card.computeCapability / 10).toFixed(1)}, ${card.multiprocessors} multiprocessors, ${formatBytes(freeBytes)} of ${formatBytes(totalBytes)} free`,
      },
      { name: 'versions', state: 'ok', text: libraryVersions },
    ]
    if (isMeasuring) {
      const rate = formatFlops(device.measureMatmulFlops())
      found.push({ name: 'products', state: 'ok', text: `${rate} in bf16; 8192 x 8192 matrices` })
    }
    device.close()
    return found
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error
    return [{ name: 'card', state: 'missing', text: `training on it; ${error.message}` }]
  }
}

async function examine(context: RunContext, isMeasuring: boolean): Promise<Finding[]> {
  const [processor, compiler, launcher, gpus, libraries] = await Promise.all([
    describeProcessor(),
    findCompiler(context.env.CXX),
    findMpiLauncher(),
    listGpus(),
    findLibraries(context.env),
  ])
  const memory = describeMemory()
  const findings: Finding[] = []
  const add = (section: string, name: string, state: State, text: string): void => {
    findings.push({ section, name, state, text })
  }

  const cores = processor.cores === undefined ? '' : `${processor.cores} cores, `
  add('Processor', 'model', 'ok', processor.model)
  add('Processor', 'threads', 'ok', `${cores}${processor.threads} threads, ${processor.usableThreads} for this process`)
  add('Processor', 'vectors', 'ok', processor.isa.join(' ') || `${processor.architecture}, nothing beyond its base`)
  const { totalBytes, availableBytes } = memory
  add('Processor', 'memory', 'ok', `${formatBytes(availableBytes)} available of ${formatBytes(totalBytes)}`)
  if (isMeasuring && compiler !== undefined) {
    for (const { name, state, text } of await measureProcessor(context)) add('Processor', name, state, text)
  }

  const { node, zstd, brotli } = process.versions as Partial<Record<string, string>>
  add('Software', 'Node', 'ok', `${node} on ${process.platform} ${processor.architecture}`)
  if (compiler !== undefined) add('Software', 'C++', 'ok', `${compiler.command}: ${compiler.version}`)
  else add('Software', 'C++', 'missing', 'the CPU kernels, without which nothing trains: apt install g++')
  add('Software', 'brotli', brotli ? 'ok' : 'missing', brotli ?? 'reading .br files: a Node built with brotli')
  add('Software', 'zstd', zstd ? 'ok' : 'missing', zstd ?? 'reading .zst dumps: Node 22.15 or newer')

  add('Cluster', 'support', 'note', 'none in this version, which trains on one machine')
  for (const gpu of gpus)
    add('GPU', 'device', 'ok', `${gpu.name}, ${formatBytes(gpu.memoryBytes)}, driver ${gpu.driver}`)
  if (gpus.length === 0) add('GPU', 'device', 'note', 'none that nvidia-smi shows')
  for (const name of Object.keys(LIBRARIES) as LibraryName[]) {
    const found = libraries[name]
    const { stem, what } = LIBRARIES[name]
    const section = name === 'mpi' ? 'Cluster' : 'GPU'
    if (found !== undefined) add(section, stem, 'ok', `${found.path} (${what}; from ${ORIGIN[found.origin]})`)
    else add(section, stem, 'missing', ENABLES[name])
  }
  if (gpus.length > 0) {
    for (const { name, state, text } of await examineCard(context, isMeasuring)) add('GPU', name, state, text)
  }
  if (launcher !== undefined) add('Cluster', 'launcher', 'ok', `${launcher.command}: ${launcher.version}`)
  else add('Cluster', 'launcher', 'missing', 'starting ranks on several machines: install mpirun or srun')
  return findings
}

const ORIGIN = {
  setting: LIBRARY_PATH_SETTING,
  loader: 'the dynamic loader',
  toolkit: 'the CUDA toolkit',
  wheel: 'a Python package',
} as const

const recipe = defineRecipe({
  name: 'doctor',
  summary: 'show what this machine has, and what each missing thing would enable',
  description: `Looks at the processor, memory, compiler, Node, and the libraries of GPUs and clusters, and measures how fast the processor multiplies (about a second).

Libraries are searched in this order: the folders of ${LIBRARY_PATH_SETTING} (parted by colons), the dynamic loader, the folders of a CUDA toolkit (CUDA_HOME, /usr/local/cuda), the nvidia packages of a Python environment. The first that has a library wins.`,
  examples: [
    { command: 'doctor', does: 'the whole report' },
    { command: 'doctor --json', does: 'the same for a program' },
  ],
  config: z.object({
    measure: field(z.boolean().default(true), { describe: 'measure the speed of the processor' }),
    json: field(z.boolean().default(false), { describe: 'print JSON instead of text' }),
  }),
  async run(config, context) {
    const findings = await examine(context, config.measure)
    if (config.json) context.log(JSON.stringify(findings, null, 2))
    else printFindings(findings, context)
  },
})
export default recipe

const SIGNS: Record<State, readonly [sign: string, color: 'green' | 'yellow' | 'gray']> = {
  ok: ['ok', 'green'],
  missing: ['missing', 'yellow'],
  note: ['-', 'gray'],
}

function printFindings(findings: readonly Finding[], context: RunContext): void {
  const nameWidth = Math.max(...findings.map(({ name }) => name.length))
  const signWidth = Math.max(...Object.values(SIGNS).map(([sign]) => sign.length))
  const indent = 2 + nameWidth + 2 + signWidth + 2
  const width = Math.max(40, Math.min(context.columns, 120) - indent)
  for (const [section, some] of Map.groupBy(findings, (finding) => finding.section)) {
    context.log(paint(section, 'bold', context.hasColor))
    for (const { name, state, text } of some) {
      const [sign, color] = SIGNS[state]
      const [first, ...more] = wrap(state === 'missing' ? `would enable ${text}` : text, width)
      const mark = pad(paint(sign, color, context.hasColor), signWidth)
      context.log(`  ${name.padEnd(nameWidth)}  ${mark}  ${first}`)
      for (const line of more) context.log(' '.repeat(indent) + line)
    }
    context.log('')
  }
  context.log(verdict(findings))
}

function verdict(findings: readonly Finding[]): string {
  const missing = findings.filter(({ state }) => state === 'missing')
  const blocking = missing.filter(({ section }) => section === 'Processor' || section === 'Software')
  if (missing.length === 0) return 'Nothing is missing.'
  if (blocking.length === 0) return `${missing.length} missing, none of them needed to train on this processor.`
  return `Missing, and needed to train or to read some data: ${blocking.map(({ name }) => name).join(', ')}.`
}
