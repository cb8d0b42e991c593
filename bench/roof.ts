// Measures what a benchmark's figures are divided by: peak f32 multiply-adds and memory reads of this machine (roof.cc).
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export interface Roof {
  /** f32 GFLOP/s of all threads, two for each multiply-add. */
  gflops: number
  /** GB/s of all threads reading memory that is in no cache. */
  readGBs: number
}

/** Compiles and runs roof.cc with the first compiler that works. Takes a second or two. */
export function measureRoof(threads: number): Roof {
  const dir = mkdtempSync(join(tmpdir(), 'trainyard-roof-'))
  try {
    const binary = join(dir, 'roof')
    const source = fileURLToPath(new URL('./roof.cc', import.meta.url))
    const args = ['-std=c++17', '-O3', '-march=native', '-Wno-psabi', source, '-pthread', '-o', binary]
    execFileSync('c++', args, { stdio: ['ignore', 'ignore', 'inherit'] })
    const [gflops, readGBs] = execFileSync(binary, [String(threads)], { encoding: 'utf8' })
      .split(' ')
      .map(Number)
    return { gflops: gflops!, readGBs: readGBs! }
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}
