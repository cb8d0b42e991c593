// "Did you mean": the known name nearest to a mistyped one, or the name we use for what others call differently.

/** Names that other tools use, squashed to lower case, and ours in order of preference. */
const OTHER_NAMES: Readonly<Record<string, readonly string[]>> = {
  learningrate: ['lr'],
  minlearningrate: ['minLr'],
  batchsize: ['microBatchSize', 'batchTokens'],
  perdevicetrainbatchsize: ['microBatchSize'],
  batch: ['microBatchSize', 'batchTokens'],
  steps: ['maxSteps'],
  maxiters: ['maxSteps'],
  iterations: ['maxSteps'],
  numsteps: ['maxSteps'],
  blocksize: ['seqLen'],
  contextlength: ['seqLen', 'maxPositionEmbeddings'],
  maxseqlen: ['seqLen'],
  sequencelength: ['seqLen'],
  layers: ['numHiddenLayers', 'depth'],
  nlayer: ['numHiddenLayers', 'depth'],
  nlayers: ['numHiddenLayers', 'depth'],
  numlayers: ['numHiddenLayers', 'depth'],
  dmodel: ['hiddenSize'],
  nembd: ['hiddenSize'],
  dim: ['hiddenSize'],
  width: ['hiddenSize'],
  nhead: ['numAttentionHeads'],
  nheads: ['numAttentionHeads'],
  heads: ['numAttentionHeads'],
  kvheads: ['numKeyValueHeads'],
  nkvheads: ['numKeyValueHeads'],
  dff: ['intermediateSize'],
  nvocab: ['vocabSize'],
  wd: ['weightDecay'],
  warmup: ['warmupSteps'],
  warmupiters: ['warmupSteps'],
  maxgradnorm: ['gradClip'],
  clip: ['gradClip'],
  maxnewtokens: ['maxTokens'],
  numtokens: ['maxTokens'],
  temp: ['temperature'],
  checkpoint: ['model', 'from'],
  output: ['out', 'outDir'],
  outdir: ['out'],
  outputdir: ['out'],
  threads: ['numThreads'],
}

/** Nobody mistypes an option into something longer; comparing with it takes time in proportion. */
const MAX_NAME_LENGTH = 80

const squash = (name: string): string => name.replaceAll(/[-_. ]/g, '').toLowerCase()

/** Ours for a name of others; `constructor` and its like are none. */
function otherNames(name: string): readonly string[] | undefined {
  return Object.hasOwn(OTHER_NAMES, name) ? OTHER_NAMES[name] : undefined
}

/** The name among `known` that `wrong` most likely means, or undefined when none is near. */
export function suggest(wrong: string, known: readonly string[]): string | undefined {
  if (wrong.length > MAX_NAME_LENGTH) return undefined
  const target = squash(wrong)
  const lastPart = (name: string): string => name.slice(name.lastIndexOf('.') + 1)
  for (const other of otherNames(target) ?? otherNames(squash(lastPart(wrong))) ?? []) {
    const found = known.find((name) => name === other) ?? known.find((name) => lastPart(name) === other)
    if (found !== undefined) return found
  }
  let best: string | undefined
  let bestDistance = Math.max(1, Math.floor(target.length / 3)) + 1
  for (const name of known) {
    const distance = Math.min(editDistance(target, squash(name)), editDistance(target, squash(lastPart(name))))
    if (distance < bestDistance) {
      best = name
      bestDistance = distance
    }
  }
  if (best !== undefined || target.length < 3) return best
  // A misremembered alias: 'leraning-rate' is nearer to 'learningrate' than to 'lr'.
  for (const [other, ours] of Object.entries(OTHER_NAMES)) {
    const found = ours.map((name) => known.find((k) => lastPart(k) === name)).find((name) => name !== undefined)
    if (found !== undefined && other.length > 4 && editDistance(target, other) <= 2) return found
  }
  return known.find((name) => squash(name).startsWith(target) || target.startsWith(squash(name)))
}

/** '; did you mean X?' or ''. `spell` writes the suggested name as the user would type it. */
export function didYouMean(wrong: string, known: readonly string[], spell = (name: string): string => name): string {
  const name = suggest(wrong, known)
  return name === undefined ? '' : `; did you mean ${spell(name)}?`
}

/** Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`. */
export function editDistance(a: string, b: string): number {
  let beforeLast: number[] = []
  let last = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const replace = last[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)
      row[j] = Math.min(last[j]! + 1, row[j - 1]! + 1, replace)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        row[j] = Math.min(row[j]!, beforeLast[j - 2]! + 1)
      }
    }
    beforeLast = last
    last = row
  }
  return last[b.length]!
}
