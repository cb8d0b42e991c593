// The thread that writes checkpoints: one snapshot a message, one answer each. Started by writer.ts.
import { parentPort } from 'node:worker_threads'
import { type Snapshot, writeSnapshot } from './snapshot.ts'

parentPort!.on('message', async (snapshot: Snapshot) => {
  try {
    parentPort!.postMessage({ folder: await writeSnapshot(snapshot) })
  } catch (error) {
    parentPort!.postMessage({ problem: (error as Error).message })
  }
})
