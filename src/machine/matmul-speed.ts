// How fast a device multiplies large matrices: the speed that training can hope for. Knows no backend.
import { standaloneTensor, tensorFrom } from '../core/allocator.ts'
import type { Device } from '../core/device.ts'

/** Rows, columns and inner length: large enough for the best speed, small enough for any machine. */
export const MATMUL_SIZE = 1024

/**
 * FLOP/s of the fastest of the products that fit into `milliseconds`, at least three: a machine shared with others is
 * slow for moments, never fast by accident. Only for devices whose kernels are done when they return.
 */
export function measureMatmulFlops(device: Device, milliseconds = 200): number {
  const shape = [MATMUL_SIZE, MATMUL_SIZE]
  // Values apart from zero and from denormals, which some processors multiply faster or slower.
  const values = Float32Array.from({ length: MATMUL_SIZE * MATMUL_SIZE }, (_, index) => ((index * 7919) % 2003) / 1000)
  const [a, b] = [tensorFrom(device, shape, values), tensorFrom(device, shape, values)]
  const out = standaloneTensor(device, shape)
  let shortest = Number.POSITIVE_INFINITY
  const end = performance.now() + milliseconds
  for (let count = 0; count < 3 || performance.now() < end; count++) {
    const start = performance.now()
    device.kernels.matmul(out, a, b, {})
    shortest = Math.min(shortest, performance.now() - start)
  }
  for (const { storage } of [a, b, out]) device.release(storage.buffer!)
  return (2 * MATMUL_SIZE ** 3 * 1000) / shortest
}
