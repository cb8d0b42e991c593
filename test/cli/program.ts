// Runs the real program as a user does: tools/trainyard.mjs in a process of its own, in an empty folder.
import { spawnSync } from 'node:child_process'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const PROGRAM = fileURLToPath(new URL('../../tools/trainyard.mjs', import.meta.url))

export interface Answer {
  status: number | null
  stdout: string
  stderr: string
}

/** A new empty folder to run in. */
export function emptyFolder(): string {
  return mkdtempSync(join(tmpdir(), 'trainyard-cli-'))
}

const somewhere = emptyFolder()

/** Runs `trainyard ...words`. An option that the recipe never reads is an error here. */
export function trainyard(words: readonly string[], env: Record<string, string> = {}, cwd = somewhere): Answer {
  const { status, stdout, stderr } = spawnSync(process.execPath, [PROGRAM, ...words], {
    cwd,
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: '', TRAINYARD_TRACK_READS: '1', ...env },
  })
  return { status, stdout, stderr }
}
