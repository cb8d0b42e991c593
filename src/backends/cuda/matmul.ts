// Matrix products on CUDA: finds the plan of a call by everything that shapes it, and launches. A new shape takes the
// library's favourite algorithm at once; `tune` times the others, and what it finds is kept for good.
import { createHash } from 'node:crypto'
import { DTYPE_BYTES } from '../../core/dtype.ts'
import { invariant } from '../../core/errors.ts'
import type { Kernels, MatmulOptions } from '../../core/kernels.ts'
import { Storage, Tensor } from '../../core/tensor.ts'
import type { CublasLt } from './cublaslt.ts'
import {
  alignmentOf,
  type Fp8Options,
  type Operands,
  type Route,
  RouteContext,
  routeNames,
  routeOf,
} from './matmul-routes.ts'
import { type Choice, ChoiceStore, type Contender, timeContenders } from './matmul-search.ts'
import type { CudaRuntime } from './runtime.ts'

export interface MatmulSettings {
  /** Where the choices of the search are kept; made when there are some. */
  readonly cacheDir: string
  /** Device memory for cuBLASLt, allocated once. */
  readonly workspaceBytes?: number
}

/** What the search did about one kind of call. */
export interface TuneResult {
  readonly call: string
  readonly flops: number
  /** Microseconds of the library's favourite, of the choice, and of the best of each route. */
  readonly first: number
  readonly best: number
  readonly routes: Readonly<Record<string, number>>
  readonly candidates: number
}

const WORKSPACE_BYTES = 32 << 20
/** Operands of the search are copied until they overflow the second-level cache, at most so often. */
const COLD_BYTES = 128 << 20
const MAX_COPIES = 8

/** Everything about one kind of call. */
interface Plan {
  readonly call: string
  readonly flops: number
  /** Tensors of this kind, to make others like them: their addresses are those of a call, modulo 16. */
  readonly specimen: Operands
  readonly routes: Map<string, Route>
  route: Route
  choice: Choice
  isTuned: boolean
}

export class CudaMatmul {
  readonly kernels: Pick<Kernels, 'matmul'>
  readonly #runtime: CudaRuntime
  readonly #lt: CublasLt
  readonly #context: RouteContext
  readonly #store: ChoiceStore
  readonly #plans = new Map<string, Plan>()
  #last: Plan | undefined

  /** @param sumRows  this device's, for sums that no epilogue makes */
  constructor(
    runtime: CudaRuntime,
    lt: CublasLt,
    sumRows: Kernels['sumRows'],
    { cacheDir, workspaceBytes = WORKSPACE_BYTES }: MatmulSettings,
  ) {
    this.#runtime = runtime
    this.#lt = lt
    const workspace = { address: runtime.allocate(workspaceBytes), bytes: workspaceBytes }
    this.#context = new RouteContext(lt, runtime, sumRows, workspace)
    this.#store = new ChoiceStore(cacheDir, runtime.card.name, lt.version)
    this.kernels = { matmul: (out, a, b, options) => this.#run(out, a, b, options, undefined) }
  }

  /**
   * out [M, N] (+)= scaleA scaleB a b^T + bias + residual, a [M, K] and b [N, K] bytes in fp8 formats, out bf16, f16 or
   * f32, bias and residual of its type. All sizes must be multiples of 16, and addresses too: that is what the tensor
   * cores take.
   */
  fp8(
    out: Tensor,
    a: Tensor,
    b: Tensor,
    fp8: Fp8Options,
    options: Pick<MatmulOptions, 'accumulate' | 'bias' | 'residual'> = {},
  ): void {
    this.#run(out, a, b, { transposeB: true, ...options }, fp8)
  }

  #run(out: Tensor, a: Tensor, b: Tensor, options: MatmulOptions, fp8: Fp8Options | undefined): void {
    if (out.size === 0) return
    const key = keyOf(out, a, b, options, fp8)
    let plan = this.#plans.get(key)
    if (plan === undefined) {
      plan = this.#plan({ out, a, b, options, fp8 })
      this.#plans.set(key, plan)
    }
    this.#last = plan
    plan.route.run(out, a, b, options, fp8)
  }

  #plan(operands: Operands): Plan {
    expectSound(operands)
    const { out, a, options, fp8 } = operands
    const call = describe(operands)
    const plan = {
      call,
      flops: 2 * out.size * (options.transposeA ? a.rowCount : a.columnCount),
      specimen: operandsAt(operands, (tensor) => tensor.address % 16),
      routes: new Map<string, Route>(),
    }
    const stored = this.#store.get(call)
    const names = routeNames(operands)
    const name = stored?.route ?? names.find((each) => this.#route(plan, each).candidates.length > 0) ?? 'separate'
    const route = this.#route(plan, name)
    const algorithm = stored?.algorithm ?? route.candidates[0]
    invariant(algorithm !== undefined || fp8 === undefined, `matmul: cuBLASLt has no ${call}`)
    if (algorithm !== undefined) route.use(algorithm)
    // Where there is nothing to choose from, the choice is made.
    const isTuned = stored !== undefined || algorithm === undefined
    return { ...plan, route, choice: { route: name, algorithm }, isTuned }
  }

