// A checkpoint as plain values, taken out of device memory at one moment: texts and arrays that may go to another thread
// and be written there while training goes on. What is written is given back at once: memory never holds two.
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Dtype, HostArray } from '../core/dtype.ts'
import type { Tensor } from '../core/tensor.ts'
import { writeContents } from './files.ts'
import { asStored } from './hf.ts'
import { type TensorSource, tensorSource } from './safetensors-writer.ts'
import { type HeldOutLoss, type Keep, writeCheckpoint } from './store.ts'
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
  readonly options: WriteOptions
}

/** What stays beside a checkpoint (default all), and how good it is. */
export interface WriteOptions {
  readonly keep?: Keep | undefined
  readonly heldOut?: HeldOutLoss | undefined
}

/** A folder of a checkpoint whose tensors come from anywhere. */
export interface SourceFolder {
  readonly path: string
  readonly sources: readonly TensorSource[]
  readonly files: SnapshotFolder['files']
}

/** Copies a tensor out of its device, to be written as `dtype`. */
export async function snapshotTensor(name: string, dtype: Dtype, view: Tensor): Promise<SnapshotTensor> {
  return { name, dtype, shape: [...view.shape], values: await view.device.read(asStored(view)) }
}

/**
 * Writes `<run>/checkpoints/step-N`; see `writeCheckpoint` for what survives what. The arrays of the snapshot are given
 * back on the way: they are empty afterwards, whether it went well or not.
 * @returns the folder
 */
export async function writeSnapshot({ runDir, step, folders, options }: Snapshot): Promise<string> {
  const arrays = folders.flatMap(({ tensors }) => tensors.map(({ values }) => values))
  const sources = folders.map(({ path, tensors, files }) => ({
    path,
    files,
    sources: tensors.map(({ name, dtype, shape, values }) => tensorSource(name, dtype, shape, values)),
  }))
  try {
    return await writeFolders(runDir, step, sources, options)
  } finally {
    arrays.forEach(freeArray)
  }
}

/** Writes the folders of a checkpoint. Every array that a source gives is given back when it is written. */
export async function writeFolders(
  runDir: string,
  step: number,
  folders: readonly SourceFolder[],
  options: WriteOptions,
): Promise<string> {
  return await writeCheckpoint(
    runDir,
    step,
    async (target) => {
      for (const { path, sources, files } of folders) {
        const folder = join(target, path)
        mkdirSync(folder, { recursive: true })
        await writeWeightsFolder(folder, sources.map(freedAfterUse))
        for (const [name, contents] of Object.entries(files)) await writeContents(join(folder, name), contents)
      }
    },
    options,
  )
}

function freedAfterUse(source: TensorSource): TensorSource {
  return {
    ...source,
    async *chunks() {
      for await (const chunk of source.chunks()) {
        yield chunk
        freeArray(chunk)
      }
    },
  }
}

/** Frees memory now. Left to the garbage collector, a checkpoint could still be there when the next one comes. */
function freeArray({ buffer }: HostArray): void {
  const memory = buffer as ArrayBuffer
  if (!memory.detached) memory.transfer(0)
}
