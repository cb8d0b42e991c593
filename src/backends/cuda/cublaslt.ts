// cuBLASLt's functions through koffi, and one product of matrices prepared for repeated use. Row-major throughout: the
// library's column-major D = op(A) op(B) is our transposed out, so its A is our b. Chooses no algorithm: candidates are
// listed here, picked in matmul-search.ts.
import koffi from 'koffi'
import { DeviceError } from '../../core/errors.ts'
import type { CudaDriver } from './driver.ts'

/** cudaDataType. */
export const LT_TYPE = { f32: 0, f16: 2, bf16: 14, e4m3: 28, e5m2: 29 } as const
export type LtType = keyof typeof LT_TYPE

export const LT_TYPE_BYTES: Readonly<Record<LtType, number>> = { f32: 4, f16: 2, bf16: 2, e4m3: 1, e5m2: 1 }

/** cublasLtEpilogue_t. sumOfA and sumOfB are of our a and b: the library's B and A. */
export const EPILOGUE = {
  none: 1,
  bias: 4,
  gelu: 160,
  biasGelu: 164,
  geluBackward: 192,
  sumOfA: 512,
  sumOfB: 256,
} as const
export type Epilogue = keyof typeof EPILOGUE

/** How the factors of an fp8 product are scaled: one number each, or one a row of a and one a column of op(b). */
export type Scaling = 'tensor' | 'rows'

/** A matrix in memory: elements from row to row, and a power of two that divides its address and row length in bytes. */
export interface MatrixLayout {
  readonly type: LtType
  readonly stride: number
  readonly alignment: number
}

/** Everything that decides which algorithms a product may use; all but addresses. */
export interface ProductShape {
  readonly rows: number
  readonly columns: number
  readonly inner: number
  /** a is stored [inner, rows]. */
  readonly transposeA: boolean
  /** b is stored [columns, inner]. */
  readonly transposeB: boolean
  readonly a: MatrixLayout
  readonly b: MatrixLayout
  readonly out: MatrixLayout
  /** What is added to the product, of out's type; it may lie where out lies. */
  readonly added: MatrixLayout | undefined
  readonly epilogue: Epilogue
  /** The bias, or the sums. */
  readonly vector: { readonly type: LtType; readonly alignment: number } | undefined
  /** The pre-activation of the GELU epilogues, of out's type. */
  readonly auxiliary: MatrixLayout | undefined
  /** For fp8 factors. */
  readonly scaling: Scaling | undefined
  readonly fastAccumulation: boolean
  /** So many products of matrices that lie one after the other in each operand; default 1. */
  readonly batch?: number
}

/** One way to compute a product, as the library encodes it: good for the same library version and card. */
export interface Algorithm {
  readonly code: Uint8Array
  readonly workspaceBytes: number
}

/** Device addresses of one product; 0 for what it has not. */
export interface ProductAddresses {
  readonly a: number
  readonly b: number
  readonly out: number
  readonly added: number
  readonly vector: number
  readonly auxiliary: number
  readonly scaleA: number
  readonly scaleB: number
}

/** cublasLtMatmulDescAttributes_t, cublasLtMatmulPreferenceAttributes_t. */
const DESC = {
  transA: 3,
  transB: 4,
  epilogue: 7,
  vectorPointer: 8,
  auxiliaryPointer: 11,
  auxiliaryStride: 12,
  scaleOfA: 17,
  scaleOfB: 18,
  fastAccumulation: 25,
  vectorType: 26,
  scaleModeOfA: 31,
  scaleModeOfB: 32,
} as const
/** cublasLtMatrixLayoutAttribute_t. */
const LAYOUT = { batchCount: 5, batchStride: 6 } as const
const PREFERENCE = {
  workspaceBytes: 1,
  reductionSchemes: 3,
  alignmentOfA: 5,
  alignmentOfB: 6,
  alignmentOfC: 7,
  alignmentOfD: 8,
} as const

/**
 * Split-K sums are added by a kernel of their own, in f32: the other schemes add in the order of arrival, or round
 * the parts to the output's type.
 */
const REDUCTION_COMPUTE_TYPE = 2
const COMPUTE_32F = 68
const OPERATION_TRANSPOSE = 1
const SCALE_OUTER_VECTOR = 3
const ALGORITHM_BYTES = 64
/** cublasLtMatmulHeuristicResult_t: the algorithm, its workspace (u64), its status (i32), its waves (f32), reserve. */
const RESULT_BYTES = 96

