// A small source tree in a temporary folder, for checks that read a whole repository.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'

export interface TempTree extends Disposable {
  readonly root: string
}

/** Writes `files` (path -> text) under a new folder, removed at the end of the `using` block. */
export function tempTree(files: Readonly<Record<string, string>>): TempTree {
  const root = mkdtempSync(join(tmpdir(), 'trainyard-tree-'))
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
  }
  return {
    root,
    [Symbol.dispose]: () => rmSync(root, { recursive: true, force: true }),
  }
}
