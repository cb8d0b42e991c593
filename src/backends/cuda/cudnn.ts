// cuDNN's backend API through koffi: descriptors are made from named attributes, finalized, and executed by address. No
// headers are needed: the numbers below are those of cudnn_graph.h, which are the same in every cuDNN 9. Knows no graphs.
import { dirname, join } from 'node:path'
import koffi from 'koffi'
import { DeviceError } from '../../core/errors.ts'

/** 9.11.0: the first whose deterministic reductions can be asked for and whose attention gradients have no known bug. */
export const MINIMUM_CUDNN = 91100

/** cudnnBackendDescriptorType_t. */
const KINDS = {
  pointwise: 0,
  engine: 2,
  engineConfig: 3,
  engineHeuristics: 4,
  executionPlan: 5,
  pointwiseOperation: 13,
  operationGraph: 15,
  variantPack: 16,
  tensor: 17,
  matmul: 18,
  matmulOperation: 19,
  reduction: 21,
  reductionOperation: 22,
  reshapeOperation: 31,
} as const

export type DescriptorKind = keyof typeof KINDS

/** cudnnBackendAttributeType_t, and how its values lie in memory. */
const TYPES = {
  handle: { id: 0, pack: addresses },
  dataType: { id: 1, pack: integers },
  boolean: { id: 2, pack: (values: readonly number[]) => Uint8Array.from(values) },
  int64: { id: 3, pack: addresses },
  float: { id: 4, pack: (values: readonly number[]) => Float32Array.from(values) },
  voidPointer: { id: 6, pack: addresses },
  heuristicsMode: { id: 8, pack: integers },
  numericalNote: { id: 11, pack: integers },
  pointwiseMode: { id: 14, pack: integers },
  descriptor: { id: 15, pack: addresses },
  reductionOperator: { id: 18, pack: integers },
} as const

/** cudnnBackendAttributeName_t of each attribute in use, and the type of its values. */
const ATTRIBUTES = {
  pointwiseMode: [0, 'pointwiseMode'],
  pointwiseMathPrecision: [1, 'dataType'],
  pointwiseAxis: [9, 'int64'],
  heuristicsMode: [200, 'heuristicsMode'],
  heuristicsGraph: [201, 'descriptor'],
  heuristicsResults: [202, 'descriptor'],
  configEngine: [300, 'descriptor'],
  planHandle: [400, 'handle'],
  planConfig: [401, 'descriptor'],
  planWorkspaceSize: [402, 'int64'],
  pointwiseDescriptor: [750, 'descriptor'],
  pointwiseX: [751, 'descriptor'],
  pointwiseB: [752, 'descriptor'],
  pointwiseY: [753, 'descriptor'],
  pointwiseAlpha1: [754, 'float'],
  pointwiseAlpha2: [755, 'float'],
  pointwisePredicate: [758, 'descriptor'],
  graphHandle: [800, 'handle'],
  graphOperations: [801, 'descriptor'],
  tensorAlignment: [900, 'int64'],
  tensorDataType: [901, 'dataType'],
  tensorDimensions: [902, 'int64'],
  tensorStrides: [903, 'int64'],
  tensorId: [906, 'int64'],
  tensorIsVirtual: [907, 'boolean'],
  tensorIsByValue: [908, 'boolean'],
  packIds: [1000, 'int64'],
  packPointers: [1001, 'voidPointer'],
  packWorkspace: [1003, 'voidPointer'],
  engineIndex: [1301, 'int64'],
  engineNumericalNotes: [1303, 'numericalNote'],
  matmulComputeType: [1500, 'dataType'],
  matmulA: [1520, 'descriptor'],
  matmulB: [1521, 'descriptor'],
  matmulC: [1522, 'descriptor'],
  matmulDescriptor: [1523, 'descriptor'],
  reductionOperator: [1600, 'reductionOperator'],
  reductionComputeType: [1601, 'dataType'],
  reductionIsDeterministic: [1602, 'boolean'],
  reductionX: [1610, 'descriptor'],
  reductionY: [1611, 'descriptor'],
  reductionDescriptor: [1612, 'descriptor'],
  reshapeX: [2200, 'descriptor'],
  reshapeY: [2201, 'descriptor'],
} as const satisfies Record<string, readonly [number, keyof typeof TYPES]>

export type AttributeName = keyof typeof ATTRIBUTES