const SIGNATURES = {
  cublasLtCreate: 'P',
  cublasLtDestroy: 'p',
  cublasLtMatmulDescCreate: 'Pii',
  cublasLtMatmulDescDestroy: 'p',
  cublasLtMatmulDescSetAttribute: 'pipp',
  cublasLtMatrixLayoutCreate: 'Pippp',
  cublasLtMatrixLayoutDestroy: 'p',
  cublasLtMatrixLayoutSetAttribute: 'pipp',
  cublasLtMatmulPreferenceCreate: 'P',
  cublasLtMatmulPreferenceDestroy: 'p',
  cublasLtMatmulPreferenceSetAttribute: 'pipp',
  cublasLtMatmulAlgoGetHeuristic: 'pppppppivI',
  cublasLtMatmul: 'pppppppppppppppp',
} as const
type LtFunction = keyof typeof SIGNATURES

const TYPES: Readonly<Record<string, string>> = {
  p: 'int64_t',
  i: 'int32_t',
  v: 'void*',
  I: '_Out_ int32_t*',
  P: '_Out_ int64_t*',
}

type Native = (...args: unknown[]) => number

interface NativeSlot {
  readonly address: number
  readonly view: DataView
}

const SLOT_BYTES = 64
const PAGE_BYTES = 64 << 10

export class CublasLt {
  /** 130001 for 13.0.1. */
  readonly version: number
  /** The library at work on the card whose context was current. */
  readonly handle: number
  readonly stream: number
  readonly #driver: CudaDriver
  readonly #path: string
  readonly #functions = new Map<LtFunction, Native>()
  readonly #statusText: (status: number) => string
  /** Native memory that is handed out in 64-byte slots and kept. */
  #page = { address: 0, used: 0, memory: new ArrayBuffer(0) }
  /** Where attribute values are put for the library to read. */
  readonly #value: NativeSlot
  readonly oneAddress: number
  readonly zeroAddress: number

  /**
   * The card's context must be current.
   * @param path  libcublasLt
   * @throws DeviceError if it cannot be loaded or does not start
   */
  constructor(path: string, driver: CudaDriver, stream: number) {
    this.#path = path
    this.#driver = driver
    this.stream = stream
    try {
      const library = koffi.load(path)
      for (const [name, signature] of Object.entries(SIGNATURES) as [LtFunction, string][]) {
        const types = [...signature].map((letter) => TYPES[letter]!)
        this.#functions.set(name, library.func(name, 'int', types) as unknown as Native)
      }
      this.#statusText = library.func('cublasLtGetStatusString', 'str', ['int']) as never
      this.version = Number(library.func('cublasLtGetVersion', 'int64_t', [])())
    } catch (cause) {
      throw new DeviceError(`cuda: ${path} cannot be loaded: install cuBLASLt of CUDA 12 or newer`, { cause })
    }
    this.handle = this.#made('cublasLtCreate')
    this.#value = this.slot()
    const constants = this.slot()
    constants.view.setFloat32(0, 1, true)
    this.oneAddress = constants.address
    this.zeroAddress = constants.address + 8
  }

  /** 64 bytes of zeroed native memory. */
  slot(): NativeSlot {
    if (this.#page.used === this.#page.memory.byteLength) {
      const address = this.#driver.integer('cuMemAllocHost_v2', PAGE_BYTES)
      this.#page = { address, used: 0, memory: koffi.view(address, PAGE_BYTES) as ArrayBuffer }
      new Uint8Array(this.#page.memory).fill(0)
    }
    const { address, used, memory } = this.#page
    this.#page.used += SLOT_BYTES
    return { address: address + used, view: new DataView(memory, used, SLOT_BYTES) }
  }

  raw(name: LtFunction): Native {
    return this.#functions.get(name)!
  }

  /** The library's own words for a status. */
  explain(status: number): string {
    return `${this.#statusText(status)} (status ${status})`
  }

  /** @throws DeviceError unless it succeeds */
  call(name: LtFunction, ...args: unknown[]): void {
    const status = this.#functions.get(name)!(...args)
    if (status !== 0) this.fail(name, status)
  }

  fail(name: LtFunction, status: number): never {
    throw new DeviceError(
      `cuda: ${name} of ${this.#path} failed: ${this.explain(status)}; delete the matmul files of the kernel cache and start again`,
    )
  }

  #made(name: LtFunction, ...args: unknown[]): number {
    const out = [0]
    this.call(name, out, ...args)
    return Number(out[0])
  }

  descriptor(): number {
    return this.#made('cublasLtMatmulDescCreate', COMPUTE_32F, LT_TYPE.f32)
  }

