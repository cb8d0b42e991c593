// linear with products in fp8: the same equation as linear.ts, its factors rounded to e4m3 (gradients to e5m2).
import { invariant } from '../core/errors.ts'
import type { Fp8Matrix, Fp8Weight } from '../core/fp8.ts'
import { columnsFactor, rowsFactor } from '../core/fp8.ts'
import type { Gradients } from '../core/gradients.ts'
import type { Cost, Op, TapeEntry } from '../core/op.ts'
import { apply } from '../core/tape.ts'
import type { Tensor } from '../core/tensor.ts'
import { cost, intoParameter } from './common.ts'
import { castFp8, kernelsOf, type SavedColumns, savedColumnsSpec, weightFactor } from './fp8.ts'
import type { Layout } from './linear.ts'

type Inputs = { x: Tensor; weight: Tensor; bias: Tensor | undefined; residual: Tensor | undefined }
/** columns: x in fp8, transposed, which the weight's gradient is made of; absent where x is in fp8 already. */
type Outputs = { out: Tensor; columns: Tensor | undefined; columnScale: Tensor | undefined }
type Attributes = { layout: Layout; fp8: Fp8Weight }
type Entry = TapeEntry<Inputs, Outputs, Attributes>

function outFeatures(weight: Tensor, layout: Layout): number {
  return weight.shape[layout === 'out-in' ? 0 : 1]!
}

/** FLOPs of a product [R, C] x [C, N], and bytes of its factors in fp8. */
export function productCost(rows: number, columns: number, features: number): Cost {
  return { flops: 2 * rows * columns * features, bytes: (rows + features) * columns }
}

/** Bytes that a cast of [R, C] moves: read in 16 bits, written in fp8 in both orders. */
export function castCost(rows: number, columns: number): number {
  return 4 * rows * columns
}

/** dy in fp8 (as it came, if it came so), and its sums over rows into the bias's gradient where there is one to make. */
export function castGradient(dOut: Tensor, { slots }: Fp8Weight, bias?: Tensor): Fp8Matrix {
  if (dOut.fp8 !== undefined) {
    invariant(bias === undefined, 'a gradient in fp8 only has no sums')
    return dOut.fp8
  }
  let sums = {}
  intoParameter(bias, (columnSums, accumulate) => {
    sums = { columnSums, accumulate }
  })
  return castFp8(dOut, [dOut.rowCount, dOut.columnCount], 'e5m2', slots?.gradient, sums)
}

/** dW (+)= dy^T x, or x^T dy. */
export function weightGradientFp8(
  weight: Tensor,
  x: Omit<Fp8Matrix, 'rows' | 'rowScale'>,
  dy: Fp8Matrix,
  layout: Layout,
): void {
  const factors = layout === 'out-in' ? [dy, x] : [x, dy]
  const [a, b] = factors.map(columnsFactor)
  intoParameter(weight, (dWeight, accumulate) => kernelsOf(weight).matmul(dWeight, a!, b!, { accumulate }))
}

/** dx (+)= dy W */
export function inputGradientFp8(x: Tensor, fp8: Fp8Weight, dy: Fp8Matrix, layout: Layout, gradients: Gradients): void {
  if (!gradients.needs(x)) return
  gradients.into(x, (dx, accumulate) =>
    kernelsOf(x).matmul(dx, rowsFactor(dy), weightFactor(fp8, layout, 'in-out'), { accumulate, isFast: true }),
  )
}

/** x as it was kept for the weight's gradient. */
export function savedInput({ columns, columnScale }: SavedColumns, { slots }: Fp8Weight) {
  return { format: 'e4m3', columns, columnScale: columnScale ?? slots!.input.inverse } as const
}

/** Last, because the residual takes dOut over and may add to it. */
function passResidual({ residual }: Inputs, dOut: Tensor, gradients: Gradients): void {
  if (!gradients.needs(residual)) return
  invariant(dOut.fp8 === undefined, 'a gradient in fp8 only goes nowhere else')
  gradients.pass(residual, dOut)
}

function weightGradient({ inputs, outputs, attributes }: Entry, dy: Fp8Matrix): void {
  const { columns, columnScale } = outputs
  const x = columns === undefined ? inputs.x.fp8! : savedInput({ columns, columnScale }, attributes.fp8)
  weightGradientFp8(inputs.weight, x, dy, attributes.layout)
}

/** Not exported as an op of the table: only devices with fp8 have it (test/ops/fp8.test.ts). */
const linearFp8Op: Op<Inputs, Outputs, Attributes> = {
  id: 'linearFp8',
  sliceable: ['x'],
  takesFp8: ['x'],
  weights: ['weight', 'bias'],
  outputs({ x, weight }, { layout, fp8 }) {
    const out = { shape: [...x.shape.slice(0, -1), outFeatures(weight, layout)] }
    if (x.fp8 !== undefined) return { out }
    const [columns, columnScale] = savedColumnsSpec(x.rowCount, x.columnCount, fp8)
    return { out, columns, ...(columnScale && { columnScale }) }
  },
  forward(_, { x, weight, bias, residual }, { out, columns, columnScale }, { layout, fp8 }) {
    const saved = columns && { columns, columnScale }
    const cast = x.fp8 ?? castFp8(x, [x.rowCount, x.columnCount], 'e4m3', fp8.slots?.input, {}, saved)
    kernelsOf(weight).matmul(out, rowsFactor(cast), weightFactor(fp8, layout, 'out-in'), {
      isFast: true,
      ...(bias && { bias }),
      ...(residual && { residual }),
    })
  },
  savedForInput: [],
  // x because of what it has in fp8, where it has.
  savedForWeight: ['x', 'columns', 'columnScale'],
  backwardInput({ inputs, outputs, attributes }, gradients) {
    const dOut = gradients.of(outputs.out)
    const { layout, fp8 } = attributes
    if (gradients.needs(inputs.x)) inputGradientFp8(inputs.x, fp8, castGradient(dOut, fp8), layout, gradients)
    passResidual(inputs, dOut, gradients)
  },
  backwardWeight(entry, gradients) {
    const { inputs, outputs, attributes } = entry
    weightGradient(entry, castGradient(gradients.of(outputs.out), attributes.fp8, inputs.bias))
  },
  backward(entry, gradients) {
    const { inputs, outputs, attributes } = entry
    const { layout, fp8 } = attributes
    const dOut = gradients.of(outputs.out)
    const dy = castGradient(dOut, fp8, inputs.bias)
    weightGradient(entry, dy)
    inputGradientFp8(inputs.x, fp8, dy, layout, gradients)
    passResidual(inputs, dOut, gradients)
  },
  isCheap: false,
  cost({ x, weight, bias, residual }, { layout }) {
    const features = outFeatures(weight, layout)
    const outBytes = x.rowCount * features * x.device.itemBytes(x.dtype)
    const product = productCost(x.rowCount, x.columnCount, features)
    const [castX, castOut] = [castCost(x.rowCount, x.columnCount), castCost(x.rowCount, features)]
    const added = cost(0, bias, residual).bytes + outBytes
    return {
      forward: { flops: product.flops, bytes: castX + product.bytes + added },
      backwardInput: { flops: product.flops, bytes: castOut + product.bytes + cost(0, x).bytes },
      backwardWeight: { flops: product.flops, bytes: castOut + product.bytes + 4 * weight.size },
    }
  },
}

/** As `linear`, with products in fp8. @param fp8  of the weight (`fp8Of`) */
export function linearFp8(inputs: Inputs, layout: Layout, fp8: Fp8Weight): Tensor {
  return apply(linearFp8Op, inputs.x.device, inputs, { layout, fp8 }).out
}
