// The ways to compute one kind of matmul call: with everything in cuBLASLt's epilogue, or with passes of our own around a
// plainer product (kernels/matmul.cu), or without cuBLASLt where it refuses. Which one is used is decided in matmul.ts.
import { DTYPE_BYTES, type Dtype } from '../../core/dtype.ts'
import { invariant } from '../../core/errors.ts'
import type { Kernels, MatmulOptions } from '../../core/kernels.ts'
import type { Tensor } from '../../core/tensor.ts'
import { type Algorithm, type CublasLt, type Epilogue, LtProduct, type LtType, type MatrixLayout } from './cublaslt.ts'
import { blocksFor, type CudaKernel, type Launcher } from './launcher.ts'

/** The factors are bytes in an fp8 format: a [M, K], b [N, K]. */
export interface Fp8Options {
  readonly a: 'e4m3' | 'e5m2'
  readonly b: 'e4m3' | 'e5m2'
  /** f32 on the device, multiplied in: one number, or one for each row of a and of b. Both are of the same kind. */
  readonly scaleA: Tensor
  readonly scaleB: Tensor
  /** Sums stay in the tensor cores' narrower accumulators: faster, with fewer bits. */
  readonly fastAccumulation: boolean
}

/** A call's tensors and options, as `matmul` gets them. */
export interface Operands {
  readonly out: Tensor
  readonly a: Tensor
  readonly b: Tensor
  readonly options: MatmulOptions
  readonly fp8: Fp8Options | undefined
}

/** What a call does beside its tensors' sizes. */
interface RouteShape {
  readonly name: 'fused' | 'separate'
  readonly target: 'out' | 'preActivation'
  readonly added: 'out' | 'residual' | undefined
  readonly epilogue: Epilogue
  /** What the pass over the product still has to add and do. */
  readonly passBias: boolean
  readonly passResidual: boolean
  readonly passMode: 'add' | 'gelu' | 'geluBackward'
}

/** Modes and bits of kernels/matmul.cu. */
const MODE = { add: 0, gelu: 1, geluBackward: 2 } as const
const WIDE = { out: 1, bias: 2, residual: 4, pre: 8 } as const
/** cuBLASLt asks for it of the rows of a pre-activation. */
const AUXILIARY_MULTIPLE = 8
const CANDIDATES = 16

/** Kernels of kernels/matmul.cu for one type of factors. */
interface Passes {
  readonly finish: CudaKernel
  readonly finishPacked: CudaKernel
  readonly addSums: CudaKernel
  readonly simple: CudaKernel
}

/** What all routes share. */
export class RouteContext {
  readonly lt: CublasLt
  readonly launcher: Launcher
  readonly workspace: { readonly address: number; readonly bytes: number }
  /** Makes the sums that no epilogue makes. */
  readonly sumRows: Kernels['sumRows']
  readonly #passes = new Map<Dtype, Passes>()

  constructor(
    lt: CublasLt,
    launcher: Launcher,
    sumRows: Kernels['sumRows'],
    workspace: { address: number; bytes: number },
  ) {
    this.lt = lt
    this.launcher = launcher
    this.sumRows = sumRows
    this.workspace = workspace
  }

  passes(dtype: Dtype): Passes {
    let passes = this.#passes.get(dtype)
    if (passes === undefined) {
      const kernel = (name: string, signature: string) => this.launcher.kernel('matmul', name, signature, { dtype })
      passes = {
        finish: kernel('matmul_finish', 'plplpplllii'),
        finishPacked: kernel('matmul_finish_packed', 'plplpplllii'),
        addSums: kernel('matmul_add_sums', 'ppl'),
        simple: kernel('matmul_simple', 'plplppllplllllli'),
      }
      this.#passes.set(dtype, passes)
    }
    return passes
  }
}

/** Names of the routes of a call, the one that a first run should take first. */
export function routeNames({ out, a, options }: Operands): string[] {
  return routeShapes(out, a, options).map((shape) => shape.name)
}

/** The route of that name for calls with operands like these. */
export function routeOf(context: RouteContext, name: string, { out, a, b, options, fp8 }: Operands): Route {
  const shape = routeShapes(out, a, options).find((candidate) => candidate.name === name)!
  return new Route(context, shape, out, a, b, options, fp8)
}

