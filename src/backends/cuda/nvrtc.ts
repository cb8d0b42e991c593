// Compiles kernel text for the exact chip with NVRTC and keeps the results on disk by the hash of everything that decides
// them. No toolkit headers are needed: kernel files include nothing but files of this folder.
import { createHash, randomUUID } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import koffi from 'koffi'
import { DeviceError } from '../../core/errors.ts'

const SOURCES = fileURLToPath(new URL('./kernels/', import.meta.url))

/** One compilation: a file of kernels/ under a set of options. */
export interface CompileRequest {
  readonly file: string
  /** sm_90a: machine code of that chip; compute_80: text that the driver translates for a newer one. */
  readonly architecture: string
  readonly options: readonly string[]
}

type Native = (...args: unknown[]) => number

export class KernelCompiler {
  /** 13000 for NVRTC 13.0. */
  readonly version: number
  readonly #path: string
  readonly #cacheDir: string
  readonly #library: ReturnType<typeof koffi.load>
  readonly #functions = new Map<string, Native>()
  readonly #headers: { names: string[]; texts: string[] }

  /**
   * @param path      libnvrtc
   * @param cacheDir  made when something is compiled
   * @throws DeviceError when the library cannot be loaded
   */
  constructor(path: string, cacheDir: string) {
    this.#path = path
    this.#cacheDir = cacheDir
    try {
      this.#library = koffi.load(path)
    } catch (cause) {
      throw new DeviceError(`cuda: the kernel compiler ${path} cannot be loaded: install NVRTC of CUDA 12 or newer`, {
        cause,
      })
    }
    const names = readdirSync(SOURCES).filter((file) => file.endsWith('.cuh'))
    this.#headers = { names, texts: names.map((name) => readFileSync(join(SOURCES, name), 'utf8')) }
    const major = [0]
    const minor = [0]
    this.#check('nvrtcVersion', this.#function('nvrtcVersion', ['_Out_ int*', '_Out_ int*'])(major, minor))
    this.version = major[0]! * 1000 + minor[0]! * 10
  }

  /** The machine code of a kernel file, from the cache or compiled now. */
  cubin(request: CompileRequest): Uint8Array {
    const text = readFileSync(join(SOURCES, request.file), 'utf8')
    const cached = this.#cachePath(request, text)
    if (existsSync(cached)) return readFileSync(cached)
    const program = this.#create(request, text)
    const options = this.#optionsOf(request)
    const compile = this.#function('nvrtcCompileProgram', ['int64_t', 'int', 'const char**'])
    return this.#finish(request, program, compile(program, options.length, options), cached)
  }

  #optionsOf({ architecture, options }: CompileRequest): string[] {
    return [`--gpu-architecture=${architecture}`, '--std=c++17', '-default-device', ...options]
  }

  #cachePath(request: CompileRequest, text: string): string {
    const hash = createHash('sha256')
    for (const part of [...this.#headers.names, ...this.#headers.texts, text, request.file])
      hash.update(part).update('\0')
    hash.update(JSON.stringify(this.#optionsOf(request))).update(String(this.version))
    return join(this.#cacheDir, `${request.file.replace(/\.cu$/, '')}-${hash.digest('hex').slice(0, 24)}.cubin`)
  }

  #create({ file }: CompileRequest, text: string): number {
    const create = this.#function('nvrtcCreateProgram', [
      '_Out_ int64_t*',
      'const char*',
      'const char*',
      'int',
      'const char**',
      'const char**',
    ])
    const out = [0]
    const { names, texts } = this.#headers
    this.#check('nvrtcCreateProgram', create(out, text, file, names.length, texts, names))
    return Number(out[0])
  }

  #finish({ file, architecture }: CompileRequest, program: number, status: number, path: string): Uint8Array {
    try {
      if (status !== 0) {
        throw new DeviceError(
          `cuda: ${file} does not compile with NVRTC ${this.version} of ${this.#path}: ${this.#logOf(program)}`,
        )
      }
      const kind = architecture.startsWith('compute_') ? 'PTX' : 'CUBIN'
      const size = [0]
      const sizeOf = this.#function(`nvrtcGet${kind}Size`, ['int64_t', '_Out_ int64_t*'])
      this.#check(`nvrtcGet${kind}Size`, sizeOf(program, size))
      const code = new Uint8Array(Number(size[0]))
      this.#check(`nvrtcGet${kind}`, this.#function(`nvrtcGet${kind}`, ['int64_t', 'void*'])(program, code))
      mkdirSync(this.#cacheDir, { recursive: true })
      const partial = `${path}.${randomUUID()}.partial`
      writeFileSync(partial, code)
      renameSync(partial, path)
      return code
    } finally {
      this.#function('nvrtcDestroyProgram', ['int64_t*'])([program])
    }
  }

  #logOf(program: number): string {
    const size = [0]
    this.#function('nvrtcGetProgramLogSize', ['int64_t', '_Out_ int64_t*'])(program, size)
    const log = new Uint8Array(Number(size[0]))
    this.#function('nvrtcGetProgramLog', ['int64_t', 'void*'])(program, log)
    return new TextDecoder().decode(log).replaceAll('\0', '').trim()
  }

  #check(name: string, status: number): void {
    if (status !== 0) throw new DeviceError(`cuda: ${name} of ${this.#path} failed with status ${status}`)
  }

  #function(name: string, types: string[]): Native {
    let found = this.#functions.get(name)
    if (found === undefined) {
      try {
        found = this.#library.func(name, 'int', types) as unknown as Native
      } catch (cause) {
        throw new DeviceError(`cuda: ${this.#path} has no ${name}: install NVRTC of CUDA 12 or newer`, { cause })
      }
      this.#functions.set(name, found)
    }
    return found
  }
}
