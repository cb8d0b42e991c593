#!/usr/bin/env node
// The `trainyard` program. Runs src/cli/main.ts under a Node that reads TypeScript (22.18 or newer): this one, or the one
// that the package `node` brought. Plain JavaScript, because an old Node must be able to read it.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import module from 'node:module'
import { constants } from 'node:os'
import { fileURLToPath } from 'node:url'

const [major, minor] = process.versions.node.split('.').map(Number)
if (major > 22 || (major === 22 && minor >= 18)) {
  // `trainyard help | head` closes the pipe early: that is no error.
  process.stdout.on('error', (error) => {
    if (error.code === 'EPIPE') process.exit(0)
    throw error
  })
  module.enableCompileCache?.()
  const { main } = await import('../src/cli/main.ts')
  process.exitCode = await main(process.argv.slice(2))
} else {
  const good = fileURLToPath(new URL('../node_modules/node/bin/node', import.meta.url))
  if (!existsSync(good)) {
    process.stderr.write(
      `trainyard: Node 22.18 or newer is needed, this is ${process.versions.node}; run "npm ci" in the project (it brings Node 24), or install a newer Node\n`,
    )
    process.exit(1)
  }
  const child = spawn(good, process.argv.slice(1), { stdio: 'inherit' })
  // A terminal sends Ctrl-C to both of us: the child decides, we wait for it.
  process.on('SIGINT', () => {})
  process.on('SIGTERM', () => child.kill('SIGTERM'))
  child.on('exit', (code, signal) => process.exit(code ?? 128 + (constants.signals[signal] ?? 0)))
}
