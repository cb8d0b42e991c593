// Muon: momentum whose matrix updates are orthogonalised by five Newton-Schulz iterations. Matrices inside the layers
// take it; embeddings, the head, norms and biases take AdamW, as its author recommends.
//     X = G / |G|,  five times  X = a X + (b A + c A^2) X  with A = X X^T;   w = w (1 - lr decay) - lr scale X
// Jordan et al. 2024 (the Muon write-up); the scale 0.2 sqrt(max(rows, columns)) makes its updates as large as
// AdamW's, so that both share one learning rate (Liu et al. 2025, arXiv:2502.16982).
import { emptyTensor } from '../core/allocator.ts'
import type { ParameterArena, Segment } from '../core/arena.ts'
import { range } from '../core/arena.ts'
import { inScope } from '../core/tape.ts'
import { Tensor } from '../core/tensor.ts'
import { type AdamConfig, adamw } from './adam.ts'
import type { ArenaState, UpdateRule } from './optimizer.ts'

const ITERATIONS = 5
/** Coefficients of the quintic, tuned by its author for the steepest slope at zero. */
const [A, B, C] = [3.4445, -4.775, 2.0315]

/** @param config  momentum 0.95, nesterov, and the AdamW settings of everything that is not a layer's matrix */
export function muon(config: AdamConfig & { momentum?: number; nesterov?: boolean } = {}): UpdateRule {
  const { momentum = 0.95, nesterov = true, weightDecay = 0.01 } = config
  const fallback = adamw({ ...config, weightDecay })
  return {
    name: 'muon',
    stateNames: (arena) => (isMatrixArena(arena) ? ['momentum'] : fallback.stateNames(arena)),
    slicingUnit: 'matrix',
    betas: fallback.betas,
    updateFlops: (arenas) => arenas.filter(isMatrixArena).reduce((sum, { segments }) => sum + flopsOf(segments), 0),
    update(all, scalars) {
      const isMatrix = ({ arena }: ArenaState): boolean => isMatrixArena(arena)
      for (const state of all.filter(isMatrix)) {
        for (const segment of state.arena.segments) {
          inScope(scalars.device, () => updateMatrix(state, segment, scalars, { momentum, nesterov, weightDecay }))
        }
      }
      const others = all.filter((state) => !isMatrix(state))
      if (others.length > 0) fallback.update(others, scalars)
    },
  }
}

function isMatrixArena({ key }: ParameterArena): boolean {
  return key.optimizerKind === 'matrix'
}

/** Of each part: X X^T, its square, and their polynomial times X, in every iteration. */
function flopsOf(segments: readonly Segment[]): number {
  const parts = segments.flatMap(({ parameter: { parts, shape } }) =>
    parts.map(({ rows }) => [rows, shape[1]!] as const),
  )
  return parts.reduce((sum, [rows, columns]) => {
    const side = Math.min(rows, columns)
    return sum + ITERATIONS * (4 * side * rows * columns + 2 * side ** 3)
  }, 0)
}

function updateMatrix(
  { arena, states }: ArenaState,
  segment: Segment,
  scalars: Tensor,
  options: { momentum: number; nesterov: boolean; weightDecay: number },
): void {
  const { kernels } = scalars.device
  const { shape, parts } = segment.parameter
  const flat = (tensor: Tensor) => range(tensor, segment.offset, segment.length)
  // In full precision: f16 would lose small gradients before they are normalised.
  const update = emptyTensor(scalars.device, [segment.length], scalars.device.masterDtype)
  kernels.momentum(update, flat(states.momentum!), flat(arena.gradients!), scalars, options)
  // A fused projection is several matrices: each is orthogonalised by itself.
  for (const part of parts) {
    const columns = shape[1]!
    const from = part.firstRow * columns
    const length = part.rows * columns
    const matrix = new Tensor([part.rows, columns], update.dtype, update.storage, { offset: from, base: update })
    const orthogonal = orthogonalize(matrix)
    kernels.applyUpdate(
      range(flat(arena.weights), from, length),
      orthogonal.reshape(length),
      scalars,
      { scale: 0.2 * Math.sqrt(Math.max(part.rows, columns)), weightDecay: options.weightDecay },
      arena.working && range(flat(arena.working), from, length),
    )
  }
}

/** Newton-Schulz: a matrix with the same singular vectors and singular values near 1. Works on the smaller side. */
export function orthogonalize(matrix: Tensor): Tensor {
  const { device } = matrix
  const { kernels } = device
  const [rows, columns] = matrix.shape as [number, number]
  const isTall = rows > columns
  const side = Math.min(rows, columns)
  const x = emptyTensor(device, [rows, columns])
  const next = emptyTensor(device, [rows, columns])
  const gram = emptyTensor(device, [side, side])
  const poly = emptyTensor(device, [side, side])
  kernels.normalize(x, matrix, 1e-7)
  for (let i = 0; i < ITERATIONS; i++) {
    kernels.matmul(gram, x, x, isTall ? { transposeA: true } : { transposeB: true })
    kernels.matmul(poly, gram, gram, {})
    kernels.axpby(poly, gram, poly, B, C)
    if (isTall) kernels.matmul(next, x, poly, {})
    else kernels.matmul(next, poly, x, {})
    kernels.axpby(x, x, next, A, 1)
  }
  return x
}
