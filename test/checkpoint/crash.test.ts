// A process that writes checkpoints is killed at random moments, many times over: after each kill the newest complete
// checkpoint is found, is whole, and is at least the last one that the process had announced. This file is both: started
// with a folder and a step it is the process that writes.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { tensorSource, writeSafetensors } from '../../src/checkpoint/safetensors-writer.ts'
import { checkpointsFolder, cleanTemporary, newestComplete, writeCheckpoint } from '../../src/checkpoint/store.ts'
import { randomKey, randomUniform } from '../../src/core/random.ts'

/** Writes checkpoints without end, keeping two, announcing each. */
async function writeForever(run: string, firstStep: number): Promise<never> {
  for (let step = firstStep; ; step++) {
    await writeCheckpoint(
      run,
      step,
      async (folder) => {
        const values = new Float32Array(200_000).fill(step)
        await writeSafetensors(join(folder, 'model.safetensors'), [tensorSource('w', 'f32', [200_000], values)])
        mkdirSync(join(folder, 'state'))
        writeFileSync(join(folder, 'state', 'trainer.json'), JSON.stringify({ step }))
      },
      { keep: { keepLast: 2 } },
    )
    process.stdout.write(`${step}\n`)
  }
}

/** Starts the writer, kills it `delayMs` after its first announcement; gives the last step it announced. */
async function runAndKill(run: string, firstStep: number, delayMs: number): Promise<number> {
  const program = fileURLToPath(import.meta.url)
  const { NODE_TEST_CONTEXT: _, ...env } = process.env
  const child = spawn(process.execPath, [program, run, String(firstStep)], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env,
  })
  let announced = 0
  let text = ''
  let timer: NodeJS.Timeout | undefined
  child.stdout.setEncoding('utf8').on('data', (piece: string) => {
    text += piece
    const lines = text.split('\n')
    announced = Number(lines[lines.length - 2] ?? announced)
    timer ??= setTimeout(() => child.kill('SIGKILL'), delayMs)
  })
  const signal = await new Promise<string | null>((resolve) => child.on('close', (_code, reason) => resolve(reason)))
  clearTimeout(timer)
  assert.equal(signal, 'SIGKILL', 'the writer ended by itself')
  return announced
}

const [writerRun, writerStep] = process.argv.slice(2)
if (writerRun !== undefined && writerStep !== undefined) await writeForever(writerRun, Number(writerStep))

test('20 kills during writeCheckpoint: the newest complete checkpoint always works', { timeout: 120_000 }, async () => {
  const run = mkdtempSync(join(tmpdir(), 'trainyard-crash-'))
  const key = randomKey(5, 'crash')
  let step = 0
  let litter = 0
  for (let kill = 0; kill < 20; kill++) {
    const announced = await runAndKill(run, step + 1, 60 * randomUniform(key, kill))
    const { checkpoint, skipped } = newestComplete(run)
    assert.ok(
      checkpoint !== undefined && checkpoint.step >= announced,
      `announced ${announced}, found ${checkpoint?.step}`,
    )
    assert.deepEqual(skipped, [])
    const contents = readFileSync(join(checkpoint.path, 'state', 'trainer.json'), 'utf8')
    assert.deepEqual(JSON.parse(contents), { step: checkpoint.step })
    litter += (await cleanTemporary(run)).length
    assert.deepEqual(
      readdirSync(checkpointsFolder(run)).filter((name) => name.startsWith('.')),
      [],
    )
    step = checkpoint.step
  }
  assert.ok(litter > 0, 'no kill hit a checkpoint while it was written: the test did not test anything')
})