/** The routes of a call, the one with the most in the epilogue first. The last one works for every call. */
function routeShapes(out: Tensor, a: Tensor, options: MatmulOptions): RouteShape[] {
  const { accumulate = false, bias, residual, gelu, geluBackward, sumOfA, sumOfB } = options
  const plain = { target: 'out', added: undefined, epilogue: 'none', passBias: false, passResidual: false } as const
  if (gelu !== undefined) {
    const pre = gelu.preActivation
    const fits = bias === undefined || bias.dtype === pre.dtype
    const separate = { ...plain, name: 'separate', target: 'preActivation', passMode: 'gelu' } as const
    return [
      ...(fits && isAuxiliary(pre, out)
        ? [{ ...plain, name: 'fused', epilogue: bias ? 'biasGelu' : 'gelu', passMode: 'add' } as const]
        : []),
      { ...separate, epilogue: bias && fits ? 'bias' : 'none', passBias: !fits },
    ]
  }
  if (geluBackward !== undefined) {
    return [
      ...(isAuxiliary(geluBackward, out)
        ? [{ ...plain, name: 'fused', epilogue: 'geluBackward', passMode: 'add' } as const]
        : []),
      { ...plain, name: 'separate', passMode: 'geluBackward' },
    ]
  }
  const added = accumulate ? 'out' : residual?.dtype === out.dtype ? 'residual' : undefined
  const passResidual = residual !== undefined && added !== 'residual'
  const fits = bias?.dtype === out.dtype
  const separate: RouteShape = {
    ...plain,
    name: 'separate',
    added,
    epilogue: fits ? 'bias' : 'none',
    passBias: bias !== undefined && !fits,
    passResidual,
    passMode: 'add',
  }
  // The library makes one vector a product, of the output's type.
  const isFusedSum =
    (sumOfA === undefined) !== (sumOfB === undefined) && bias === undefined && out.dtype === 'f32' && a.dtype !== 'u8'
  if (!isFusedSum) return [separate]
  return [{ ...separate, name: 'fused', epilogue: sumOfA ? 'sumOfA' : 'sumOfB' }, separate]
}

function isAuxiliary(pre: Tensor, out: Tensor): boolean {
  return pre.dtype === out.dtype && pre.rowStride % AUXILIARY_MULTIPLE === 0
}

/** One way to compute calls of one kind, ready to be launched. */
export class Route {
  readonly shape: RouteShape
  /** None where cuBLASLt refuses: then the plain kernel computes. */
  readonly candidates: readonly Algorithm[]
  readonly #context: RouteContext
  readonly #product: LtProduct | undefined
  readonly #sumsApart: boolean
  readonly #hasPass: boolean

  constructor(
    context: RouteContext,
    shape: RouteShape,
    out: Tensor,
    a: Tensor,
    b: Tensor,
    options: MatmulOptions,
    fp8: Fp8Options | undefined,
  ) {
    this.shape = shape
    this.#context = context
    this.#sumsApart = shape.epilogue !== 'sumOfA' && shape.epilogue !== 'sumOfB'
    this.#hasPass = shape.passBias || shape.passResidual || shape.passMode !== 'add'
    const { transposeA = false, transposeB = false, residual, bias, gelu, geluBackward, sumOfA, sumOfB } = options
    const target = shape.target === 'out' ? out : gelu!.preActivation
    const added = shape.added === 'out' ? out : shape.added === 'residual' ? residual : undefined
    const auxiliary = shape.epilogue === 'geluBackward' ? geluBackward : gelu?.preActivation
    const hasAuxiliary = ['gelu', 'biasGelu', 'geluBackward'].includes(shape.epilogue)
    const vector = { bias, biasGelu: bias, sumOfA, sumOfB, none: undefined, gelu: undefined, geluBackward: undefined }[
      shape.epilogue
    ]
    const product = new LtProduct(context.lt, {
      rows: out.rowCount,
      columns: out.columnCount,
      inner: transposeA ? a.rowCount : a.columnCount,
      transposeA,
      transposeB,
      a: layoutOf(a, fp8?.a),
      b: layoutOf(b, fp8?.b),
      out: layoutOf(target),
      added: added && layoutOf(added),
      epilogue: shape.epilogue,
      vector: vector && { type: ltType(vector.dtype), alignment: alignmentOf(vector) },
      auxiliary: hasAuxiliary ? layoutOf(auxiliary!) : undefined,
      scaling: fp8 && (fp8.scaleA.size === 1 ? 'tensor' : 'rows'),
      fastAccumulation: fp8?.fastAccumulation ?? false,
    })
    this.candidates = product.candidates(CANDIDATES, context.workspace.bytes)
    if (this.candidates.length > 0) this.#product = product
    else product.destroy()
  }

  get name(): string {
    return this.shape.name
  }

  use(algorithm: Algorithm): void {
    this.#product!.use(algorithm)
  }

