// Targets of the campaign in src/checkpoint: safetensors, folders of weights, whole model folders that are loaded and
// run on the CPU, llama2.c's files, conversions, checkpoints of runs.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { convertHfFolder, importLlama2c } from '../../src/checkpoint/convert.ts'
import { createModel, readHfConfig } from '../../src/checkpoint/hf-config.ts'
import { Llama2cFile } from '../../src/checkpoint/llama2c.ts'
import { llama2cTokenizerFiles } from '../../src/checkpoint/llama2c-tokenizer.ts'
import { findModelFolder } from '../../src/checkpoint/model-folder.ts'
import { loadRunCheckpoint } from '../../src/checkpoint/run-checkpoint.ts'
import { SafetensorsFile } from '../../src/checkpoint/safetensors.ts'
import {
  bestComplete,
  cleanTemporary,
  listCheckpoints,
  MARKER,
  newestComplete,
  verifyCheckpoint,
} from '../../src/checkpoint/store.ts'
import { WeightsFolder } from '../../src/checkpoint/weights-folder.ts'
import { TrainyardError } from '../../src/core/errors.ts'
import { TokenDataset } from '../../src/data/dataset.ts'
import { DataLoader, type LoaderState } from '../../src/data/loader.ts'
import { DecodingSession, generate } from '../../src/infer/generate.ts'
import { loadModel, promptIds } from '../../src/infer/load.ts'
import { materialize } from '../../src/nn/module.ts'
import { openDevice } from '../../src/open.ts'
import { adamw } from '../../src/optim/adam.ts'
import { Optimizer } from '../../src/optim/optimizer.ts'
import { HostMemory } from '../checkpoint/host-memory.ts'
import type { FuzzRandom } from './fuzz-random.ts'
import { faultOfSentence } from './judge.ts'
import { ADAM, type FileSet, LLAMA, type Seeds } from './seeds.ts'
import { type Changes, type FuzzTarget, mutateFile, mutateFiles } from './target.ts'

const only = (files: FileSet, pattern: RegExp): FileSet => new Map([...files].filter(([name]) => pattern.test(name)))

function weightsTargets({ llama, sharded }: Seeds): FuzzTarget[] {
  const single = only(llama, /\.safetensors$/)
  const shards = only(sharded, /safetensors/)
  return [
    {
      name: 'safetensors file',
      weight: 6,
      files: single,
      mutate: (random) => mutateFiles(single, random),
      read(folder) {
        using file = new SafetensorsFile(join(folder, 'model.safetensors'))
        for (const name of file.entries.keys()) for (const chunk of file.chunks(name, 100)) assert.ok(chunk.length > 0)
      },
    },
    {
      name: 'sharded weights',
      weight: 4,
      files: shards,
      mutate: (random) => mutateFiles(shards, random, random.chance(0.5) ? { only: /index\.json$/ } : {}),
      read(folder) {
        using weights = new WeightsFolder(folder)
        for (const name of weights.names) for (const chunk of weights.chunks(name)) assert.ok(chunk.length > 0)
      },
    },
  ]
}

const cpu = openDevice('cpu', { threads: 1 })

/** Loads a folder as `generate` does and makes three tokens. */
async function speak(folder: string, random: FuzzRandom): Promise<void> {
  const device = await cpu
  const { model, tokenizer } = await loadModel(folder, device)
  const session = new DecodingSession(model, device)
  const sampling = {
    temperature: random.pick([0, 0.8]),
    topK: random.pick([0, 5]),
    topP: random.pick([1, 0.9]),
    minP: random.pick([0, 0.1]),
    repetitionPenalty: random.pick([1, 1.2]),
    seed: 1,
  }
  const options = { sampling, maxNewTokens: 3, stop: ['zzz'] }
  const { tokenIds } = await generate(session, tokenizer, promptIds(tokenizer, 'the'), options)
  assert.ok(tokenIds.every((id) => Number.isInteger(id) && id >= 0 && id < model.shape.vocabSize))
}

/** Fields of config.json as messages about it spell them. */
const CONFIG_FIELDS = /\b(hiddenSize|numAttentionHeads|headDim|highFreqFactor|maxPositionEmbeddings|prompt|token id)\b/

function modelTargets({ llama, sharded, gpt2 }: Seeds): FuzzTarget[] {
  const target = (name: string, files: FileSet): FuzzTarget => ({
    name,
    weight: 5,
    files,
    mutate: (random) => mutateFiles(files, random, random.chance(0.7) ? { only: /^config\.json$/ } : {}),
    read: speak,
    names: CONFIG_FIELDS,
  })
  return [
    target('model folder, Llama', llama),
    target('model folder, Llama in shards', sharded),
    target('model folder, GPT-2', gpt2),
    {
      ...target('import hf', sharded),
      weight: 1,
      read: (folder) => leavesNothing(folder, (out) => convertHfFolder(folder, out)),
    },
  ]
}

/** A conversion that is refused must leave nothing behind, one that succeeds a whole model. */
async function leavesNothing(folder: string, convert: (out: string) => Promise<unknown>): Promise<void> {
  const out = join(dirname(folder), `${basename(folder)}-converted`)
  try {
    await convert(out)
    createModel(readHfConfig(out))
  } catch (error) {
    const left = readdirSync(dirname(folder)).filter((name) => name.includes('-converted'))
    if (error instanceof TrainyardError && left.length > 0) throw new Error(`it left ${left} and said ${error.message}`)
    throw error
  } finally {
    if (existsSync(out)) rmSync(out, { recursive: true })
  }
}