  layout(type: LtType, rows: number, columns: number, stride: number): number {
    return this.#made('cublasLtMatrixLayoutCreate', LT_TYPE[type], rows, columns, stride)
  }

  preference(): number {
    return this.#made('cublasLtMatmulPreferenceCreate')
  }

  set(
    name:
      | 'cublasLtMatmulDescSetAttribute'
      | 'cublasLtMatmulPreferenceSetAttribute'
      | 'cublasLtMatrixLayoutSetAttribute',
    object: number,
    attribute: number,
    bytes: 1 | 4 | 8,
    value: number,
  ): void {
    if (bytes === 1) this.#value.view.setInt8(0, value)
    else {
      this.#value.view.setUint32(0, value % 2 ** 32, true)
      this.#value.view.setUint32(4, Math.floor(value / 2 ** 32), true)
    }
    this.call(name, object, attribute, this.#value.address, bytes)
  }

  close(): void {
    this.call('cublasLtDestroy', this.handle)
  }
}

/** One product: descriptors that are made once, candidates, and the call itself. */
export class LtProduct {
  readonly shape: ProductShape
  readonly #lt: CublasLt
  readonly #matmul: Native
  readonly #descriptor: number
  readonly #layouts: { readonly a: number; readonly b: number; readonly c: number; readonly d: number }
  readonly #algorithm: NativeSlot
  #workspaceBytes = 0
  readonly #betaAddress: number
  /** Addresses that the descriptor holds at present. */
  #held = { vector: 0, auxiliary: 0, scaleA: 0, scaleB: 0 }

