// Programs of this machine that Trainyard can use: the C++ compiler, MPI's launcher, NVIDIA's device list.
import { ask } from './shell.ts'

export interface Tool {
  command: string
  /** First line of what it says of itself. */
  version: string
}

/** The first of `commands` that answers. */
async function firstThatRuns(commands: readonly string[], args: readonly string[]): Promise<Tool | undefined> {
  for (const command of commands) {
    const answer = await ask(command, args)
    if (answer !== undefined && answer !== '') return { command, version: answer.split('\n')[0]!.trim() }
  }
  return undefined
}

/** The C++ compiler that builds the CPU kernels: `wanted` (the setting CXX), else the candidates of the build. */
export function findCompiler(wanted: string | undefined): Promise<Tool | undefined> {
  return firstThatRuns(wanted ? [wanted] : ['c++', 'g++', 'clang++'], ['--version'])
}

export function findMpiLauncher(): Promise<Tool | undefined> {
  return firstThatRuns(['mpirun', 'mpiexec', 'srun'], ['--version'])
}

export interface Gpu {
  name: string
  memoryBytes: number
  driver: string
}

/** NVIDIA GPUs that the driver shows; none where there is no driver. */
export async function listGpus(): Promise<Gpu[]> {
  const query = ['--query-gpu=name,memory.total,driver_version', '--format=csv,noheader,nounits']
  const answer = await ask('nvidia-smi', query)
  if (answer === undefined || answer === '') return []
  return answer.split('\n').flatMap((line) => {
    const [name, mebibytes, driver] = line.split(',').map((part) => part.trim())
    if (name === undefined || driver === undefined) return []
    return [{ name, memoryBytes: Number(mebibytes) * 2 ** 20, driver }]
  })
}
