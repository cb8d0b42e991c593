// The NVIDIA driver's functions through koffi. Handles and addresses travel as plain numbers; every call is checked and
// a failure says which call it was and what the driver calls it. Knows nothing of kernels or tensors.
import koffi from 'koffi'
import { DeviceError } from '../../core/errors.ts'

type Library = ReturnType<typeof koffi.load>
type Value = number | bigint | string | null | ArrayBufferView | unknown[]

/** CUDA 12.0: the first driver whose NVRTC and cuBLASLt know every chip that this backend compiles for. */
export const MINIMUM_DRIVER = 12000

/** The functions in use: arguments by letter. p handle or address, l int64, i int32, u uint32, s string, v host memory. */
const FUNCTIONS = {
  cuInit: 'u',
  cuDriverGetVersion: 'I',
  cuDeviceGetCount: 'I',
  cuDeviceGetName: 'vii',
  cuDeviceGetAttribute: 'Iii',
  cuDeviceTotalMem_v2: 'Pi',
  cuDevicePrimaryCtxRetain: 'Pi',
  cuDevicePrimaryCtxRelease_v2: 'i',
  cuCtxSetCurrent: 'p',
  cuMemGetInfo_v2: 'PP',
  cuMemAlloc_v2: 'Pl',
  cuMemFree_v2: 'p',
  cuMemAllocHost_v2: 'Pl',
  cuMemFreeHost: 'p',
  cuMemcpyHtoDAsync_v2: 'pplp',
  cuMemcpyDtoHAsync_v2: 'pplp',
  cuMemcpyDtoDAsync_v2: 'pplp',
  cuMemsetD8Async: 'pulp',
  cuStreamCreate: 'Pu',
  cuStreamDestroy_v2: 'p',
  cuStreamSynchronize: 'p',
  cuEventCreate: 'Pu',
  cuEventRecord: 'pp',
  cuEventQuery: 'p',
  cuEventSynchronize: 'p',
  cuEventElapsedTime_v2: 'Fpp',
  cuEventDestroy_v2: 'p',
  cuModuleLoadData: 'Pv',
  cuModuleUnload: 'p',
  cuModuleGetFunction: 'Pps',
  cuFuncSetAttribute: 'pii',
  cuLaunchKernel: 'puuuuuuuppp',
  cuStreamBeginCapture_v2: 'pi',
  cuStreamEndCapture: 'pP',
  cuGraphInstantiateWithFlags: 'Ppl',
  cuGraphLaunch: 'pp',
  cuGraphDestroy: 'p',
  cuGraphExecDestroy: 'p',
  cuTensorMapEncodeTiled: 'viupvvvviiii',
} as const

export type DriverFunction = keyof typeof FUNCTIONS

const TYPES: Readonly<Record<string, string>> = {
  p: 'int64_t',
  l: 'int64_t',
  i: 'int32_t',
  u: 'uint32_t',
  s: 'const char*',
  v: 'void*',
  I: '_Out_ int32_t*',
  P: '_Out_ int64_t*',
  F: '_Out_ float*',
}

/** Older names of functions that got a new version: the same to a caller who does not use what is new. */
const OLDER: Readonly<Partial<Record<DriverFunction, string>>> = { cuEventElapsedTime_v2: 'cuEventElapsedTime' }

const OUT_OF_MEMORY = 2
const NOT_READY = 600

/** After these (illegal access, misaligned address, failed launch ...) every further call fails. */
const LOST = new Set([214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719])

/** What to do about statuses that say more about the machine than about the call. */
const REMEDIES: Readonly<Record<number, string>> = {
  [OUT_OF_MEMORY]:
    'nvidia-smi shows which programs hold the memory: end one, take another card (--device cuda:1), or use --device cpu',
  46: 'another program has the card for itself: end it, or take another card (--device cuda:1)',
  100: 'the driver shows no card: check nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu',
  802: 'the cards of this machine wait for nvidia-fabricmanager: start that service',
  803: 'libcuda and the kernel module are of different versions: restart the machine after an update of the driver',
}

/** Statuses of cuResult that a caller may want to tell apart. */
export const CU = { outOfMemory: OUT_OF_MEMORY, notReady: NOT_READY } as const

/** The card whose context is current in this thread, and how often it is in use. */
const current = { index: 0, uses: 0 }

