// Where the shared libraries of GPUs and clusters are, in a fixed order: explicit setting, dynamic loader, CUDA toolkit
// folders, nvidia/* wheels of a Python environment. Finds files; loads none. The caller gives the environment.
import { existsSync, globSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { ask } from './shell.ts'

/** A place that was searched. */
export type Origin = 'setting' | 'loader' | 'toolkit' | 'wheel'

export interface FoundLibrary {
  path: string
  origin: Origin
}

/** Libraries by the start of their file name: the version follows '.so.'. */
export const LIBRARIES = {
  cuda: { stem: 'libcuda', what: 'NVIDIA driver' },
  nvrtc: { stem: 'libnvrtc', what: 'CUDA kernel compiler' },
  cublasLt: { stem: 'libcublasLt', what: 'CUDA matrix products' },
  cudnn: { stem: 'libcudnn', what: 'CUDA attention' },
  nccl: { stem: 'libnccl', what: 'communication between GPUs' },
  mpi: { stem: 'libmpi', what: 'communication between machines (MPI)' },
} as const

export type LibraryName = keyof typeof LIBRARIES

/** The variable with folders, parted by colons, that are searched before everything else. */
export const LIBRARY_PATH_SETTING = 'TRAINYARD_LIBRARY_PATH'

type Environment = Readonly<Record<string, string | undefined>>

/**
 * Finds each library, or undefined where there is none. The first place that has it wins; within a folder, the highest
 * version. Places that take long to search (Python has to be asked) are searched only when one is still missing.
 * @param names  default all
 */
export async function findLibraries<Name extends LibraryName = LibraryName>(
  env: Environment,
  names: readonly Name[] = Object.keys(LIBRARIES) as Name[],
): Promise<Record<Name, FoundLibrary | undefined>> {
  const found = new Map<Name, FoundLibrary>()
  for (const [origin, pathsOf] of PLACES) {
    const missing = names.filter((name) => !found.has(name))
    if (missing.length === 0) break
    const folders = await pathsOf(env)
    for (const name of missing) {
      const { stem } = LIBRARIES[name]
      for (const paths of folders) {
        const path = pickNewest(paths(stem))
        if (path === undefined) continue
        found.set(name, { path, origin })
        break
      }
    }
  }
  return Object.fromEntries(names.map((name) => [name, found.get(name)])) as Record<Name, FoundLibrary | undefined>
}

/** What a folder, or the loader's list, has of a library. */
type Paths = (stem: string) => string[]

/** In the order in which they are searched. */
const PLACES: readonly (readonly [Origin, (env: Environment) => Promise<Paths[]>])[] = [
  // All of its folders count as one place: the newest of any is taken.
  [
    'setting',
    async (env) => [(stem) => split(env[LIBRARY_PATH_SETTING]).flatMap((folder) => listLibraries(folder, stem))],
  ],
  [
    'loader',
    async (env) => {
      const known = await loaderPaths(env)
      return [(stem) => known.filter((path) => isLibrary(path, stem))]
    },
  ],
  ['toolkit', async (env) => toolkitFolders(env).map(pathsIn)],
  ['wheel', async (env) => (await wheelFolders(env)).map(pathsIn)],
]

function pathsIn(folder: string): Paths {
  return (stem) => listLibraries(folder, stem)
}

/** Files that the dynamic loader would take: LD_LIBRARY_PATH, then its cache. */
async function loaderPaths(env: Environment): Promise<string[]> {
  const own = split(env.LD_LIBRARY_PATH).flatMap((folder) => listLibraries(folder, 'lib'))
  const cache = (await ask('ldconfig', ['-p'])) ?? (await ask('/sbin/ldconfig', ['-p'])) ?? ''
  const cached = cache.split('\n').flatMap((line) => line.split(' => ')[1]?.trim() ?? [])
  // Windows' driver inside WSL is in no cache.
  return [...own, ...cached, ...listLibraries('/usr/lib/wsl/lib', 'lib')]
}

function toolkitFolders(env: Environment): string[] {
  const roots = [env.CUDA_HOME, env.CUDA_PATH, '/usr/local/cuda', ...globSync('/usr/local/cuda-*').sort().reverse()]
  return roots.flatMap((root) =>
    root === undefined || root === ''
      ? []
      : ['lib64', 'lib', 'targets/x86_64-linux/lib', 'targets/sbsa-linux/lib'].map((part) => join(root, part)),
  )
}

/** nvidia/<part>/lib of the Python environment that is active, or of the machine's python3. */
async function wheelFolders(env: Environment): Promise<string[]> {
  const prefixes = [env.VIRTUAL_ENV, env.CONDA_PREFIX].filter((prefix) => prefix !== undefined && prefix !== '')
  const packages = prefixes.flatMap((prefix) => globSync(join(prefix!, 'lib', 'python3*', 'site-packages')))
  const script = 'import site, sys; print("\\n".join(site.getsitepackages() + [site.getusersitepackages()]))'
  const asked = (await ask('python3', ['-c', script]))?.split('\n') ?? []
  return [...packages, ...asked].flatMap((folder) => globSync(join(folder, 'nvidia', '*', 'lib')).sort())
}

function split(paths: string | undefined): string[] {
  return (paths ?? '').split(':').filter((path) => path !== '')
}

function listLibraries(folder: string, stem: string): string[] {
  if (!existsSync(folder)) return []
  try {
    return readdirSync(folder)
      .map((file) => join(folder, file))
      .filter((path) => isLibrary(path, stem))
  } catch {
    return []
  }
}

/** Whether `path` is `<stem>.so`, perhaps with a version, and not a stub that only linkers use. */
function isLibrary(path: string, stem: string): boolean {
  if (dirname(path).endsWith('/stubs')) return false
  const file = path.slice(path.lastIndexOf('/') + 1)
  return stem === 'lib' ? /\.so(\.|$)/.test(file) : file === `${stem}.so` || file.startsWith(`${stem}.so.`)
}

/** The path whose file name has the highest version; the shortest of equal ones. */
function pickNewest(paths: readonly string[]): string | undefined {
  const version = (path: string): number[] => (path.split('.so.')[1] ?? '').split('.').map((part) => Number(part) || 0)
  const compare = (a: string, b: string): number => {
    const [one, other] = [version(a), version(b)]
    for (let index = 0; index < Math.max(one.length, other.length); index++) {
      // 'libx.so.13' and 'libx.so.13.0.48' are the same file: the first differing number decides, absent ones do not.
      const difference = (other[index] ?? one[index]!) - (one[index] ?? other[index]!)
      if (difference !== 0) return difference
    }
    return a.length - b.length
  }
  return [...paths].sort(compare)[0]
}
