// Linear and embedding layers: a weight (with optional bias) and the op that uses it. A fused linear stacks several
// Hugging Face matrices that read the same input (q, k and v; gate and up) into one, to be one GEMM.
import { type Init, Parameter, type ParameterPart } from '../core/parameter.ts'
import type { Tensor } from '../core/tensor.ts'
import { embedding } from '../ops/embedding.ts'
import { linear } from '../ops/linear.ts'

/** Fills the unused dims of fan-in-free initialisation: GPT-2's and Llama's normal of a fixed standard deviation. */
export class Linear {
  readonly weight: Parameter
  readonly bias: Parameter | undefined
  readonly #layout: 'out-in' | 'in-out'

  /** @param names  Hugging Face names of the stacked matrices with their numbers of output features */
  constructor(
    inFeatures: number,
    names: Readonly<Record<string, number>>,
    options: { init: Init; bias?: boolean; layout?: 'out-in' | 'in-out' },
  ) {
    this.#layout = options.layout ?? 'out-in'
    const outFeatures = Object.values(names).reduce((sum, n) => sum + n, 0)
    const parts = (suffix: string): ParameterPart[] => {
      let firstRow = 0
      return Object.entries(names).map(([name, rows]) => {
        const part = { name: `${name}.${suffix}`, firstRow, rows }
        firstRow += rows
        return part
      })
    }
    if (this.#layout === 'in-out') {
      // Conv1D stores [in, out]: one tensor, never stacked along its leading dim.
      const [name] = Object.keys(names) as [string]
      this.weight = Parameter.single(`${name}.weight`, [inFeatures, outFeatures], options.init)
    } else {
      this.weight = new Parameter([outFeatures, inFeatures], parts('weight'), options.init)
    }
    this.bias = options.bias ? new Parameter([outFeatures], parts('bias'), 'zeros') : undefined
  }

  /** x [.., in] -> [.., out], plus `residual` [.., out] where given. */
  forward(x: Tensor, residual?: Tensor): Tensor {
    return linear(x, this.weight, {
      layout: this.#layout,
      ...(this.bias && { bias: this.bias }),
      ...(residual && { residual }),
    })
  }
}

export class Embedding {
  readonly weight: Parameter

  constructor(name: string, vocabSize: number, hiddenSize: number, init: Init) {
    this.weight = Parameter.single(`${name}.weight`, [vocabSize, hiddenSize], init)
  }

  /** ids [..] i32 -> [.., D]. */
  forward(ids: Tensor): Tensor {
    return embedding(this.weight, ids)
  }
}