  run(out: Tensor, a: Tensor, b: Tensor, options: MatmulOptions, fp8: Fp8Options | undefined): void {
    const { shape } = this
    const { accumulate = false, bias, residual, gelu, geluBackward, sumOfA, sumOfB } = options
    const context = this.#context
    // First, because they may use the scratch memory.
    if (this.#sumsApart) {
      if (sumOfA !== undefined) context.sumRows(sumOfA, a, accumulate)
      if (sumOfB !== undefined) context.sumRows(sumOfB, b, accumulate)
    }
    const sums = this.#sumsApart ? undefined : (sumOfA ?? sumOfB)!
    const sumsAddress = sums === undefined ? 0 : accumulate ? context.launcher.scratch(sums.size * 4) : sums.address
    const target = shape.target === 'out' ? out : gelu!.preActivation
    const added = shape.added === 'out' ? out : shape.added === 'residual' ? residual! : undefined
    if (this.#product === undefined) this.#simple(target, a, b, options, added)
    else {
      const hasBias = shape.epilogue === 'bias' || shape.epilogue === 'biasGelu'
      const isFusedGelu = shape.epilogue === 'gelu' || shape.epilogue === 'biasGelu'
      this.#product.run(
        {
          a: a.address,
          b: b.address,
          out: target.address,
          added: added?.address ?? 0,
          vector: hasBias ? bias!.address : sumsAddress,
          auxiliary: isFusedGelu
            ? gelu!.preActivation.address
            : shape.epilogue === 'geluBackward'
              ? geluBackward!.address
              : 0,
          scaleA: fp8?.scaleA.address ?? 0,
          scaleB: fp8?.scaleB.address ?? 0,
        },
        context.workspace.address,
      )
    }
    if (this.#hasPass) this.#pass(out, a.dtype, options)
    if (sums !== undefined && accumulate) {
      context.passes(a.dtype).addSums(blocksFor(sums.size, 256), 256, sums.address, sumsAddress, sums.size)
    }
  }

  #simple(target: Tensor, a: Tensor, b: Tensor, options: MatmulOptions, added: Tensor | undefined): void {
    const { transposeA = false, transposeB = false } = options
    const hasBias = this.shape.epilogue === 'bias'
    invariant(hasBias || this.shape.epilogue === 'none', 'the plain product has no such epilogue')
    const { bias } = options
    const wide = isWide(target, a.dtype, WIDE.out) | (hasBias ? isWide(bias!, a.dtype, WIDE.bias) : 0)
    this.#context
      .passes(a.dtype)
      .simple(
        [blocksFor(target.rowCount, 64), blocksFor(target.columnCount, 64)],
        256,
        target.address,
        target.rowStride,
        added?.address ?? 0,
        added?.rowStride ?? 0,
        hasBias ? bias!.address : 0,
        a.address,
        transposeA ? 1 : a.rowStride,
        transposeA ? a.rowStride : 1,
        b.address,
        transposeB ? 1 : b.rowStride,
        transposeB ? b.rowStride : 1,
        target.rowCount,
        target.columnCount,
        transposeA ? a.rowCount : a.columnCount,
        wide,
      )
  }

  #pass(out: Tensor, dtype: Dtype, options: MatmulOptions): void {
    const { passBias, passResidual, passMode } = this.shape
    const bias = passBias ? options.bias! : undefined
    const residual = passResidual ? options.residual! : undefined
    const pre =
      passMode === 'gelu'
        ? options.gelu!.preActivation
        : passMode === 'geluBackward'
          ? options.geluBackward!
          : undefined
    const width = 16 / DTYPE_BYTES[dtype]
    const isPacked =
      out.columnCount % width === 0 &&
      [out, pre, residual].every((x) => x === undefined || (x.rowStride % width === 0 && x.address % 16 === 0)) &&
      (bias === undefined || bias.address % 16 === 0)
    const { finish, finishPacked } = this.#context.passes(dtype)
    const columns = out.columnCount / (isPacked ? width : 1)
    const kernel = isPacked ? finishPacked : finish
    kernel(
      out.rowCount,
      threadsFor(columns),
      out.address,
      out.rowStride,
      pre?.address ?? 0,
      pre?.rowStride ?? 0,
      bias?.address ?? 0,
      residual?.address ?? 0,
      residual?.rowStride ?? 0,
      out.rowCount,
      out.columnCount,
      MODE[passMode],
      isWide(out, dtype, WIDE.out) |
        isWide(bias, dtype, WIDE.bias) |
        isWide(residual, dtype, WIDE.residual) |
        isWide(pre, dtype, WIDE.pre),
    )
  }
}

/** Threads of a block that walks along `count` items, so that the fewest stand idle. */
function threadsFor(count: number): number {
  const idle = (threads: number): number => Math.ceil(count / threads) * threads - count
  return [256, 192, 128, 64, 32].reduce((best, threads) => (idle(threads) < idle(best) ? threads : best))
}

function isWide(x: Tensor | undefined, dtype: Dtype, bit: number): number {
  return x !== undefined && x.dtype !== dtype ? bit : 0
}

export function layoutOf(x: Tensor, fp8?: LtType): MatrixLayout {
  return { type: fp8 ?? ltType(x.dtype), stride: x.rowStride, alignment: alignmentOf(x) }
}

function ltType(dtype: Dtype): LtType {
  invariant(dtype === 'f32' || dtype === 'bf16' || dtype === 'f16', `matmul: no product of ${dtype} on this device`)
  return dtype
}

/** The largest power of two up to 16 that divides the address of every row. */
export function alignmentOf(x: Tensor): number {
  const low = (x.address % 16) | ((x.rowStride * DTYPE_BYTES[x.dtype]) % 16)
  return low === 0 ? 16 : low & -low
}
