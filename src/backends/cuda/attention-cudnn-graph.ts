// Softmax attention and its gradients as cuDNN operation graphs: matrix products, element-wise operations, reductions and
// transposes in the pattern that cuDNN's fused engines recognise. Builds graphs and picks a plan; runs nothing.
import type { Dtype } from '../../core/dtype.ts'
import {
  CudnnError,
  type CudnnLibrary,
  DATA_TYPE,
  HEURISTICS,
  NOTE_NONDETERMINISTIC,
  POINTWISE,
  REDUCTION,
} from './cudnn.ts'

/** Everything that a plan depends on. Tensors are [B, T, heads * headDim]; strides are elements from row to row. */
export interface AttentionProblem {
  readonly dtype: Dtype
  readonly batch: number
  readonly numHeads: number
  readonly numKeyValueHeads: number
  readonly queries: number
  readonly keys: number
  readonly headDim: number
  readonly isCausal: boolean
  /** Gradients with the same bits in every run. */
  readonly isDeterministic: boolean
  /** Row strides of q, k, v, out and, for the gradients, of dOut, dq, dk, dv. */
  readonly strides: Readonly<Partial<Record<ActivationName, number>>>
}

export type ActivationName = 'q' | 'k' | 'v' | 'out' | 'dOut' | 'dq' | 'dk' | 'dv'

/** Unique ids of what a plan reads and writes. `one`, `scale` and `minusInfinity` are f32 in host memory. */
export const TENSOR_ID = {
  q: 1,
  k: 2,
  v: 3,
  out: 4,
  dOut: 5,
  dq: 6,
  dk: 7,
  dv: 8,
  lse: 9,
  delta: 10,
  dqSum: 11,
  one: 12,
  scale: 13,
  minusInfinity: 14,
} as const

export type TensorName = keyof typeof TENSOR_ID

export interface AttentionPlan {
  readonly descriptor: number
  readonly workspaceBytes: number
  /** The tensors to bind, in no particular order. */
  readonly tensors: readonly TensorName[]
}

type Quad = readonly [number, number, number, number]

/** A tensor of a graph: `handle` is its descriptor. */
interface Node {
  readonly handle: number
  readonly dims: Quad
}

type DataType = (typeof DATA_TYPE)[keyof typeof DATA_TYPE]

const ALIGNMENT = 16
/** Ids of tensors that live only inside a graph start here. */
const FIRST_VIRTUAL_ID = 100
/** Engines that heuristics may offer; more are not asked for. */
const MAX_CONFIGS = 16

/**
 *     out = softmax(scale * q k^T + mask) v,   lse = log sum exp(scale * q k^T + mask)
 * @throws CudnnError with isUnsupported when no engine serves the problem
 */
export function forwardPlan(cudnn: CudnnLibrary, handle: number, problem: AttentionProblem): AttentionPlan {
  const graph = new Graph(cudnn, problem)
  try {
    const q = graph.activation('q')
    const scores = maskedScores(graph, graph.multiply(q, graph.activation('k', 'transposed')), problem)
    const rows: Quad = [problem.batch, problem.numHeads, problem.queries, 1]
    const max = graph.reduce(REDUCTION.max, scores, graph.virtual(rows))
    const exp = graph.unary(POINTWISE.exp, graph.binary(POINTWISE.subtract, scores, max))
    const sum = graph.reduce(REDUCTION.sum, exp, graph.virtual(rows))
    graph.binary(POINTWISE.add, max, graph.unary(POINTWISE.log, sum), graph.statistics('lse'))
    const probabilities = graph.binary(POINTWISE.divide, exp, sum, graph.virtual(scores.dims, graph.dataType))
    graph.multiply(probabilities, graph.activation('v'), graph.activation('out'))
    return graph.plan(handle)
  } catch (error) {
    graph.dispose()
    throw error
  }
}

/**
 * dq, dk and dv from dOut, with the probabilities recomputed from lse; delta = rowsum(dOut * out) is workspace. Without
 * `isDeterministic` the products of dq are summed in f32 memory (dqSum) in any order.
 * @throws CudnnError with isUnsupported when no engine serves the problem
 */