function llama2cTargets({ llama2c }: Seeds): FuzzTarget[] {
  const model = only(llama2c, /^model/)
  return [
    {
      name: 'llama2.c model',
      weight: 3,
      files: model,
      mutate: (random) => mutateFiles(model, random),
      async read(folder) {
        using file = new Llama2cFile(join(folder, 'model.bin'))
        for (const tensor of file.tensors()) for await (const chunk of tensor.chunks()) assert.ok(chunk.length > 0)
      },
    },
    {
      name: 'llama2.c tokenizer',
      weight: 3,
      files: llama2c,
      mutate: (random) => mutateFiles(llama2c, random, { only: /^tokenizer/ }),
      read: (folder) => void llama2cTokenizerFiles(join(folder, 'tokenizer.bin'), LLAMA.vocabSize, 12),
    },
    {
      name: 'import llama2c',
      weight: 1,
      files: llama2c,
      mutate: (random) => mutateFiles(llama2c, random),
      read: (folder) =>
        leavesNothing(folder, (out) =>
          importLlama2c(join(folder, 'model.bin'), out, { tokenizer: join(folder, 'tokenizer.bin') }),
        ),
    },
  ]
}

const STEP_2 = /^checkpoints\/step-2\//

/** Damages the newer checkpoint; half the time its marker is made to agree, so that only what is inside is wrong. */
export function mutateCheckpoint(files: FileSet, random: FuzzRandom): Changes {
  const changes = mutateFiles(files, random, {
    only: random.chance(0.5) ? /^checkpoints\/step-2\/(complete|config|state\/trainer)\.json$/ : STEP_2,
  })
  const markerPath = `checkpoints/step-2/${MARKER}`
  if (random.chance(0.5)) {
    const inside = [...files].filter(([name]) => STEP_2.test(name) && name !== markerPath)
    const listed: Record<string, unknown> = {}
    for (const [name, good] of inside) {
      const bytes = changes.has(name) ? changes.get(name) : good
      const sha256 = bytes && createHash('sha256').update(bytes).digest('hex')
      if (bytes) listed[name.replace(STEP_2, '')] = { bytes: bytes.length, sha256 }
    }
    const { heldOut } = JSON.parse(files.get(markerPath)!.toString('utf8'))
    changes.set(markerPath, sealed({ version: 1, step: 2, files: listed, heldOut }))
  } else if (random.chance(0.3)) {
    try {
      const marker = JSON.parse(mutateFile('x.json', files.get(markerPath)!, random).toString('utf8'))
      changes.set(markerPath, sealed(marker))
    } catch {
      // Too damaged to be sealed.
    }
  }
  return changes
}

/** A marker with a digest that agrees, as store.ts writes it. */
export function sealed({ version, step, files, heldOut }: Record<string, unknown>): Buffer {
  const marker = { version, step, files, ...(heldOut !== undefined && { heldOut }) }
  const digest = createHash('sha256').update(JSON.stringify(marker)).digest('hex')
  return Buffer.from(`${JSON.stringify({ ...marker, digest }, null, 2)}\n`)
}

function checkpointTarget({ run }: Seeds): FuzzTarget {
  return {
    name: 'checkpoint of a run',
    weight: 4,
    files: run,
    mutate: (random) => mutateCheckpoint(run, random),
    async read(folder) {
      await cleanTemporary(folder)
      const skipped = [newestComplete(folder), bestComplete(folder)].flatMap((found) => found.skipped)
      for (const { problem } of [...listCheckpoints(folder), ...skipped]) {
        const fault = problem === undefined ? undefined : faultOfSentence(problem, MARKER_WORDING)
        if (fault !== undefined) throw new Error(`problem of a checkpoint: ${fault}: ${problem!.slice(0, 500)}`)
      }
      const { folder: found } = findModelFolder(folder)
      const model = createModel(readHfConfig(found))
      const optimizer = new Optimizer(materialize(model, new HostMemory()), adamw(ADAM))
      const { data } = loadRunCheckpoint(found, { model, optimizer })
      const dataset = TokenDataset.open(join(folder, 'data'), { useMmap: false })
      new DataLoader(dataset, { mode: 'packed', seqLen: 8, rowsPerStep: 2, seed: 1 }).checkState(data as LoaderState)
      verifyCheckpoint(join(folder, 'checkpoints', 'step-2'))
    },
    names: new RegExp(`${CONFIG_FIELDS.source}|data loader: .*\\b(step|seed|mode|seqLen|rowsPerStep|hash)\\b`),
    knownWording: MARKER_WORDING,
  }
}

/** run-checkpoint.ts about keys that are not there, in files whose hashes agree. */
const MARKER_WORDING = /(got|of optimizer) (undefined|\[object Object\])/

export function checkpointTargets(seeds: Seeds): FuzzTarget[] {
  return [...weightsTargets(seeds), ...modelTargets(seeds), ...llama2cTargets(seeds), checkpointTarget(seeds)]
}