/** Enumerations' values by name. */
export const DATA_TYPE = { f32: 0, f16: 2, i32: 4, bf16: 9, boolean: 11 } as const
export const POINTWISE = {
  add: 0,
  multiply: 1,
  divide: 6,
  subtract: 9,
  exp: 13,
  log: 15,
  identity: 21,
  greaterOrEqual: 303,
  index: 501,
  select: 601,
} as const
export const REDUCTION = { sum: 0, max: 3 } as const
export const HEURISTICS = { fallback: 2, a: 3 } as const
export const NOTE_NONDETERMINISTIC = 4

/** Statuses from 3000 to 3999 say that no engine serves the request; others are failures. */
const NOT_SUPPORTED = 3000
const MESSAGE_BYTES = 4096

/** A call of cuDNN failed; `isUnsupported` when it is the request that no engine can serve. */
export class CudnnError extends DeviceError {
  readonly isUnsupported: boolean

  constructor(message: string, status: number) {
    super(message)
    this.isUnsupported = status >= NOT_SUPPORTED && status < NOT_SUPPORTED + 1000
  }
}

type Attributes = Readonly<Partial<Record<AttributeName, number | readonly number[]>>>
type Native = (...args: (number | number[] | ArrayBufferView | null)[]) => number

const SIGNATURES = {
  cudnnGetLastErrorString: ['void*', 'int64_t'],
  cudnnCreate: ['_Out_ int64_t*'],
  cudnnSetStream: ['int64_t', 'int64_t'],
  cudnnBackendCreateDescriptor: ['int', '_Out_ int64_t*'],
  cudnnBackendDestroyDescriptor: ['int64_t'],
  cudnnBackendFinalize: ['int64_t'],
  cudnnBackendSetAttribute: ['int64_t', 'int', 'int', 'int64_t', 'void*'],
  cudnnBackendGetAttribute: ['int64_t', 'int', 'int', 'int64_t', '_Out_ int64_t*', 'void*'],
  cudnnBackendExecute: ['int64_t', 'int64_t', 'int64_t'],
} as const

type Functions = Readonly<Record<keyof typeof SIGNATURES, Native>>

/** Loaded at the first use, not when it is made: it is some hundred megabytes, and not every run has attention for it. */
export class CudnnLibrary {
  readonly path: string
  #functions: Functions | undefined
  #version = 0
  /** Why it cannot be used; undefined before the first use and where it can. */
  #problem: string | undefined

  /** @param path  libcudnn */
  constructor(path: string) {
    this.path = path
  }

  /** 91400 for 9.14.0. @throws DeviceError if cuDNN cannot be used */
  get version(): number {
    this.#load()
    return this.#version
  }

  /** Why cuDNN cannot be used here, as a sentence, or undefined where it can. */
  get problem(): string | undefined {
    try {
      this.#load()
    } catch (error) {
      if (!(error instanceof DeviceError)) throw error
    }
    return this.#problem
  }

  /** @throws DeviceError when it cannot be loaded, is too old, or lacks what it needs itself */
  #load(): Functions {
    if (this.#functions !== undefined) return this.#functions
    try {
      if (this.#problem !== undefined) throw new DeviceError(this.#problem)
      const library = koffi.load(this.path)
      this.#version = Number(library.func('cudnnGetVersion', 'int64_t', [])())
      if (this.#version < MINIMUM_CUDNN) {
        throw new DeviceError(
          `cudnn: ${this.path} is ${cudnnVersionText(this.#version)}, ${cudnnVersionText(MINIMUM_CUDNN)} or newer is needed: update it`,
        )
      }
      loadMatrixProducts(this.path, Math.floor(Number(library.func('cudnnGetCudartVersion', 'int64_t', [])()) / 1000))
      const entries = Object.entries(SIGNATURES).map(([name, types]) => {
        const returned = name === 'cudnnGetLastErrorString' ? 'void' : 'int'
        return [name, library.func(name, returned, [...types])]
      })
      const functions = Object.fromEntries(entries) as Functions
      this.#functions = functions
      return functions
    } catch (cause) {
      const error =
        cause instanceof DeviceError
          ? cause
          : new DeviceError(`cudnn: ${this.path} cannot be loaded: install cuDNN 9 for the installed CUDA`, { cause })
      this.#problem = error.message
      throw error
    }
  }

  /** A handle whose work goes to `stream` of the current context. */
  createHandle(stream: number): number {
    const out = [0]
    this.#check(this.#load().cudnnCreate(out), 'cudnnCreate')
    const handle = Number(out[0])
    this.#check(this.#load().cudnnSetStream(handle, stream), 'cudnnSetStream')
    return handle
  }

  /** A finalized descriptor. @throws CudnnError naming the attribute that was refused */
  create(kind: DescriptorKind, attributes: Attributes): number {
    const descriptor = this.createEmpty(kind)
    try {
      for (const [name, value] of Object.entries(attributes)) {
        this.#set(kind, descriptor, name as AttributeName, typeof value === 'number' ? [value] : value)
      }
      this.#check(this.#load().cudnnBackendFinalize(descriptor), `finalizing a descriptor (${kind})`)
    } catch (error) {
      this.destroy(descriptor)
      throw error
    }
    return descriptor
  }

  /** A descriptor that cuDNN fills in. */
  createEmpty(kind: DescriptorKind): number {
    const out = [0]
    const status = this.#load().cudnnBackendCreateDescriptor(KINDS[kind], out)
    this.#check(status, `creating a descriptor (${kind})`)
    return Number(out[0])
  }

  destroy(descriptor: number): void {
    this.#load().cudnnBackendDestroyDescriptor(descriptor)
  }

  #set(kind: DescriptorKind, descriptor: number, name: AttributeName, values: readonly number[]): void {
    const [id, type] = ATTRIBUTES[name]
    const { id: typeId, pack } = TYPES[type]
    const status = this.#load().cudnnBackendSetAttribute(descriptor, id, typeId, values.length, pack(values))
    if (status !== 0) this.#check(status, `setting ${name} to [${values.join(', ')}] (${kind})`)
  }