export class CudaDriver {
  /** 13000 for CUDA 13.0. */
  readonly version: number
  readonly #functions = new Map<DriverFunction, (...args: Value[]) => number>()
  readonly #errorString: (status: number, out: (string | null)[]) => number
  readonly #path: string

  /**
   * @param path  libcuda
   * @throws DeviceError if it cannot be loaded, lacks a function, has no card, or is too old
   */
  constructor(path: string) {
    this.#path = path
    let library: Library
    try {
      library = koffi.load(path)
      this.#errorString = library.func('int cuGetErrorString(int, _Out_ const char**)')
    } catch (cause) {
      throw new DeviceError(`cuda: the NVIDIA driver ${path} cannot be loaded: install a driver for this card`, {
        cause,
      })
    }
    const bind = (name: DriverFunction): void => {
      this.#functions.set(name, this.#bind(library, name, FUNCTIONS[name]))
    }
    bind('cuInit')
    bind('cuDriverGetVersion')
    // Before the other functions: an old driver lacks some of them, and its version says it better.
    this.version = this.integer('cuDriverGetVersion')
    if (this.version < MINIMUM_DRIVER) {
      throw new DeviceError(
        `cuda: the driver is for CUDA ${versionText(this.version)}, ${versionText(MINIMUM_DRIVER)} or newer is needed: update the NVIDIA driver, or use --device cpu`,
      )
    }
    for (const name of Object.keys(FUNCTIONS) as DriverFunction[]) bind(name)
    const status = this.attempt('cuInit', 0)
    if (status !== 0) {
      const remedy = REMEDIES[status] ?? 'check that nvidia-smi shows a card'
      throw new DeviceError(`cuda: the driver ${path} does not start (${this.explain(status)}): ${remedy}`)
    }
  }

  #bind(library: Library, name: DriverFunction, signature: string): (...args: Value[]) => number {
    const types = [...signature].map((letter) => TYPES[letter]!)
    for (const symbol of [name, OLDER[name]]) {
      if (symbol === undefined) continue
      try {
        return library.func(symbol, 'int', types) as unknown as (...args: Value[]) => number
      } catch {}
    }
    throw new DeviceError(`cuda: the driver ${this.#path} has no ${name}: update the NVIDIA driver`)
  }

  /**
   * Makes the context of a card current, which all calls go to, those of cuBLASLt and cuDNN too. Nothing changes it from
   * call to call, so that a second card in use would get the work of the first.
   * @throws DeviceError if another card is in use in this thread
   */
  useCard(index: number): void {
    if (current.uses > 0 && current.index !== index) {
      throw new DeviceError(
        `cuda: card ${index} cannot be opened while this process uses card ${current.index}: close that device first, or run a process for each card`,
      )
    }
    this.call('cuCtxSetCurrent', this.integer('cuDevicePrimaryCtxRetain', index))
    current.index = index
    current.uses++
  }

  /** Ends one use of the card. */
  leaveCard(index: number): void {
    current.uses--
    this.call('cuDevicePrimaryCtxRelease_v2', index)
  }

  /** The driver's own words for a status. */
  explain(status: number): string {
    const text: (string | null)[] = [null]
    this.#errorString(status, text)
    return text[0] ?? `error ${status}`
  }

  /** Calls and returns the status. */
  attempt(name: DriverFunction, ...args: Value[]): number {
    return this.#functions.get(name)!(...args)
  }

  /** Calls. @throws DeviceError unless it succeeds */
  call(name: DriverFunction, ...args: Value[]): void {
    const status = this.#functions.get(name)!(...args)
    if (status !== 0) this.fail(name, status)
  }

  fail(name: DriverFunction, status: number): never {
    const lost = LOST.has(status) ? "the card's state is lost, start again from the last checkpoint" : undefined
    const remedy = REMEDIES[status] ?? lost
    const reason = `${this.explain(status)} (status ${status})`
    throw new DeviceError(`cuda: ${name} failed: ${reason}${remedy === undefined ? '' : `; ${remedy}`}`)
  }

  /** Calls a function whose first argument is the answer (an int32, or a handle or address). */
  integer(name: DriverFunction, ...args: Value[]): number {
    const out = [0]
    this.call(name, out, ...args)
    return Number(out[0])
  }

  /** A bound function without the check, for hot paths; the caller checks the status. */
  raw(name: DriverFunction): (...args: Value[]) => number {
    return this.#functions.get(name)!
  }
}

/** 13000 -> '13.0'. */
export function versionText(version: number): string {
  return `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`
}
