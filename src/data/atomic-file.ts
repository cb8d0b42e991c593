// A file written beside its final name, hashed while it is written, and moved into place only when complete: readers
// see the old file or all of the new one. It appends only.
import { createHash, type Hash } from 'node:crypto'
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'

export class AtomicFile {
  readonly path: string
  readonly #temporary: string
  readonly #hash: Hash = createHash('sha256')
  readonly #fd: number

  constructor(path: string) {
    this.path = path
    this.#temporary = join(dirname(path), `.${basename(path)}.partial`)
    this.#fd = openSync(this.#temporary, 'w')
  }

  write(bytes: Uint8Array): void {
    this.#hash.update(bytes)
    let written = 0
    while (written < bytes.length) written += writeSync(this.#fd, bytes, written)
  }

  /** Makes the file durable under its final name. @returns the SHA-256 of its bytes, hexadecimal */
  commit(): string {
    fsyncSync(this.#fd)
    closeSync(this.#fd)
    renameSync(this.#temporary, this.path)
    syncFolder(dirname(this.path))
    return this.#hash.digest('hex')
  }

  /** Leaves nothing behind. */
  abort(): void {
    closeSync(this.#fd)
    rmSync(this.#temporary, { force: true })
  }
}

/** Makes renames inside a folder survive a power cut. */
function syncFolder(folder: string): void {
  const fd = openSync(folder, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
