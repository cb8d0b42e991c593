// The thread that writes checkpoints: one snapshot a message, one answer each. Started by writer.ts.
import { enableCompileCache } from 'node:module'
import { parentPort, workerData } from 'node:worker_threads'
import type { Snapshot } from './snapshot.ts'

// Before anything else is loaded: to strip types anew, Node would load a compiler of some 25 MiB into this thread.
const { compileCache } = workerData as { compileCache: string | undefined }
if (compileCache !== undefined) enableCompileCache?.(compileCache)
const { writeSnapshot } = await import('./snapshot.ts')

parentPort!.on('message', async (snapshot: Snapshot | undefined) => {
  // Only whether it is there.
  if (snapshot === undefined) {
    parentPort!.postMessage({})
    return
  }
  try {
    parentPort!.postMessage({ folder: await writeSnapshot(snapshot) })
  } catch (error) {
    parentPort!.postMessage({ problem: (error as Error).message })
  }
})
