// Attention by whole matrices of scores, to be measured beside attention.ts: cuBLASLt's batched products (the fastest of
// its suggestions, timed at a shape's first call) and the softmax of kernels/softmax.cu.
import type { Dtype } from '../../core/dtype.ts'
import { DeviceError } from '../../core/errors.ts'
import type { Tensor } from '../../core/tensor.ts'
import type { BatchedProductOptions, VanillaAttentionParts } from '../../core/vanilla-attention.ts'
import { type CublasLt, LtProduct, type LtType, type ProductAddresses } from './cublaslt.ts'
import { memoized } from './launcher.ts'
import type { CudaRuntime } from './runtime.ts'

const WORKSPACE_BYTES = 32 << 20
const CANDIDATES = 8
const THREADS = 256

export function vanillaAttentionParts(runtime: CudaRuntime, lt: CublasLt): VanillaAttentionParts {
  const softmax = memoized((dtype: Dtype, rowThreads: number) =>
    runtime.kernel('softmax', 'softmax', 'plif', { dtype, defines: { ROW_THREADS: rowThreads } }),
  )
  const softmaxBackward = memoized((dtype: Dtype, rowThreads: number) =>
    runtime.kernel('softmax', 'softmax_backward', 'pplif', { dtype, defines: { ROW_THREADS: rowThreads } }),
  )
  const products = new Map<string, LtProduct>()

  function productFor(out: Tensor, a: Tensor, b: Tensor, options: BatchedProductOptions): LtProduct {
    const { batch, transposeA = false, transposeB = false } = options
    const key = `${[out, a, b].map((x) => x.shape.join('x'))} ${batch} ${transposeA} ${transposeB} ${a.dtype}`
    let product = products.get(key)
    if (product === undefined) {
      const layout = (x: Tensor) => ({ type: x.dtype as LtType, stride: x.columnCount, alignment: 16 })
      product = new LtProduct(lt, {
        rows: out.rowCount / batch,
        columns: out.columnCount,
        inner: transposeA ? a.rowCount / batch : a.columnCount,
        transposeA,
        transposeB,
        a: layout(a),
        b: layout(b),
        out: layout(out),
        added: undefined,
        epilogue: 'none',
        vector: undefined,
        auxiliary: undefined,
        scaling: undefined,
        fastAccumulation: false,
        batch,
      })
      useFastest(product, addressesOf(out, a, b))
      products.set(key, product)
    }
    return product
  }

  function useFastest(product: LtProduct, addresses: ProductAddresses): void {
    let least = Number.POSITIVE_INFINITY
    let best: (() => void) | undefined
    for (const algorithm of product.candidates(CANDIDATES, WORKSPACE_BYTES)) {
      product.use(algorithm)
      const run = () => product.run(addresses, runtime.scratch(WORKSPACE_BYTES))
      run()
      const milliseconds = Math.min(runtime.time(run), runtime.time(run))
      if (milliseconds >= least) continue
      least = milliseconds
      best = () => product.use(algorithm)
    }
    if (best === undefined) {
      throw new DeviceError('vanilla attention: cuBLASLt has no batched product of this shape: choose another length')
    }
    best()
  }

  return {
    product(out, a, b, options) {
      productFor(out, a, b, options).run(addressesOf(out, a, b), runtime.scratch(WORKSPACE_BYTES))
    },
    softmax(x, scale) {
      const { rowCount, columnCount } = x
      const threads = rowThreads(columnCount)
      softmax(x.dtype, threads)(
        Math.ceil((rowCount * threads) / THREADS),
        THREADS,
        x.address,
        rowCount,
        columnCount,
        scale,
      )
    },
    softmaxBackward(gradient, p, scale) {
      const { rowCount, columnCount } = p
      const threads = rowThreads(columnCount)
      softmaxBackward(p.dtype, threads)(
        Math.ceil((rowCount * threads) / THREADS),
        THREADS,
        gradient.address,
        p.address,
        rowCount,
        columnCount,
        scale,
      )
    },
  }
}

/** A warp has its hands full with a short row, a block with a long one. */
function rowThreads(columns: number): number {
  return columns <= 1024 ? 32 : THREADS
}

function addressesOf(out: Tensor, a: Tensor, b: Tensor): ProductAddresses {
  const none = { added: 0, vector: 0, auxiliary: 0, scaleA: 0, scaleB: 0 }
  return { a: a.address, b: b.address, out: out.address, ...none }
}
