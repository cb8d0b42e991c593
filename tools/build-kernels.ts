// Builds the CPU kernels ahead of their first use, so that the wait is seen and named. Quick when they are in the cache.
import { buildOptionsFrom, ensureCpuLibrary } from '../src/backends/cpu/build.ts'

let start: number | undefined
let shown = 0
try {
  await ensureCpuLibrary({
    ...buildOptionsFrom(process.env),
    onProgress(done, total) {
      if (start === undefined) {
        start = performance.now()
        process.stdout.write(`building the CPU kernels (once) ... ${total - done} files\n`)
      }
      if (done === total || done - shown < 10) return
      shown = done
      process.stdout.write(`  ${done} of ${total}\n`)
    },
  })
  if (start !== undefined) process.stdout.write(`built in ${((performance.now() - start) / 1000).toFixed(1)} s\n`)
} catch (error) {
  process.stdout.write(`${(error as Error).message}\n`)
  process.exitCode = 1
}
