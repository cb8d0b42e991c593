// Normalisation layers: their parameters and the op that uses them.
import { Parameter } from '../core/parameter.ts'
import type { Tensor } from '../core/tensor.ts'
import { layernorm } from '../ops/layernorm.ts'
import { rmsnorm } from '../ops/rmsnorm.ts'
import type { Linear } from './linear.ts'

export class RmsNorm {
  readonly weight: Parameter
  readonly #eps: number

  constructor(name: string, width: number, eps: number) {
    this.weight = Parameter.single(`${name}.weight`, [width], 'ones')
    this.#eps = eps
  }

  /** @param to  the linear that alone will read the result, if there is one */
  forward(x: Tensor, to?: Linear): Tensor {
    return rmsnorm(x, this.weight, this.#eps, to?.weight)
  }
}

export class LayerNorm {
  readonly weight: Parameter
  readonly bias: Parameter
  readonly #eps: number

  constructor(name: string, width: number, eps: number) {
    this.weight = Parameter.single(`${name}.weight`, [width], 'ones')
    this.bias = Parameter.single(`${name}.bias`, [width], 'zeros')
    this.#eps = eps
  }

  /** @param to  the linear that alone will read the result, if there is one */
  forward(x: Tensor, to?: Linear): Tensor {
    return layernorm(x, this.weight, this.bias, this.#eps, to?.weight)
  }
}
