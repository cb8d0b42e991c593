// How long a call of kernels takes, again and again: on a card by its own clock, over recorded calls, so that launches do not
// count; elsewhere by the host's, for devices whose kernels are done when they return.
import type { CpuDevice } from '../backends/cpu/device.ts'
import type { CudaDevice } from '../backends/cuda/device.ts'

/** Milliseconds of each of `repeats` calls, after one that does not count. */
export function millisecondsOfCalls(device: CpuDevice | CudaDevice, call: () => void, repeats: number): number[] {
  call()
  if ('runtime' in device) {
    const recording = device.record(call)
    recording.replay()
    const times = Array.from({ length: repeats }, () => device.runtime.time(() => recording.replay()))
    recording.release()
    return times
  }
  return Array.from({ length: repeats }, () => {
    const start = performance.now()
    call()
    return performance.now() - start
  })
}
