// What the processor of this machine is. Reads /proc and sysctl; measures nothing.
import { arch, availableParallelism, cpus, loadavg, platform } from 'node:os'
import { readText } from './read-text.ts'
import { ask } from './shell.ts'

export interface Processor {
  model: string
  /** node's name: 'x64', 'arm64'. */
  architecture: string
  /** Cores of the machine that hold at least one thread, and hardware threads. */
  cores: number | undefined
  threads: number
  /** Threads that this process may use (affinity, container limits). */
  usableThreads: number
  /** Vector and matrix instruction sets, lower case, of those that matter for kernels. */
  isa: string[]
}

/** Flags worth showing, in rising order, as /proc/cpuinfo spells them. */
const ISA_FLAGS = [
  'sse4_2', 'avx', 'f16c', 'fma', 'avx2', 'avx_vnni', 'avx512f', 'avx512bw', 'avx512vl', 'avx512_vnni',
  'avx512_bf16', 'avx512_fp16', 'amx_tile', 'amx_bf16', 'amx_int8',
  'neon', 'asimd', 'asimddp', 'asimdhp', 'bf16', 'i8mm', 'sve', 'sve2',
] as const // biome-ignore format: a list to scan

/** Describes the processor. */
export async function describeProcessor(): Promise<Processor> {
  const usableThreads = availableParallelism()
  const base = { architecture: arch(), threads: cpus().length || usableThreads, usableThreads }
  if (platform() === 'darwin') {
    const cores = Number(await ask('sysctl', ['-n', 'hw.physicalcpu']))
    const features = (await ask('sysctl', ['-n', 'machdep.cpu.features', 'machdep.cpu.leaf7_features'])) ?? ''
    const isa = arch() === 'arm64' ? ['neon'] : parseFlags(features.toLowerCase().replaceAll('1.0', ''))
    return { ...base, model: cpus()[0]?.model ?? 'unknown', cores: cores > 0 ? cores : undefined, isa }
  }
  const text = readText('/proc/cpuinfo') ?? ''
  return { ...base, ...parseCpuInfo(text, cpus()[0]?.model ?? 'unknown') }
}

/** Threads of all programs that computed or waited for a processor, on average over the last minute; 0 where unknown. */
export function loadAverage(): number {
  return loadavg()[0]!
}

/** The parts of /proc/cpuinfo that we show. */
export function parseCpuInfo(text: string, fallbackModel: string): Pick<Processor, 'model' | 'cores' | 'isa'> {
  const value = (line: string): string => line.slice(line.indexOf(':') + 1).trim()
  const lines = text.split('\n')
  const first = (name: string): string | undefined => {
    const line = lines.find((candidate) => candidate.startsWith(name))
    return line === undefined ? undefined : value(line)
  }
  const coreIds = new Set<string>()
  let socket = ''
  for (const line of lines) {
    if (line.startsWith('physical id')) socket = value(line)
    if (line.startsWith('core id')) coreIds.add(`${socket}/${value(line)}`)
  }
  return {
    model: first('model name') ?? fallbackModel,
    cores: coreIds.size > 0 ? coreIds.size : undefined,
    isa: parseFlags((first('flags') ?? first('Features') ?? '').toLowerCase()),
  }
}

function parseFlags(text: string): string[] {
  const flags = new Set(text.split(/\s+/))
  return ISA_FLAGS.filter((flag) => flags.has(flag))
}
