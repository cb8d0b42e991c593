// Measures the peak of this machine's multiply-adds, the roof that a share of peak refers to (native/peak.cc).
import type { CpuLibrary } from './library.ts'

export interface PeakFlops {
  /** f32 multiply-adds of all threads together, two operations each, in FLOP/s. */
  f32: number
}

/** Below this a measurement is mostly the waking of threads. */
const SHORTEST_MS = 5
const REPEATS = 5

/**
 * The best of five runs of about 8 ms on every thread of `context`; some 50 ms in all.
 * `memory` is an ArrayBuffer over native memory at `address`, at least 8 + 4 * threads bytes.
 */
export function measurePeakFlops(
  library: CpuLibrary,
  context: number,
  { address, memory }: { address: number; memory: ArrayBuffer },
): PeakFlops {
  const peak = library.kernel('peak', 'plp')
  const operations = new Float64Array(memory, 0, 1)
  const run = (rounds: number): number => {
    const start = performance.now()
    peak(context, address, rounds, address + 8)
    return performance.now() - start
  }
  let rounds = 100_000
  while (run(rounds) < SHORTEST_MS) rounds *= 2
  let f32 = 0
  for (let n = 0; n < REPEATS; n++) {
    const milliseconds = run(rounds)
    f32 = Math.max(f32, (operations[0]! / milliseconds) * 1000)
  }
  return { f32 }
}