export function backwardPlan(cudnn: CudnnLibrary, handle: number, problem: AttentionProblem): AttentionPlan {
  const graph = new Graph(cudnn, problem)
  try {
    const { batch, numHeads, numKeyValueHeads, queries, keys, headDim } = problem
    const rows: Quad = [batch, numHeads, queries, 1]
    const q = graph.activation('q')
    const dOut = graph.activation('dOut')
    const kT = graph.activation('k', 'transposed')

    const products = graph.binary(POINTWISE.multiply, dOut, graph.activation('out'))
    const rowSums = graph.reduce(REDUCTION.sum, products, graph.virtual(rows))
    const delta = graph.binary(POINTWISE.multiply, rowSums, graph.scalar('one'), graph.statistics('delta'))

    const scaled = graph.binary(POINTWISE.multiply, graph.multiply(q, kT), graph.scalar('scale'))
    const shifted = graph.binary(POINTWISE.subtract, scaled, graph.statistics('lse'))
    const p = graph.unary(POINTWISE.exp, causalMask(graph, shifted, problem))
    const dProbabilities = graph.multiply(dOut, graph.activation('v', 'transposed'))

    /** left^T right, summed over the query heads of a group. */
    const keyGradient = (left: Node, right: Node, name: 'dk' | 'dv'): void => {
      const transposed = graph.transpose(left)
      const target = graph.activation(name)
      if (numHeads === numKeyValueHeads) graph.multiply(transposed, right, target)
      else {
        const each = graph.virtual([batch, numHeads, keys, headDim], graph.dataType)
        graph.reduce(REDUCTION.sum, graph.multiply(transposed, right, each), target)
      }
    }
    keyGradient(p, dOut, 'dv')
    const centred = graph.binary(POINTWISE.multiply, graph.binary(POINTWISE.subtract, dProbabilities, delta), p)
    const dScores = graph.binary(POINTWISE.multiply, centred, graph.scalar('scale'))
    keyGradient(dScores, q, 'dk')

    const k = graph.keysAgain(kT)
    if (problem.isDeterministic) graph.multiply(dScores, k, graph.activation('dq'))
    else graph.unary(POINTWISE.identity, graph.multiply(dScores, k, graph.sums('dqSum')), graph.activation('dq'))
    return graph.plan(handle)
  } catch (error) {
    graph.dispose()
    throw error
  }
}

function maskedScores(graph: Graph, scores: Node, problem: AttentionProblem): Node {
  return causalMask(graph, graph.binary(POINTWISE.multiply, scores, graph.scalar('scale')), problem)
}

/** Scores where the query's index reaches the key's, minus infinity elsewhere. */
function causalMask(graph: Graph, scores: Node, problem: AttentionProblem): Node {
  if (!problem.isCausal) return scores
  const row = graph.index(scores, 2)
  const column = graph.index(scores, 3)
  const isSeen = graph.binary(
    POINTWISE.greaterOrEqual,
    row,
    column,
    graph.virtual(scores.dims, DATA_TYPE.boolean),
    DATA_TYPE.boolean,
  )
  return graph.select(scores, graph.scalar('minusInfinity'), isSeen)
}

/** Collects descriptors of one operation graph. */
class Graph {
  readonly dataType: DataType
  readonly #cudnn: CudnnLibrary
  readonly #problem: AttentionProblem
  readonly #descriptors: number[] = []
  readonly #operations: number[] = []
  readonly #named = new Map<TensorName, Node>()
  #nextId = FIRST_VIRTUAL_ID

  constructor(cudnn: CudnnLibrary, problem: AttentionProblem) {
    this.#cudnn = cudnn
    this.#problem = problem
    this.dataType = DATA_TYPE[problem.dtype as 'bf16' | 'f16']
  }