  constructor(lt: CublasLt, shape: ProductShape) {
    this.shape = shape
    this.#lt = lt
    this.#matmul = lt.raw('cublasLtMatmul')
    this.#algorithm = lt.slot()
    this.#betaAddress = shape.added === undefined ? lt.zeroAddress : lt.oneAddress
    const { rows, columns, inner, transposeA, transposeB, a, b, out, added = out, batch = 1 } = shape
    const layout = (of: MatrixLayout, storedRows: number, storedColumns: number): number => {
      const made = lt.layout(of.type, storedColumns, storedRows, of.stride)
      if (batch > 1) {
        lt.set('cublasLtMatrixLayoutSetAttribute', made, LAYOUT.batchCount, 4, batch)
        lt.set('cublasLtMatrixLayoutSetAttribute', made, LAYOUT.batchStride, 8, storedRows * of.stride)
      }
      return made
    }
    this.#layouts = {
      a: transposeA ? layout(a, inner, rows) : layout(a, rows, inner),
      b: transposeB ? layout(b, columns, inner) : layout(b, inner, columns),
      c: layout(added, rows, columns),
      d: layout(out, rows, columns),
    }
    this.#descriptor = lt.descriptor()
    const set = (attribute: number, value: number, bytes: 1 | 4 | 8 = 4) =>
      lt.set('cublasLtMatmulDescSetAttribute', this.#descriptor, attribute, bytes, value)
    if (transposeB) set(DESC.transA, OPERATION_TRANSPOSE)
    if (transposeA) set(DESC.transB, OPERATION_TRANSPOSE)
    set(DESC.epilogue, EPILOGUE[shape.epilogue])
    if (shape.vector !== undefined) set(DESC.vectorType, LT_TYPE[shape.vector.type])
    if (shape.auxiliary !== undefined) set(DESC.auxiliaryStride, shape.auxiliary.stride, 8)
    if (shape.fastAccumulation) set(DESC.fastAccumulation, 1, 1)
    if (shape.scaling === 'rows') {
      set(DESC.scaleModeOfA, SCALE_OUTER_VECTOR)
      set(DESC.scaleModeOfB, SCALE_OUTER_VECTOR)
    }
    // The candidates depend on the alignment of these, so something stands there before the first call.
    const somewhere = 1 << 20
    this.#point({
      vector: shape.vector === undefined ? 0 : somewhere + shape.vector.alignment,
      auxiliary: shape.auxiliary === undefined ? 0 : somewhere + shape.auxiliary.alignment,
      scaleA: shape.scaling === undefined ? 0 : somewhere,
      scaleB: shape.scaling === undefined ? 0 : somewhere,
    })
  }

  /**
   * Ways to compute it that give the same bits on every run, the library's favourite first.
   * @returns none where the library refuses the shape
   */
  candidates(count: number, workspaceBytes: number): Algorithm[] {
    const lt = this.#lt
    const preference = lt.preference()
    const set = (attribute: number, value: number, bytes: 4 | 8 = 4) =>
      lt.set('cublasLtMatmulPreferenceSetAttribute', preference, attribute, bytes, value)
    set(PREFERENCE.workspaceBytes, workspaceBytes, 8)
    set(PREFERENCE.reductionSchemes, REDUCTION_COMPUTE_TYPE)
    const { a, b, out, added = out } = this.shape
    set(PREFERENCE.alignmentOfA, b.alignment)
    set(PREFERENCE.alignmentOfB, a.alignment)
    set(PREFERENCE.alignmentOfC, added.alignment)
    set(PREFERENCE.alignmentOfD, out.alignment)
    const results = new Uint8Array(RESULT_BYTES * count)
    const found = [0]
    const { a: la, b: lb, c, d } = this.#layouts
    // NOT_SUPPORTED is an answer: there is none.
    const status = lt.raw('cublasLtMatmulAlgoGetHeuristic')(
      lt.handle,
      this.#descriptor,
      lb,
      la,
      c,
      d,
      preference,
      count,
      results,
      found,
    )
    lt.call('cublasLtMatmulPreferenceDestroy', preference)
    if (status !== 0) return []
    return Array.from({ length: found[0]! }, (_, i) => algorithmOf(results.subarray(i * RESULT_BYTES)))
      .filter((result) => result.status === 0)
      .map((result) => result.algorithm)
  }

  use({ code, workspaceBytes }: Algorithm): void {
    writeCode(this.#algorithm.view, code)
    this.#workspaceBytes = workspaceBytes
  }

  /**
   * Launches. `workspace` has as many bytes as the algorithm in use asked for.
   * @throws DeviceError if the algorithm is none for these addresses after all
   */
  run(addresses: ProductAddresses, workspace: number): void {
    const held = this.#held
    if (
      held.vector !== addresses.vector ||
      held.auxiliary !== addresses.auxiliary ||
      held.scaleA !== addresses.scaleA ||
      held.scaleB !== addresses.scaleB
    ) {
      this.#point(addresses)
    }
    const lt = this.#lt
    const layouts = this.#layouts
    const status = this.#matmul(
      lt.handle,
      this.#descriptor,
      lt.oneAddress,
      addresses.b,
      layouts.b,
      addresses.a,
      layouts.a,
      this.#betaAddress,
      addresses.added === 0 ? addresses.out : addresses.added,
      layouts.c,
      addresses.out,
      layouts.d,
      this.#algorithm.address,
      workspace,
      this.#workspaceBytes,
      lt.stream,
    )
    if (status !== 0) lt.fail('cublasLtMatmul', status)
  }

  #point({
    vector,
    auxiliary,
    scaleA,
    scaleB,
  }: Pick<ProductAddresses, 'vector' | 'auxiliary' | 'scaleA' | 'scaleB'>): void {
    const held = this.#held
    const set = (attribute: number, value: number) =>
      this.#lt.set('cublasLtMatmulDescSetAttribute', this.#descriptor, attribute, 8, value)
    if (held.vector !== vector) set(DESC.vectorPointer, vector)
    if (held.auxiliary !== auxiliary) set(DESC.auxiliaryPointer, auxiliary)
    if (held.scaleA !== scaleA) set(DESC.scaleOfB, scaleA)
    if (held.scaleB !== scaleB) set(DESC.scaleOfA, scaleB)
    this.#held = { vector, auxiliary, scaleA, scaleB }
  }

  destroy(): void {
    this.#lt.call('cublasLtMatmulDescDestroy', this.#descriptor)
    for (const layout of Object.values(this.#layouts)) this.#lt.call('cublasLtMatrixLayoutDestroy', layout)
  }
}

function algorithmOf(result: Uint8Array): { algorithm: Algorithm; status: number } {
  const view = new DataView(result.buffer, result.byteOffset, RESULT_BYTES)
  return {
    algorithm: {
      code: result.slice(0, ALGORITHM_BYTES),
      workspaceBytes: Number(view.getBigUint64(ALGORITHM_BYTES, true)),
    },
    status: view.getInt32(ALGORITHM_BYTES + 8, true),
  }
}

function writeCode(view: DataView, code: Uint8Array): void {
  new Uint8Array(view.buffer, view.byteOffset, ALGORITHM_BYTES).set(code)
}

/** 130001 -> '13.0.1'. */
export function ltVersionText(version: number): string {
  return `${Math.floor(version / 10000)}.${Math.floor((version % 10000) / 100)}.${version % 100}`
}