  /** Values of an attribute, at most `limit`. Not for descriptors. */
  get(descriptor: number, name: AttributeName, limit = 1): number[] {
    const [id, type] = ATTRIBUTES[name]
    const values = TYPES[type].pack(new Array<number>(limit).fill(0))
    const count = [0]
    const status = this.#load().cudnnBackendGetAttribute(descriptor, id, TYPES[type].id, limit, count, values)
    this.#check(status, `reading ${name}`)
    return Array.from(values as ArrayLike<number | bigint>, Number).slice(0, Number(count[0]))
  }

  /** Descriptors of an attribute, made here and filled in by cuDNN; the caller destroys them. */
  getDescriptors(descriptor: number, name: AttributeName, kind: DescriptorKind, limit: number): number[] {
    const [id, type] = ATTRIBUTES[name]
    const made = Array.from({ length: limit }, () => this.createEmpty(kind))
    const count = [0]
    const list = addresses(made)
    const status = this.#load().cudnnBackendGetAttribute(descriptor, id, TYPES[type].id, limit, count, list)
    const used = status === 0 ? Number(count[0]) : 0
    for (const unused of made.slice(used)) this.destroy(unused)
    this.#check(status, `reading ${name}`)
    return made.slice(0, used)
  }

  execute(handle: number, plan: number, variantPack: number): void {
    this.#check(this.#load().cudnnBackendExecute(handle, plan, variantPack), 'executing a plan')
  }

  #check(status: number, what: string): void {
    if (status === 0) return
    const bytes = new Uint8Array(MESSAGE_BYTES)
    this.#load().cudnnGetLastErrorString(bytes, bytes.length)
    const reason = new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)))
    throw new CudnnError(
      `cudnn: ${what} failed with status ${status} (${reason || 'no reason given'}) in cuDNN ${cudnnVersionText(this.#version)}: run without cuDNN, or update it`,
      status,
    )
  }
}

/**
 * cuDNN ends the process when it does not find the cuBLASLt of its CUDA, so it is loaded beforehand: from where the loader
 * looks, or from where wheels of cuDNN look.
 */
function loadMatrixProducts(cudnnPath: string, cudaMajor: number): void {
  const name = `libcublasLt.so.${cudaMajor}`
  const folders = [[], ['..', '..', 'cublas', 'lib'], ['..', '..', `cu${cudaMajor}`, 'lib']]
  for (const folder of folders) {
    try {
      koffi.load(folder.length === 0 ? name : join(dirname(cudnnPath), ...folder, name))
      return
    } catch {}
  }
  throw new DeviceError(
    `cudnn: ${cudnnPath} is for CUDA ${cudaMajor} and needs ${name}: install cuBLAS of CUDA ${cudaMajor}`,
  )
}

/** 91400 -> '9.14.0'. */
export function cudnnVersionText(version: number): string {
  return `${Math.floor(version / 10000)}.${Math.floor((version % 10000) / 100)}.${version % 100}`
}

function addresses(values: readonly number[]): BigInt64Array {
  // A loop: several times as fast as BigInt64Array.from, and packs are made in every call.
  const packed = new BigInt64Array(values.length)
  for (let n = 0; n < values.length; n++) packed[n] = BigInt(values[n]!)
  return packed
}

function integers(values: readonly number[]): Int32Array {
  return Int32Array.from(values)
}
