// What a checkpoint of a training run holds: a folder that Hugging Face tools load (weights, config, tokenizer) and
// `state/` for the trainer: optimizer moments as safetensors under Hugging Face names, and `trainer.json`. Everything
// is in global coordinates, so that another layout can load it.
import { join } from 'node:path'
import { range } from '../core/arena.ts'
import { CheckpointError } from '../core/errors.ts'
import type { Fp8Saved } from '../core/fp8.ts'
import { show } from '../core/tensor.ts'
import type { Optimizer } from '../optim/optimizer.ts'
import { isJsonObject, jsonText, readJsonObject, someNames } from './files.ts'
import {
  deviceSource,
  fill,
  type HfTensor,
  hfFolderFiles,
  hfTensors,
  loadHfWeights,
  type TokenizerFiles,
} from './hf.ts'
import type { HfConfig, WeightsDtype } from './hf-config.ts'
import { type Snapshot, type SnapshotFolder, snapshotTensor, type WriteOptions, writeFolders } from './snapshot.ts'
import { WeightsFolder } from './weights-folder.ts'

/** All that a trainer needs beside weights and moments to go on as if it had not stopped. JSON values only. */
export interface TrainerState {
  /** Optimizer steps done. */
  readonly step: number
  readonly seed: number
  /** Position of the loader, as it gave it. */
  readonly data: unknown
  /** Learning-rate schedule and anything it carries along. */
  readonly schedule: unknown
  /** ISA path, threads, kernel versions: where it differs, bit-equality is off and the trainer says so. */
  readonly numerics: Readonly<Record<string, string | number | boolean>>
  /** How the device computed what it could compute in several ways, by call; absent where it has one way for each. */
  readonly choices?: Readonly<Record<string, string>>
  /** Hash of the resolved configuration. */
  readonly configHash: string
  /** State of the optimizer's loss scaling, where it has some. */
  readonly lossScaling?: readonly number[]
  /** Scales of products in fp8, where training makes them from the steps before. */
  readonly fp8?: Fp8Saved
}

export interface RunCheckpoint {
  readonly model: object
  readonly config: HfConfig
  readonly tokenizerFiles: TokenizerFiles
  readonly optimizer: Optimizer
  readonly trainer: TrainerState
}

/** Copies all of a run's state out of device memory, to be written as `<run>/checkpoints/step-N` for `trainer.step`. */
export async function takeSnapshot(
  runDir: string,
  checkpoint: RunCheckpoint,
  options: WriteOptions = {},
): Promise<Snapshot> {
  const dtype = dtypeOf(checkpoint.optimizer)
  const copies = async ({ path, tensors, files }: StateFolder): Promise<SnapshotFolder> => ({
    path,
    files,
    tensors: await Promise.all(tensors.map(({ name, view }) => snapshotTensor(name, dtype, view))),
  })
  const folders = await Promise.all(stateFolders(checkpoint, dtype).map(copies))
  return { runDir, step: checkpoint.trainer.step, folders, options }
}

/**
 * Writes a checkpoint from device memory, a piece at a time, and waits for it: needs no memory, but training stands
 * still. See `writeCheckpoint` for what survives what. @returns its folder
 */
export async function saveRunCheckpoint(
  runDir: string,
  checkpoint: RunCheckpoint,
  options: WriteOptions = {},
): Promise<string> {
  const dtype = dtypeOf(checkpoint.optimizer)
  const folders = stateFolders(checkpoint, dtype).map(({ path, tensors, files }) => ({
    path,
    files,
    sources: tensors.map(({ name, view }) => deviceSource(name, dtype, view)),
  }))
  return await writeFolders(runDir, checkpoint.trainer.step, folders, options)
}

interface StateFolder {
  readonly path: string
  readonly tensors: readonly StateTensor[]
  readonly files: SnapshotFolder['files']
}

function stateFolders({ model, config, tokenizerFiles, optimizer, trainer }: RunCheckpoint, dtype: WeightsDtype) {
  const state = { version: 1, optimizer: optimizer.rule.name, ...trainer }
  const folders: StateFolder[] = [
    { path: '', tensors: hfTensors(model), files: hfFolderFiles(config, tokenizerFiles, dtype) },
    { path: 'state', tensors: stateTensors(model, optimizer), files: { 'trainer.json': jsonText(state) } },
  ]
  return folders
}

/** Weights are written in the device's own type: a resumed run starts from the very bits. */
function dtypeOf(optimizer: Optimizer): WeightsDtype {
  return optimizer.arenas[0]?.weights.dtype === 'f64' ? 'f64' : 'f32'
}

/** Fills a materialised model and its optimizer from a checkpoint and gives the trainer's state. */
export function loadRunCheckpoint(
  folder: string,
  { model, optimizer }: { model: object; optimizer: Optimizer },
): TrainerState {
  const trainer = readTrainerState(folder, optimizer.rule.name)
  loadHfWeights(model, folder)
  loadOptimizerState(join(folder, 'state'), model, optimizer)
  return trainer
}

