// Normalisation layers: their parameters and the op that uses them.
import { Parameter } from '../core/parameter.ts'
import type { Tensor } from '../core/tensor.ts'
import { layernorm } from '../ops/layernorm.ts'
import { rmsnorm } from '../ops/rmsnorm.ts'

export class RmsNorm {
  readonly weight: Parameter
  readonly #eps: number

  constructor(name: string, width: number, eps: number) {
    this.weight = Parameter.single(`${name}.weight`, [width], 'ones')
    this.#eps = eps
  }

  forward(x: Tensor): Tensor {
    return rmsnorm(x, this.weight, this.#eps)
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

  forward(x: Tensor): Tensor {
    return layernorm(x, this.weight, this.bias, this.#eps)
  }
}
