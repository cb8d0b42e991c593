// trainyard doctor: what this machine has, what it lacks, and what each missing thing would enable. Changes nothing.
import { z } from 'zod'
import type { RunContext } from '../config/context.ts'
import { field } from '../config/field.ts'
import { defineRecipe } from '../config/recipe.ts'
import { formatBytes, formatCount } from '../display/format.ts'
import { paint, table } from '../display/text.ts'
import { findLibraries, LIBRARIES, LIBRARY_PATH_SETTING, type LibraryName } from '../machine/libraries.ts'
import { describeMemory, describeProcessor } from '../machine/processor.ts'
import { findCompiler, findMpiLauncher, listGpus } from '../machine/tools.ts'

/** What a missing library would enable. */
const ENABLES: Record<LibraryName, string> = {
  cuda: 'training on NVIDIA GPUs: install the NVIDIA driver',
  nvrtc: 'GPU kernels, compiled for your chip: install the CUDA toolkit, or pip install nvidia-cuda-nvrtc',
  cublasLt: 'fast matrix products on GPUs: install the CUDA toolkit, or pip install nvidia-cublas',
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

async function examine(context: RunContext): Promise<Finding[]> {
  const [processor, compiler, launcher, gpus, libraries] = await Promise.all([
    describeProcessor(),
    findCompiler(),
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

  const { node, zstd, brotli } = process.versions as Partial<Record<string, string>>
  add('Software', 'Node', 'ok', `${node} on ${process.platform} ${processor.architecture}`)
  if (compiler !== undefined) add('Software', 'C++', 'ok', `${compiler.command}: ${compiler.version}`)
  else add('Software', 'C++', 'missing', 'the CPU kernels, without which nothing trains: apt install g++')
  add('Software', 'brotli', brotli ? 'ok' : 'missing', brotli ?? 'reading .br files: a Node built with brotli')
  add('Software', 'zstd', zstd ? 'ok' : 'missing', zstd ?? 'reading .zst dumps: Node 22.15 or newer')

  for (const gpu of gpus)
    add('GPU', 'device', 'ok', `${gpu.name}, ${formatBytes(gpu.memoryBytes)}, driver ${gpu.driver}`)
  if (gpus.length === 0) add('GPU', 'device', 'note', 'none that nvidia-smi shows: training runs on the processor')
  for (const name of Object.keys(LIBRARIES) as LibraryName[]) {
    const found = libraries[name]
    const { stem, what } = LIBRARIES[name]
    const section = name === 'mpi' ? 'Cluster' : 'GPU'
    if (found !== undefined) add(section, stem, 'ok', `${found.path} (${what}; from ${ORIGIN[found.origin]})`)
    else add(section, stem, 'missing', ENABLES[name])
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
  description: `Looks at the processor, memory, compiler, Node, and the libraries of GPUs and clusters.

Libraries are searched in this order: the folders of ${LIBRARY_PATH_SETTING} (parted by colons), the dynamic loader, the folders of a CUDA toolkit (CUDA_HOME, /usr/local/cuda), the nvidia packages of a Python environment. The first that has a library wins.`,
  examples: [
    { command: 'doctor', does: 'the whole report' },
    { command: 'doctor --json', does: 'the same for a program' },
  ],
  config: z.object({
    json: field(z.boolean().default(false), { describe: 'print JSON instead of text' }),
  }),
  async run(config, context) {
    const findings = await examine(context)
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
  const rows = findings.map(({ name, state, text }) => {
    const [sign, color] = SIGNS[state]
    return [`  ${name}`, paint(sign, color, context.hasColor), state === 'missing' ? `would enable ${text}` : text]
  })
  const lines = table(rows)
  let section = ''
  for (const [index, finding] of findings.entries()) {
    if (finding.section !== section)
      context.log(`${section === '' ? '' : '\n'}${paint(finding.section, 'bold', context.hasColor)}`)
    section = finding.section
    context.log(lines[index]!)
  }
  const missing = findings.filter(({ state }) => state === 'missing').length
  context.log('')
  context.log(
    missing === 0
      ? 'Nothing is missing.'
      : `${formatCount(missing)} missing; none is needed to start, except a C++ compiler.`,
  )
}
