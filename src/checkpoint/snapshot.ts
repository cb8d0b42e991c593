// A checkpoint as plain values, taken out of device memory at one moment: texts and arrays that may go to another thread
// and be written there while training goes on.
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Dtype, HostArray } from '../core/dtype.ts'
import type { Tensor } from '../core/tensor.ts'
import { writeContents } from './files.ts'
import { asStored } from './hf.ts'
import { tensorSource } from './safetensors-writer.ts'
import { writeCheckpoint } from './store.ts'
import { writeWeightsFolder } from './weights-folder.ts'

export interface SnapshotTensor {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly values: HostArray
}

/** One folder of a checkpoint: tensors in safetensors, other files as they are. */
export interface SnapshotFolder {
  /** '' for the checkpoint itself, 'state' for a folder in it. */
  readonly path: string
  readonly tensors: readonly SnapshotTensor[]
  readonly files: Readonly<Record<string, string | Uint8Array>>
}

export interface Snapshot {
  readonly runDir: string
  readonly step: number
  readonly folders: readonly SnapshotFolder[]
  /** Older checkpoints to keep beside it; undefined keeps all. */
  readonly keepLast: number | undefined
}

/** Copies a tensor out of its device, to be written as `dtype`. */
export async function snapshotTensor(name: string, dtype: Dtype, view: Tensor): Promise<SnapshotTensor> {
  return { name, dtype, shape: [...view.shape], values: await view.device.read(asStored(view)) }
}

/** Bytes of a snapshot's arrays. */
export function snapshotBytes({ folders }: Snapshot): number {
  return folders.flatMap(({ tensors }) => tensors).reduce((sum, { values }) => sum + values.byteLength, 0)
}

/** Writes `<run>/checkpoints/step-N`; see `writeCheckpoint` for what survives what. @returns the folder */
export async function writeSnapshot({ runDir, step, folders, keepLast }: Snapshot): Promise<string> {
  return await writeCheckpoint(
    runDir,
    step,
    async (target) => {
      for (const { path, tensors, files } of folders) {
        const folder = join(target, path)
        mkdirSync(folder, { recursive: true })
        const sources = tensors.map(({ name, dtype, shape, values }) => tensorSource(name, dtype, shape, values))
        await writeWeightsFolder(folder, sources)
        for (const [name, contents] of Object.entries(files)) await writeContents(join(folder, name), contents)
      }
    },
    keepLast === undefined ? {} : { keepLast },
  )
}
