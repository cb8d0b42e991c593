// Bytes of a parameter while it is trained: by precision recipe, by optimizer, and of frozen weights under adapters.
import type { Precision } from './devices.ts'

export interface PrecisionRecipe {
  readonly does: string
  /** Bytes of a weight as products read it, copies of it in another format included. */
  readonly weightBytes: number
  readonly gradientBytes: number
  /** Of an fp32 copy that the optimizer works on, beside narrower weights; 0 where there is none. */
  readonly masterBytes: number
  /** Of an element of an activation. */
  readonly activationBytes: number
  /** Format of the products, which decides the peak. */
  readonly format: Precision
}

export const PRECISIONS = {
  fp32: {
    does: 'everything in fp32',
    weightBytes: 4,
    gradientBytes: 4,
    masterBytes: 0,
    activationBytes: 4,
    format: 'fp32',
  },
  tf32: {
    does: 'everything in fp32, products of TF32 factors',
    weightBytes: 4,
    gradientBytes: 4,
    masterBytes: 0,
    activationBytes: 4,
    format: 'tf32',
  },
  'bf16-mixed': {
    does: "bf16 weights and gradients, fp32 masters (the ZeRO paper's 16 bytes with Adam)",
    weightBytes: 2,
    gradientBytes: 2,
    masterBytes: 4,
    activationBytes: 2,
    format: 'bf16',
  },
  'fp16-mixed': {
    does: 'as bf16-mixed with fp16 (Micikevicius et al. 2018, arXiv:1710.03740)',
    weightBytes: 2,
    gradientBytes: 2,
    masterBytes: 4,
    activationBytes: 2,
    format: 'fp16',
  },
  'bf16-fp32-gradients': {
    does: 'bf16 weights, fp32 gradients and masters: Megatron-LM in bf16, and this program on a card',
    weightBytes: 2,
    gradientBytes: 4,
    masterBytes: 4,
    activationBytes: 2,
    format: 'bf16',
  },
  'bf16-pure': {
    does: 'bf16 weights and gradients, no masters',
    weightBytes: 2,
    gradientBytes: 2,
    masterBytes: 0,
    activationBytes: 2,
    format: 'bf16',
  },
  'fp8-mixed': {
    does: 'as bf16-fp32-gradients, and fp8 copies of each weight and of its transpose (Transformer Engine)',
    weightBytes: 4,
    gradientBytes: 4,
    masterBytes: 4,
    activationBytes: 2,
    format: 'fp8',
  },
} as const satisfies Record<string, PrecisionRecipe>

export type PrecisionName = keyof typeof PRECISIONS

/** Bytes of optimizer states for a parameter of a matrix, and for one of the rest (embeddings, norms, biases). */
export const OPTIMIZERS = {
  adamw: { matrix: 8, rest: 8 },
  adam: { matrix: 8, rest: 8 },
  /** Dettmers et al. 2021 (arXiv:2110.02861): both moments in 8 bits, an fp32 constant for every 2,048; embeddings in fp32. */
  'adamw-8bit': { matrix: 2 * (1 + 4 / 2048), rest: 8 },
  lion: { matrix: 4, rest: 4 },
  /** One moment for matrices, AdamW for the rest. */
  muon: { matrix: 4, rest: 8 },
  /** With momentum. */
  sgd: { matrix: 4, rest: 4 },
} as const satisfies Record<string, { readonly matrix: number; readonly rest: number }>

export type OptimizerName = keyof typeof OPTIMIZERS

/** Bits of a frozen weight in the layers' matrices. Embeddings and norms stay in bf16. */
export const FROZEN_BITS = {
  bf16: 16,
  /** Dettmers et al. 2022 (arXiv:2208.07339): an fp16 constant for each row is left out. */
  int8: 8,
  /** Dettmers et al. 2023 (arXiv:2305.14314): an fp32 constant for every 64 weights. */
  nf4: 4 + 32 / 64,
  /** The same with the constants in 8 bits, and an fp32 one for every 256 of these. */
  'nf4-double': 4 + 8 / 64 + 32 / (64 * 256),
} as const

export type FrozenFormat = keyof typeof FROZEN_BITS

/** Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on every matrix of the layers; everything else is frozen. */
export interface AdapterSetup {
  readonly rank: number
  readonly base: FrozenFormat
}