  #add(...args: Parameters<CudnnLibrary['create']>): number {
    const descriptor = this.#cudnn.create(...args)
    this.#descriptors.push(descriptor)
    return descriptor
  }

  #tensor(dims: Quad, strides: Quad, type: DataType, kind: TensorName | 'virtual', isByValue = false): Node {
    const known = kind === 'virtual' ? undefined : this.#named.get(kind)
    if (known !== undefined) return known
    const handle = this.#add('tensor', {
      tensorDataType: type,
      tensorDimensions: dims,
      tensorStrides: strides,
      tensorId: kind === 'virtual' ? this.#nextId++ : TENSOR_ID[kind],
      tensorAlignment: ALIGNMENT,
      ...(kind === 'virtual' ? { tensorIsVirtual: 1 } : {}),
      ...(isByValue ? { tensorIsByValue: 1 } : {}),
    })
    const node = { handle, dims }
    if (kind !== 'virtual') this.#named.set(kind, node)
    return node
  }

  /** A column slice [B, T, heads * headDim] as [B, heads, T, headDim], or as [B, heads, headDim, T]. */
  activation(name: ActivationName, order: 'rows' | 'transposed' = 'rows'): Node {
    const { batch, numHeads, numKeyValueHeads, queries, keys, headDim, strides } = this.#problem
    const isKeySide = name === 'k' || name === 'v' || name === 'dk' || name === 'dv'
    const [heads, length] = isKeySide ? [numKeyValueHeads, keys] : [numHeads, queries]
    const rowStride = strides[name]!
    const batchStride = length * rowStride
    return order === 'rows'
      ? this.#tensor([batch, heads, length, headDim], [batchStride, headDim, rowStride, 1], this.dataType, name)
      : this.#tensor([batch, heads, headDim, length], [batchStride, headDim, 1, rowStride], this.dataType, name)
  }

  /** f32 [B, H, Tq, 1] in memory. */
  statistics(name: 'lse' | 'delta'): Node {
    const { batch, numHeads, queries } = this.#problem
    return this.#tensor([batch, numHeads, queries, 1], [numHeads * queries, queries, 1, 1], DATA_TYPE.f32, name)
  }

  /** f32 [B, H, Tq, D] in memory. */
  sums(name: 'dqSum'): Node {
    const { batch, numHeads, queries, headDim } = this.#problem
    const dims: Quad = [batch, numHeads, queries, headDim]
    return this.#tensor(dims, dense(dims), DATA_TYPE.f32, name)
  }

  scalar(name: 'one' | 'scale' | 'minusInfinity'): Node {
    return this.#tensor([1, 1, 1, 1], [1, 1, 1, 1], DATA_TYPE.f32, name, true)
  }

  /** A tensor that is never stored. */
  virtual(dims: Quad, type: DataType = DATA_TYPE.f32): Node {
    return this.#tensor(dims, dense(dims), type, 'virtual')
  }

  #pointwise(
    mode: number,
    inputs: { x: Node; b?: Node; predicate?: Node },
    y: Node,
    options: { precision?: DataType; axis?: number } = {},
  ): Node {
    const { x, b, predicate } = inputs
    const descriptor = this.#add('pointwise', {
      pointwiseMode: mode,
      pointwiseMathPrecision: options.precision ?? DATA_TYPE.f32,
      ...(options.axis === undefined ? {} : { pointwiseAxis: options.axis }),
    })
    this.#operations.push(
      this.#add('pointwiseOperation', {
        pointwiseDescriptor: descriptor,
        pointwiseX: x.handle,
        pointwiseY: y.handle,
        ...(b === undefined ? {} : { pointwiseB: b.handle }),
        ...(predicate === undefined ? {} : { pointwisePredicate: predicate.handle }),
        pointwiseAlpha1: 1,
        pointwiseAlpha2: 1,
      }),
    )
    return y
  }

  unary(mode: number, x: Node, y = this.virtual(x.dims)): Node {
    return this.#pointwise(mode, { x }, y)
  }

  /** b's dims of size 1 are repeated. */
  binary(mode: number, x: Node, b: Node, y = this.virtual(x.dims), precision?: DataType): Node {
    return this.#pointwise(mode, { x, b }, y, precision === undefined ? {} : { precision })
  }

  /** The index of each element along an axis of x. */
  index(x: Node, axis: number): Node {
    return this.#pointwise(POINTWISE.index, { x }, this.virtual(x.dims, DATA_TYPE.i32), { axis })
  }

  select(x: Node, otherwise: Node, predicate: Node): Node {
    return this.#pointwise(POINTWISE.select, { x, b: otherwise, predicate }, this.virtual(x.dims))
  }

  /** a b; the heads of b are repeated for the heads of a. */
  multiply(a: Node, b: Node, c = this.virtual([a.dims[0], a.dims[1], a.dims[2], b.dims[3]])): Node {
    const descriptor = this.#add('matmul', { matmulComputeType: DATA_TYPE.f32 })
    this.#operations.push(
      this.#add('matmulOperation', {
        matmulA: a.handle,
        matmulB: b.handle,
        matmulC: c.handle,
        matmulDescriptor: descriptor,
      }),
    )
    return c
  }

  reduce(operator: number, x: Node, y: Node): Node {
    const descriptor = this.#add('reduction', {
      reductionComputeType: DATA_TYPE.f32,
      reductionOperator: operator,
      reductionIsDeterministic: Number(this.#problem.isDeterministic),
    })
    this.#operations.push(
      this.#add('reductionOperation', { reductionDescriptor: descriptor, reductionX: x.handle, reductionY: y.handle }),
    )
    return y
  }

  #reshape(x: Node, y: Node): Node {
    this.#operations.push(this.#add('reshapeOperation', { reshapeX: x.handle, reshapeY: y.handle }))
    return y
  }

  /** x with its last two dims exchanged, as an operand of a matrix product. */
  transpose(x: Node): Node {
    const [batch, heads, rows, columns] = x.dims
    const strides: Quad = [heads * rows * columns, rows * columns, 1, columns]
    return this.#reshape(x, this.#tensor([batch, heads, columns, rows], strides, this.dataType, 'virtual'))
  }

  /** k [B, G, Tk, D], given as its transpose. */
  keysAgain(kT: Node): Node {
    const { strides, keys, headDim } = this.#problem
    const [batch, heads] = kT.dims
    const rowStride = strides.k!
    const kStrides: Quad = [keys * rowStride, headDim, rowStride, 1]
    return this.#reshape(kT, this.#tensor([batch, heads, keys, headDim], kStrides, this.dataType, 'virtual'))
  }

  /** The first engine, in the order of cuDNN's heuristics, that serves the graph as it is asked for. */
  plan(handle: number): AttentionPlan {
    const cudnn = this.#cudnn
    const graph = this.#add('operationGraph', { graphHandle: handle, graphOperations: this.#operations })
    const refusals: string[] = []
    for (const mode of [HEURISTICS.a, HEURISTICS.fallback]) {
      let configs: number[]
      try {
        const heuristics = this.#add('engineHeuristics', { heuristicsGraph: graph, heuristicsMode: mode })
        configs = cudnn.getDescriptors(heuristics, 'heuristicsResults', 'engineConfig', MAX_CONFIGS)
      } catch (error) {
        refusals.push(refusal(error))
        continue
      }
      this.#descriptors.push(...configs)
      for (const config of configs) {
        const engine = this.#engineOf(config)
        if (this.#problem.isDeterministic && engine.isNondeterministic) {
          refusals.push(`engine ${engine.index} is not deterministic`)
          continue
        }
        try {
          const descriptor = this.#add('executionPlan', { planHandle: handle, planConfig: config })
          return {
            descriptor,
            workspaceBytes: cudnn.get(descriptor, 'planWorkspaceSize')[0]!,
            tensors: [...this.#named.keys()],
          }
        } catch (error) {
          refusals.push(`engine ${engine.index}: ${refusal(error)}`)
        }
      }
    }
    throw new CudnnError(`cudnn: no engine serves this attention (${refusals.join('; ') || 'none offered'})`, 3000)
  }

  #engineOf(config: number): { index: number; isNondeterministic: boolean } {
    const cudnn = this.#cudnn
    const engine = cudnn.getDescriptors(config, 'configEngine', 'engine', 1)[0]!
    this.#descriptors.push(engine)
    const notes = cudnn.get(engine, 'engineNumericalNotes', 16)
    return {
      index: cudnn.get(engine, 'engineIndex')[0]!,
      isNondeterministic: notes.includes(NOTE_NONDETERMINISTIC),
    }
  }

  dispose(): void {
    for (const descriptor of this.#descriptors.reverse()) this.#cudnn.destroy(descriptor)
    this.#descriptors.length = 0
  }
}

/** Unsupported is an answer; anything else is a failure and passes on. */
function refusal(error: unknown): string {
  if (error instanceof CudnnError && error.isUnsupported) return error.message
  throw error
}

function dense(dims: Quad): Quad {
  return [dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1]
}