/** Reads `state/trainer.json`. @param optimizer  the rule that must have written it */
export function readTrainerState(folder: string, optimizer?: string): TrainerState {
  const path = join(folder, 'state', 'trainer.json')
  const json = readJsonObject(path)
  const { step, seed, data, schedule, numerics, configHash } = json
  const isWhole = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0
  if (json.version !== 1) throw new CheckpointError(`${path}: expected version 1, got ${JSON.stringify(json.version)}`)
  if (!isWhole(step) || !isWhole(seed) || !isJsonObject(numerics) || typeof configHash !== 'string') {
    throw new CheckpointError(
      `${path}: expected step, seed, numerics and configHash; the file is not a trainer's state`,
    )
  }
  if (optimizer !== undefined && json.optimizer !== optimizer) {
    throw new CheckpointError(
      `${path}: its moments are of optimizer ${JSON.stringify(json.optimizer)}, this run uses ${optimizer}; start a new run from its weights instead`,
    )
  }
  const { lossScaling, choices } = json
  const isChoices = isJsonObject(choices) && Object.values(choices).every((choice) => typeof choice === 'string')
  if (choices !== undefined && !isChoices) {
    throw new CheckpointError(
      `${path}: expected choices to be texts by call, got ${JSON.stringify(choices).slice(0, 80)}`,
    )
  }
  const isScaling = Array.isArray(lossScaling) && lossScaling.length === 4 && lossScaling.every(Number.isFinite)
  if (lossScaling !== undefined && !(isScaling && lossScaling[0] > 0)) {
    throw new CheckpointError(
      `${path}: expected lossScaling to be four numbers, the first above 0, got ${JSON.stringify(lossScaling)}`,
    )
  }
  const fp8 = json.fp8 === undefined ? undefined : readFp8(path, json.fp8)
  return {
    step,
    seed,
    data,
    schedule,
    numerics: numerics as TrainerState['numerics'],
    configHash,
    ...(isChoices && { choices: choices as Record<string, string> }),
    ...(lossScaling !== undefined && { lossScaling: lossScaling as number[] }),
    ...(fp8 && { fp8 }),
  }
}

function readFp8(path: string, json: unknown): Fp8Saved {
  const { weights, scale, history } = isJsonObject(json) ? json : {}
  const areNumbers = (list: unknown): list is number[] =>
    Array.isArray(list) && list.every((value) => Number.isFinite(value) && value >= 0)
  const areNames = Array.isArray(weights) && weights.every((name) => typeof name === 'string')
  if (!areNames || !areNumbers(scale) || !areNumbers(history) || !scale.every((value) => value > 0)) {
    throw new CheckpointError(
      `${path}: expected fp8 to have names of weights, scales above 0 and a history; the file is damaged: use an older checkpoint`,
    )
  }
  return { weights, scale, history }
}

/** A state of the optimizer in Hugging Face coordinates: `m.model.norm.weight`. */
interface StateTensor {
  readonly name: string
  readonly view: HfTensor['view']
}

function stateTensors(model: object, optimizer: Optimizer): StateTensor[] {
  const byParameter = Map.groupBy(hfTensors(model), ({ parameter }) => parameter)
  return optimizer.states.flatMap(({ arena, states }) =>
    Object.entries(states).flatMap(([state, flat]) =>
      arena.segments.flatMap((segment) => {
        return (byParameter.get(segment.parameter) ?? []).map(({ name, view }) => {
          const flatPart = range(flat, segment.offset + view.offset, view.size)
          return { name: `${state}.${name}`, view: flatPart.reshape(...view.shape) }
        })
      }),
    ),
  )
}

/** @throws CheckpointError if names or shapes are not exactly those of this optimizer */
export function loadOptimizerState(folder: string, model: object, optimizer: Optimizer): void {
  using weights = new WeightsFolder(folder)
  const tensors = stateTensors(model, optimizer)
  const wanted = new Set(tensors.map(({ name }) => name))
  const missing = [...wanted].filter((name) => !weights.has(name))
  const unexpected = weights.names.filter((name) => !wanted.has(name))
  if (missing.length > 0 || unexpected.length > 0) {
    const problem = missing.length > 0 ? `${someNames(missing)} missing` : `${someNames(unexpected)} unexpected`
    throw new CheckpointError(`${folder}: its moments are not those of this model and optimizer: ${problem}`)
  }
  for (const { name, view } of tensors) {
    const { shape } = weights.entry(name)
    if (show(shape) !== show(view.shape)) {
      throw new CheckpointError(`${folder}: ${name} must be ${show(view.shape)}, but is ${show(shape)}`)
    }
  }
  for (const { name, view } of tensors) fill(view, name, weights)
}
