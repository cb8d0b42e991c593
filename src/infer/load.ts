// From a name that a user gives (a run, a checkpoint, a Hugging Face folder) to a model that generates.
import { fillWeights, matchWeights } from '../checkpoint/hf.ts'
import { createModel, readHfConfig } from '../checkpoint/hf-config.ts'
import { findModelFolder } from '../checkpoint/model-folder.ts'
import { WeightsFolder } from '../checkpoint/weights-folder.ts'
import type { Device } from '../core/device.ts'
import { loadTokenizer } from '../data/tokenizer/load.ts'
import type { Tokenizer } from '../data/tokenizer/tokenizer.ts'
import type { DecoderModel } from '../models/decoder.ts'
import { materialize } from '../nn/module.ts'

export interface LoadedModel {
  readonly model: DecoderModel
  readonly tokenizer: Tokenizer
  readonly folder: string
  /** Sentences for the user: checkpoints that were passed over. */
  readonly warnings: readonly string[]
}

/**
 * Loads model and tokenizer.
 * @throws CheckpointError, TokenizerError or ConfigError naming what is missing or damaged
 */
export async function loadModel(path: string, device: Device): Promise<LoadedModel> {
  const { folder, warnings } = findModelFolder(path)
  const tokenizer = await loadTokenizer(folder)
  const model = createModel(readHfConfig(folder))
  // Before any memory is given: a damaged config.json must not ask for more than its weights have.
  using weights = new WeightsFolder(folder)
  const fileNames = matchWeights(model, weights)
  materialize(model, device, { isTrained: false })
  fillWeights(model, weights, fileNames)
  return { model, tokenizer, folder, warnings }
}

/** Ids of a prompt as the model was trained to see one: with BOS in front where its tokenizer or training puts one. */
export function promptIds(tokenizer: Tokenizer, prompt: string): number[] {
  const ids = [...tokenizer.encode(prompt, { addSpecialTokens: true })]
  if (tokenizer.bosTokenId !== undefined && ids[0] !== tokenizer.bosTokenId) ids.unshift(tokenizer.bosTokenId)
  return ids
}
