// Where the time of a training step goes: a clock around every kernel of a device whose kernels are done when they return.
import type { Device } from '../core/device.ts'

export interface KernelTime {
  kernel: string
  calls: number
  milliseconds: number
}

/** Milliseconds of `work` as a whole and of each kernel it called, longest first. The clocks cost a microsecond a call. */
export async function timeKernels(
  { kernels }: Device,
  work: () => Promise<unknown>,
): Promise<{ milliseconds: number; kernels: KernelTime[] }> {
  const table = kernels as unknown as Record<string, (...args: unknown[]) => void>
  const originals = { ...table }
  const times = new Map<string, KernelTime>()
  for (const [kernel, call] of Object.entries(originals)) {
    const time: KernelTime = { kernel, calls: 0, milliseconds: 0 }
    times.set(kernel, time)
    table[kernel] = (...args) => {
      const start = performance.now()
      call(...args)
      time.milliseconds += performance.now() - start
      time.calls++
    }
  }
  try {
    const start = performance.now()
    await work()
    const milliseconds = performance.now() - start
    const called = [...times.values()].filter(({ calls }) => calls > 0)
    return { milliseconds, kernels: called.sort((a, b) => b.milliseconds - a.milliseconds) }
  } finally {
    Object.assign(table, originals)
  }
}