  #route({ routes, specimen }: Pick<Plan, 'routes' | 'specimen'>, name: string): Route {
    let route = routes.get(name)
    if (route === undefined) {
      route = routeOf(this.#context, name, specimen)
      routes.set(name, route)
    }
    return route
  }

  /** Kinds of calls that still run with the library's first suggestion. */
  get untuned(): number {
    return [...this.#plans.values()].filter((plan) => !plan.isTuned).length
  }

  /**
   * Times the ways to compute every kind of call seen so far that no earlier run has timed, and uses and keeps the
   * fastest. Results of later calls have other last bits than before. Synchronous; about 0.2 s a kind.
   * @param memory  device memory that may be overwritten; without it some is allocated for the time. A kind that does
   *                not fit stays as it is.
   */
  tune(memory?: { readonly address: number; readonly bytes: number }): TuneResult[] {
    const results: TuneResult[] = []
    const chosen = new Map<string, Choice>()
    const plans = [...this.#plans.values()].filter((plan) => !plan.isTuned)
    for (const plan of plans) {
      const bytes = bytesOf(plan.specimen)
      let copies = Math.min(MAX_COPIES, Math.ceil(COLD_BYTES / bytes))
      if (memory !== undefined) copies = Math.min(copies, Math.floor(memory.bytes / bytes))
      const own = memory === undefined && copies > 0 ? this.#runtime.tryAllocate(copies * bytes) : 0
      const address = memory?.address ?? own
      if (address === 0 || copies === 0) continue
      try {
        const { result, choice } = this.#search(plan, address, bytes, copies)
        results.push(result)
        // Where every way failed there is nothing to keep.
        if (Number.isFinite(result.best)) chosen.set(plan.call, choice)
      } finally {
        if (own !== 0) this.#runtime.free(own)
      }
    }
    if (chosen.size > 0) this.#store.keep(chosen)
    for (const plan of plans) {
      const choice = this.#store.get(plan.call)
      if (choice === undefined) continue
      plan.choice = choice
      plan.route = this.#route(plan, choice.route)
      if (choice.algorithm !== undefined) plan.route.use(choice.algorithm)
      plan.isTuned = true
    }
    return results
  }

  #search(plan: Plan, address: number, bytes: number, copies: number): { result: TuneResult; choice: Choice } {
    const sets = Array.from({ length: copies }, (_, i) => {
      let next = address + i * bytes
      return operandsAt(plan.specimen, (tensor) => {
        const at = next
        next += bytesOfTensor(tensor)
        return at + tensor.address
      })
    })
    sets.forEach((set, i) => {
      for (const [j, tensor] of tensorsOf(set).entries()) this.#fillWithNoise(tensor, 1000 * i + j)
    })
    const routes = routeNames(plan.specimen).map((name) => this.#route(plan, name))
    const entries = routes.flatMap((route) =>
      route.candidates.map((algorithm) => ({ route, choice: { route: route.name, algorithm } })),
    )
    const contenders = entries.map(
      ({ route, choice }): Contender => ({
        prepare: () => route.use(choice.algorithm),
        run: (copy) => {
          const set = sets[copy]!
          route.run(set.out, set.a, set.b, set.options, set.fp8)
        },
      }),
    )
    const times = timeContenders(this.#runtime, contenders, copies)
    const best = Math.min(...times)
    const bestOf = (route: Route) => Math.min(...times.filter((_, i) => entries[i]!.route === route))
    const result = {
      call: plan.call,
      flops: plan.flops,
      first: times[0]!,
      best,
      routes: Object.fromEntries(routes.map((route) => [route.name, bestOf(route)])),
      candidates: entries.length,
    }
    return { result, choice: entries[times.indexOf(best)]!.choice }
  }

  #fillWithNoise(tensor: Tensor, seed: number): void {
    const isFp8 = tensor.dtype === 'u8'
    const name = isFp8 ? 'matmul_noise_fp8' : 'matmul_noise'
    const noise = this.#runtime.kernel('matmul', name, 'plu', isFp8 ? {} : { dtype: tensor.dtype })
    noise(8 * this.#runtime.multiprocessors, 256, tensor.address, tensor.rowCount * tensor.rowStride, seed)
  }

  /** How the last call was computed. */
  get lastRoute(): string {
    return this.#last?.route.name ?? 'none'
  }

  /** Every kind of call so far and how it is computed: for benches and for people who look for a slow one. */
  get choices(): { readonly call: string; readonly route: string; readonly isPlain: boolean }[] {
    return [...this.#plans.values()].map(({ call, choice }) => ({
      call,
      route: choice.route,
      isPlain: choice.algorithm === undefined,
    }))
  }

  /** Gives the workspace back; nothing may be launched afterwards. */
  close(): void {
    this.#runtime.free(this.#context.workspace.address)
  }

  /** How each kind of call that has been decided is computed, as short texts by call: the same text, the same bits. */
  signatures(): Record<string, string> {
    const decided = [...this.#plans.values()].filter(({ isTuned }) => isTuned)
    return Object.fromEntries(decided.map(({ call, choice }) => [call, signatureOf(choice)]))
  }

  /** Of one kind of call, made already or only timed by an earlier run; undefined where nothing is decided. */
  signature(call: string): string | undefined {
    const plan = [...this.#plans.values()].find((each) => each.call === call)
    const choice = plan?.isTuned ? plan.choice : this.#store.get(call)
    return choice && signatureOf(choice)
  }

  /** A short text that is the same where all calls so far were computed by the same algorithms. */
  get fingerprint(): string {
    const hash = createHash('sha256').update(`${this.#runtime.card.name} ${this.#lt.version}`)
    for (const { call, choice } of [...this.#plans.values()].sort((one, other) => (one.call < other.call ? -1 : 1))) {
      hash.update(`\n${call} ${choice.route} `).update(choice.algorithm?.code ?? 'plain')
    }
    return hash.digest('hex').slice(0, 16)
  }
}

function signatureOf({ route, algorithm }: Choice): string {
  if (algorithm === undefined) return route
  return `${route} ${createHash('sha256').update(algorithm.code).digest('hex').slice(0, 8)}`
}

const TYPE_DIGIT: Readonly<Record<string, number>> = { f32: 1, bf16: 2, f16: 3, u8: 4, f64: 5, i32: 6 }

/** Two bits for what an optional tensor is: absent, of type f32, narrower. */
function kindOf(tensor: Tensor | undefined): number {
  return tensor === undefined ? 0 : tensor.dtype === 'f32' ? 1 : 2
}

/** What the plan of a call is found by: made for every call, so it is as short as can be. */
function keyOf(out: Tensor, a: Tensor, b: Tensor, options: MatmulOptions, fp8: Fp8Options | undefined): string {
  const { bias, residual, gelu, geluBackward, sumOfA, sumOfB } = options
  const pre = gelu?.preActivation ?? geluBackward
  const flags =
    (options.transposeA ? 1 : 0) +
    (options.transposeB ? 2 : 0) +
    (options.accumulate ? 4 : 0) +
    (gelu ? 8 : 0) +
    (sumOfA ? 16 : 0) +
    (sumOfB ? 32 : 0) +
    64 * (kindOf(bias) + 4 * (kindOf(residual) + 4 * kindOf(pre))) +
    4096 * (TYPE_DIGIT[a.dtype]! + 8 * TYPE_DIGIT[out.dtype]!)
  const alignments =
    alignmentOf(a) +
    32 *
      (alignmentOf(b) +
        32 *
          (alignmentOf(out) +
            32 *
              ((bias ? alignmentOf(bias) : 0) +
                32 * ((residual ? alignmentOf(residual) : 0) + 32 * (pre ? alignmentOf(pre) : 0)))))
  const key = `${flags} ${alignments} ${out.rowCount} ${out.columnCount} ${a.size} ${a.rowStride} ${b.rowStride} ${out.rowStride} ${residual?.rowStride ?? 0} ${pre?.rowStride ?? 0}`
  return fp8 === undefined ? key : `${key} ${fp8.a} ${fp8.b} ${fp8.scaleA.size} ${fp8.fastAccumulation}`
}

/** The same for readers of the file that the choices are kept in. */
function describe({ out, a, b, options, fp8 }: Operands): string {
  const { transposeA = false, transposeB = false, accumulate = false } = options
  const tensor = (x: Tensor, type: string = x.dtype): string =>
    `${type}/${x.rowStride}${alignmentOf(x) === 16 ? '' : `@${alignmentOf(x)}`}`
  const inner = transposeA ? a.rowCount : a.columnCount
  const parts = [
    `${out.rowCount}x${out.columnCount}x${inner}`,
    `a${transposeA ? "'" : ''} ${tensor(a, fp8?.a)}`,
    `b${transposeB ? "'" : ''} ${tensor(b, fp8?.b)}`,
    `out ${tensor(out)}${accumulate ? ' +=' : ''}`,
  ]
  if (options.bias) parts.push(`bias ${tensor(options.bias)}`)
  if (options.residual) parts.push(`residual ${tensor(options.residual)}`)
  if (options.gelu) parts.push(`gelu ${tensor(options.gelu.preActivation)}`)
  if (options.geluBackward) parts.push(`geluBackward ${tensor(options.geluBackward)}`)
  if (options.sumOfA) parts.push('sumOfA')
  if (options.sumOfB) parts.push('sumOfB')
  if (fp8) parts.push(fp8.scaleA.size === 1 ? 'scaled' : 'scaled by rows', fp8.fastAccumulation ? 'fast' : 'exact')
  return parts.join(', ')
}

/** The interface's conditions, once for each kind of call. */
function expectSound({ out, a, b, options, fp8 }: Operands): void {
  const { transposeA, transposeB, accumulate, bias, residual, gelu, geluBackward, sumOfA, sumOfB } = options
  invariant(a.dtype === b.dtype, `matmul: a is ${a.dtype} and b is ${b.dtype}`)
  invariant(out.dtype === a.dtype || out.dtype === 'f32' || fp8 !== undefined, `matmul: ${out.dtype} of ${a.dtype}`)
  for (const other of [bias, residual, gelu?.preActivation, geluBackward]) {
    const isOfKind = other?.dtype === (fp8 === undefined ? a.dtype : out.dtype)
    invariant(
      other === undefined || isOfKind || (other.dtype === 'f32' && fp8 === undefined),
      `matmul: ${other?.dtype} beside factors of ${a.dtype}`,
    )
  }
  const isPlain = !accumulate && residual === undefined
  invariant(gelu === undefined || (isPlain && geluBackward === undefined), 'matmul: gelu goes with bias only')
  invariant(geluBackward === undefined || (isPlain && bias === undefined), 'matmul: geluBackward goes alone')
  invariant(
    sumOfA === undefined || (transposeA === true && sumOfA.dtype === 'f32'),
    'matmul: sumOfA is f32, of a [K, M]',
  )
  invariant(sumOfB === undefined || (!transposeB && sumOfB.dtype === 'f32'), 'matmul: sumOfB is f32, of b [K, N]')
}

function tensorsOf({ out, a, b, options, fp8 }: Operands): Tensor[] {
  const { bias, residual, gelu, geluBackward, sumOfA, sumOfB } = options
  const extras = [bias, residual, gelu?.preActivation, geluBackward, sumOfA, sumOfB]
  const all = [out, a, b, ...extras, fp8?.scaleA, fp8?.scaleB]
  return all.filter((tensor) => tensor !== undefined)
}

/** Bytes of a tensor with room to shift its start, in steps of 256. */
function bytesOfTensor(tensor: Tensor): number {
  return Math.ceil((tensor.rowCount * tensor.rowStride * DTYPE_BYTES[tensor.dtype] + 16) / 256) * 256
}

function bytesOf(operands: Operands): number {
  return tensorsOf(operands).reduce((sum, tensor) => sum + bytesOfTensor(tensor), 0)
}

/** Operands of the same shapes in other memory. A tensor that stands in two places is one in both. */
function operandsAt(operands: Operands, addressOf: (tensor: Tensor) => number): Operands {
  const moved = new Map<Tensor, Tensor>()
  const move = (tensor: Tensor): Tensor => {
    let copy = moved.get(tensor)
    if (copy === undefined) {
      const storage = new Storage(tensor.device, bytesOfTensor(tensor))
      storage.bind({ bytes: storage.bytes, address: addressOf(tensor) }, 0)
      copy = new Tensor(tensor.shape, tensor.dtype, storage, { rowStride: tensor.rowStride })
      moved.set(tensor, copy)
    }
    return copy
  }
  const { out, a, b, options, fp8 } = operands
  const { bias, residual, gelu, geluBackward, sumOfA, sumOfB, ...flags } = options
  return {
    out: move(out),
    a: move(a),
    b: move(b),
    options: {
      ...flags,
      ...(bias && { bias: move(bias) }),
      ...(residual && { residual: move(residual) }),
      ...(gelu && { gelu: { preActivation: move(gelu.preActivation) } }),
      ...(geluBackward && { geluBackward: move(geluBackward) }),
      ...(sumOfA && { sumOfA: move(sumOfA) }),
      ...(sumOfB && { sumOfB: move(sumOfB) }),
    },
    fp8: fp8 && { ...fp8, scaleA: move(fp8.scaleA), scaleB: move(fp8.scaleB) },
  }
}
