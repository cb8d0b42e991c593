// How fast one thread copies memory that no cache holds: a lower bound for the bandwidth of the machine.

const COPY_BYTES = 2 ** 27

/** Bytes read and written per second, the fastest of a few copies. Takes some 0.2 s and 256 MiB for a moment. */
export function measureCopyBandwidth(): number {
  const source = new Uint8Array(COPY_BYTES).fill(1)
  const target = new Uint8Array(COPY_BYTES)
  let shortest = Number.POSITIVE_INFINITY
  for (let round = 0; round < 4; round++) {
    const start = performance.now()
    target.set(source)
    shortest = Math.min(shortest, performance.now() - start)
  }
  return (2 * COPY_BYTES * 1000) / shortest
}
