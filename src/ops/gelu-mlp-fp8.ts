// geluMlp with products in fp8: the same equations as gelu-mlp.ts. The activation and its derivative are made where the
// next factor is cast, so that neither is ever written in 16 bits.
import { emptyTensor } from '../core/allocator.ts'
import { type Fp8Matrix, type Fp8Weight, rowsFactor } from '../core/fp8.ts'
import type { Op, TapeEntry } from '../core/op.ts'
import { apply } from '../core/tape.ts'
import type { Tensor } from '../core/tensor.ts'
import { cost, intoParameter } from './common.ts'
import { castFp8, kernelsOf, savedColumnsSpec, weightFactor } from './fp8.ts'
import type { GeluMlpInputs } from './gelu-mlp.ts'
import { castCost, castGradient, inputGradientFp8, productCost, savedInput, weightGradientFp8 } from './linear-fp8.ts'

type Outputs = {
  out: Tensor
  preActivation: Tensor
  /** x (unless it is in fp8 already) and gelu(preActivation) in fp8, transposed. */
  columns1: Tensor | undefined
  columns2: Tensor
  columnScale1: Tensor | undefined
  columnScale2: Tensor | undefined
}
type Attributes = { fp8: { readonly weight1: Fp8Weight; readonly weight2: Fp8Weight } }
type Entry = TapeEntry<GeluMlpInputs, Outputs, Attributes>

const LAYOUT = 'in-out'

/** d(x W1 + b1) in fp8, from dy in fp8; its sums into b1's gradient where that is to be made. */
function preActivationGradient({ inputs, outputs, attributes }: Entry, dy: Fp8Matrix, bias1?: Tensor): Fp8Matrix {
  const { preActivation } = outputs
  const { weight1, weight2 } = attributes.fp8
  const dActivated = emptyTensor(preActivation.device, preActivation.shape, preActivation.dtype, 'workspace')
  kernelsOf(inputs.x).matmul(dActivated, rowsFactor(dy), weightFactor(weight2, LAYOUT, 'in-out'), { isFast: true })
  let sums = {}
  intoParameter(bias1, (columnSums, accumulate) => {
    sums = { columnSums, accumulate }
  })
  return castFp8(dActivated, [preActivation.rowCount, preActivation.columnCount], 'e5m2', weight1.slots?.gradient, {
    activation: 'geluBackward',
    other: preActivation,
    ...sums,
  })
}

function weightGradients({ inputs, outputs, attributes }: Entry, dy: Fp8Matrix, dPre: Fp8Matrix): void {
  const { weight1, weight2 } = attributes.fp8
  const { columns1, columns2, columnScale1, columnScale2 } = outputs
  const activated = savedInput({ columns: columns2, columnScale: columnScale2 }, weight2)
  const x = columns1 ? savedInput({ columns: columns1, columnScale: columnScale1 }, weight1) : inputs.x.fp8!
  weightGradientFp8(inputs.weight2, activated, dy, LAYOUT)
  weightGradientFp8(inputs.weight1, x, dPre, LAYOUT)
}

