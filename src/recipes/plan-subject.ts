// The model that `plan` and `plan layout` are asked about: a published one, what a folder describes, or pretrain's own by its
// depth. No recipe itself.
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { type HfConfig, readHfConfig } from '../checkpoint/hf-config.ts'
import { findModelFolder } from '../checkpoint/model-folder.ts'
import { ConfigError } from '../core/errors.ts'
import { type Architecture, architecture } from '../plan/architecture.ts'
import { architectureOf, readArchitecture } from '../plan/hf-architecture.ts'
import { demandPreset, findPreset } from '../plan/presets.ts'
import { modelConfig, modelFromDepth } from '../train/settings.ts'

export interface Subject {
  readonly model: Architecture
  /** Where Trainyard can build it. */
  readonly ownConfig?: HfConfig
  /** Of the published run, of this very model. */
  readonly tokens?: number | undefined
  readonly seqLen?: number | undefined
}

/** Vocabulary of models by depth where none is given. */
const OWN_VOCAB_SIZE = 32768
/** Context of models by depth where none is given. */
const OWN_SEQ_LEN = 2048

/**
 * @param verb           of the message, where there is no such model
 * @param name           of a published model, folder with a config.json or that file, or `depth-12`
 * @param options.sizes  instead of the model's
 * @throws ConfigError for a name that is none of these, and for sizes that no model can have
 */
export function findSubject(
  verb: string,
  name: string,
  cwd: string,
  options: { seqLen?: number | undefined; sizes?: Partial<Architecture> } = {},
): Subject {
  const { seqLen = OWN_SEQ_LEN, sizes = {} } = options
  const isChanged = Object.keys(sizes).length > 0
  const depth = /^depth[- ]?(\d+)$/.exec(name)
  if (depth !== null) return ownModel(verb, Number(depth[1]), seqLen, sizes)
  const preset = findPreset(name)
  if (preset !== undefined) {
    const { architecture: model, tokens, seqLen } = preset
    return isChanged ? { model: changed(model, sizes), seqLen } : { model, tokens, seqLen }
  }
  const named = resolve(cwd, name)
  if (!existsSync(named)) {
    if (!/\/|\.json$/.test(name)) return { model: demandPreset(name).architecture }
    throw new ConfigError(
      `${verb}: expected a folder with a config.json, or the file itself, got ${JSON.stringify(name)}, which is not there`,
    )
  }
  const path = named.endsWith('.json') ? named : findModelFolder(named).folder
  const model = readArchitecture(path)
  return isChanged ? { model: changed(model, sizes) } : { model, ...ownConfigOf(path) }
}

function changed(model: Architecture, sizes: Partial<Architecture>): Architecture {
  const { headDim, numKeyValueHeads, ...rest } = model
  const heads = { ...rest, ...sizes }
  const isSplit =
    sizes.headDim === undefined && (sizes.hiddenSize !== undefined || sizes.numAttentionHeads !== undefined)
  const kvHeads = sizes.numAttentionHeads === undefined ? numKeyValueHeads : sizes.numAttentionHeads
  return architecture({
    ...heads,
    name: `${model.name}, changed`,
    numKeyValueHeads: sizes.numKeyValueHeads ?? kvHeads,
    ...(!isSplit && { headDim: sizes.headDim ?? headDim }),
  })
}

function ownModel(verb: string, depth: number, seqLen: number, sizes: Partial<Architecture>): Subject {
  if (depth === 0)
    throw new ConfigError(`${verb}: a model by its depth has at least one layer, got depth-0; try depth-4`)
  const { vocabSize = OWN_VOCAB_SIZE, ...model } = sizes
  const ownConfig = modelConfig(modelFromDepth(depth, seqLen, model), { vocabSize })
  return { model: architectureOf(ownConfig, `depth ${depth}`), ownConfig, seqLen }
}

/** Where Trainyard can build what the folder describes. */
function ownConfigOf(path: string): { ownConfig?: HfConfig } {
  try {
    return { ownConfig: readHfConfig(path) }
  } catch (error) {
    if (error instanceof ConfigError) return {}
    throw error
  }
}
