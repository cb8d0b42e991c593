// Builds the CPU kernel library from its C++ sources with the machine's compiler, once: objects and library are
// cached by the hash of sources, flags and compiler version. No build system, no toolchain download.
import { execFile, execFileSync } from 'node:child_process'
import { createHash, randomUUID } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { DeviceError } from '../../core/errors.ts'

const SOURCES = fileURLToPath(new URL('./native/', import.meta.url))
const COMMON = [
  '-std=c++17',
  '-O3',
  '-fPIC',
  '-fvisibility=hidden',
  '-Wno-psabi',
  '-fno-math-errno',
  '-fno-trapping-math',
]
const AVX512 = ['-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mavx2', '-mfma', '-mprefer-vector-width=512']
/** Compilers run at a time: more than two fill the memory of small machines. */
const PARALLEL_COMPILES = 2

export interface BuildOptions {
  /** Where objects and the library are kept; default ~/.cache/trainyard. */
  cacheDir?: string
  /** Compiler to use; default the first of c++, g++, clang++ that runs. */
  compiler?: string
  /** Called when compiling begins and after each of the `total` files; never when the library is in the cache. */
  onProgress?: (done: number, total: number) => void
}

/** One compiler call: a source file under one set of flags. */
interface Unit {
  source: string
  flags: string[]
  /** Of everything that decides the object: file, headers that it includes, flags, compiler. */
  hash: string
}

/** The folder for what is built or downloaded once for this user. */
export function defaultCacheDir(): string {
  return join(homedir(), '.cache', 'trainyard')
}

/** The build options that an environment asks for: CXX, and XDG_CACHE_HOME as the parent of the cache. */
export function buildOptionsFrom(env: Readonly<Record<string, string | undefined>>): BuildOptions {
  return {
    ...(env.XDG_CACHE_HOME ? { cacheDir: join(env.XDG_CACHE_HOME, 'trainyard') } : {}),
    ...(env.CXX ? { compiler: env.CXX } : {}),
  }
}

/** The sets of flags that a source file is compiled under (native/isa.h tells what TY_ISA means). */
function variantsOf(file: string): string[][] {
  if (file.endsWith('.exact.cc')) return [['-ffp-contract=off']]
  if (file === 'context.cc') return [[]]
  const fast = '-ffp-contract=fast'
  const isX64 = process.arch === 'x64'
  if (file.endsWith('.bf16.cc')) return isX64 ? [[fast, '-DTY_ISA=5', ...AVX512, '-mavx512bf16']] : []
  const base = [fast, '-DTY_ISA=0']
  return isX64 ? [base, [fast, '-DTY_ISA=2', '-mavx2', '-mfma', '-mf16c'], [fast, '-DTY_ISA=5', ...AVX512]] : [base]
}

function findCompiler(wanted: string | undefined): { command: string; version: string } {
  for (const command of wanted === undefined ? ['c++', 'g++', 'clang++'] : [wanted]) {
    try {
      return { command, version: execFileSync(command, ['--version'], { encoding: 'utf8', stdio: 'pipe' }) }
    } catch {}
  }
  throw new DeviceError(
    `cpu: a C++17 compiler is needed to build the kernels once, ${wanted ?? 'c++, g++ and clang++'} did not run: install one (Debian: apt install g++; macOS: xcode-select --install)`,
  )
}

/** The text of a source and of all headers of ours that it includes, each once. */
function textsOf(file: string, seen = new Map<string, string>()): Map<string, string> {
  if (seen.has(file)) return seen
  const text = readFileSync(join(SOURCES, file), 'utf8')
  seen.set(file, text)
  for (const [, header] of text.matchAll(/^#include "([^"]+)"/gm)) textsOf(header!, seen)
  return seen
}

function listUnits(compilerVersion: string): Unit[] {
  const files = readdirSync(SOURCES)
    .filter((file) => file.endsWith('.cc'))
    .sort()
  return files.flatMap((file) => {
    const texts = [...textsOf(file)]
    return variantsOf(file).map((variant) => {
      const flags = [...COMMON, ...variant]
      return { source: join(SOURCES, file), flags, hash: hashOf([compilerVersion, process.arch, flags, texts]) }
    })
  })
}

function hashOf(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex').slice(0, 24)
}

/**
 * Path of the kernel library, built if it is not in the cache. Two processes may build at once: each works beside
 * the final place and renames.
 * @throws DeviceError without a compiler, or with the compiler's message if it fails
 */
export async function ensureCpuLibrary(options: BuildOptions = {}): Promise<string> {
  const { command, version } = findCompiler(options.compiler)
  const dir = join(options.cacheDir ?? defaultCacheDir(), 'kernels')
  const units = listUnits(version)
  const library = join(dir, `trainyard-cpu-${hashOf(units.map((unit) => unit.hash))}.so`)
  if (existsSync(library)) return library

  mkdirSync(dir, { recursive: true })
  const objectOf = (unit: Unit): string => join(dir, `${unit.hash}.o`)
  const pending = units.filter((unit) => !existsSync(objectOf(unit)))
  let done = units.length - pending.length
  options.onProgress?.(done, units.length)
  const compilePending = async (): Promise<void> => {
    for (let unit = pending.shift(); unit !== undefined; unit = pending.shift()) {
      await compile(command, ['-c', unit.source, ...unit.flags], objectOf(unit))
      options.onProgress?.(++done, units.length)
    }
  }
  await Promise.all(Array.from({ length: PARALLEL_COMPILES }, compilePending))
  // -z nodelete: koffi unloads libraries at exit while pool threads still live.
  const linkFlags = process.platform === 'linux' ? ['-Wl,-z,nodelete'] : []
  await compile(command, ['-shared', ...units.map(objectOf), '-pthread', ...linkFlags], library)
  return library
}

/** Runs the compiler into a file beside `output`, then renames it there. */
async function compile(command: string, args: string[], output: string): Promise<void> {
  const beside = `${output}.${randomUUID()}.tmp`
  try {
    await promisify(execFile)(command, [...args, '-o', beside], { maxBuffer: 1 << 24 })
    renameSync(beside, output)
  } catch (error) {
    rmSync(beside, { force: true })
    const { stderr = '', message } = error as { stderr?: string; message: string }
    const reason = stderr.trim() || message
    throw new DeviceError(
      `cpu: ${command} could not build the kernels, try another compiler (CXX): ${reason.slice(0, 2000)}`,
      { cause: error },
    )
  }
}