const geluMlpFp8Op: Op<GeluMlpInputs, Outputs, Attributes> = {
  id: 'geluMlpFp8',
  takesFp8: ['x'],
  weights: ['weight1', 'bias1', 'weight2', 'bias2'],
  outputs({ x, weight1, weight2 }, { fp8 }) {
    const [columns1, columnScale1] = x.fp8 ? [] : savedColumnsSpec(x.rowCount, x.columnCount, fp8.weight1)
    const [columns2, columnScale2] = savedColumnsSpec(x.rowCount, weight1.shape[1]!, fp8.weight2)
    return {
      out: { shape: [...x.shape.slice(0, -1), weight2.shape[1]!] },
      preActivation: { shape: [...x.shape.slice(0, -1), weight1.shape[1]!] },
      columns2,
      ...(columns1 && { columns1 }),
      ...(columnScale1 && { columnScale1 }),
      ...(columnScale2 && { columnScale2 }),
    }
  },
  forward(_, { x, bias1, bias2, residual }, outputs, { fp8 }) {
    const { out, preActivation, columns1, columns2, columnScale1, columnScale2 } = outputs
    const { weight1, weight2 } = fp8
    const kernels = kernelsOf(x)
    const saved = columns1 && { columns: columns1, columnScale: columnScale1 }
    const x8 = x.fp8 ?? castFp8(x, [x.rowCount, x.columnCount], 'e4m3', weight1.slots?.input, {}, saved)
    kernels.matmul(preActivation, rowsFactor(x8), weightFactor(weight1, LAYOUT, 'out-in'), {
      isFast: true,
      bias: bias1,
    })
    const activated = castFp8(
      preActivation,
      [preActivation.rowCount, preActivation.columnCount],
      'e4m3',
      weight2.slots?.input,
      { activation: 'gelu' },
      { columns: columns2, columnScale: columnScale2 },
    )
    kernels.matmul(out, rowsFactor(activated), weightFactor(weight2, LAYOUT, 'out-in'), {
      isFast: true,
      bias: bias2,
      ...(residual && { residual }),
    })
  },
  savedForInput: ['preActivation'],
  // x because of what it has in fp8, where it has.
  savedForWeight: ['x', 'preActivation', 'columns1', 'columns2', 'columnScale1', 'columnScale2'],
  backwardInput(entry, gradients) {
    const { inputs, outputs, attributes } = entry
    const { weight1, weight2 } = attributes.fp8
    const dOut = gradients.of(outputs.out)
    if (gradients.needs(inputs.x)) {
      const dPre = preActivationGradient(entry, castGradient(dOut, weight2))
      inputGradientFp8(inputs.x, weight1, dPre, LAYOUT, gradients)
    }
    // Last, because the residual takes dOut over and may add to it.
    if (gradients.needs(inputs.residual)) gradients.pass(inputs.residual, dOut)
  },
  backwardWeight(entry, gradients) {
    const { inputs, outputs, attributes } = entry
    const dy = castGradient(gradients.of(outputs.out), attributes.fp8.weight2, inputs.bias2)
    weightGradients(entry, dy, preActivationGradient(entry, dy, inputs.bias1))
  },
  backward(entry, gradients) {
    const { inputs, outputs, attributes } = entry
    const { weight1, weight2 } = attributes.fp8
    const dOut = gradients.of(outputs.out)
    const dy = castGradient(dOut, weight2, inputs.bias2)
    const dPre = preActivationGradient(entry, dy, inputs.bias1)
    weightGradients(entry, dy, dPre)
    inputGradientFp8(inputs.x, weight1, dPre, LAYOUT, gradients)
    if (gradients.needs(inputs.residual)) gradients.pass(inputs.residual, dOut)
  },
  isCheap: false,
  cost({ x, weight1, bias1, weight2, bias2, residual }) {
    const [rows, width, hidden, features] = [x.rowCount, x.columnCount, weight1.shape[1]!, weight2.shape[1]!]
    const hiddenBytes = rows * hidden * x.device.itemBytes(x.dtype)
    const outBytes = rows * features * x.device.itemBytes(x.dtype)
    const [product1, product2] = [productCost(rows, width, hidden), productCost(rows, hidden, features)]
    const flops = product1.flops + product2.flops
    const factors = product1.bytes + product2.bytes
    const casts = (columns: number) => castCost(rows, columns) + castCost(rows, hidden)
    return {
      forward: {
        flops: flops + 10 * rows * hidden,
        bytes: casts(width) + factors + hiddenBytes + outBytes + cost(0, bias1, bias2, residual).bytes,
      },
      backwardInput: {
        flops: flops + 16 * rows * hidden,
        bytes: casts(features) + factors + 2 * hiddenBytes + cost(0, x).bytes,
      },
      backwardWeight: { flops, bytes: factors + 4 * (weight1.size + weight2.size) },
    }
  },
}

/** As `geluMlp`, with products in fp8. @param fp8  of both weights (`fp8Of`) */
export function geluMlpFp8(inputs: GeluMlpInputs, fp8: Attributes['fp8']): Tensor {
  return apply(geluMlpFp8Op, inputs.x.device, inputs, { fp8 }).out
}
