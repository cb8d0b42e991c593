// Names at the boundary to Hugging Face: ours are the camelCase of theirs, for tensors and for config.json keys, by
// one function each way. The few names that do not survive the rule have a row in a table here.

/**
 * Path segments that the rule would not bring back: `_` before a digit has no camelCase.
 * Keys are ours, values are Hugging Face's.
 */
const SEGMENTS = {
  ln1: 'ln_1',
  ln2: 'ln_2',
} as const

const HF_SEGMENTS = new Map<string, string>(Object.entries(SEGMENTS).map(([ours, theirs]) => [theirs, ours]))

type Segments = typeof SEGMENTS

type SnakeSegment<S extends string> = S extends keyof Segments ? Segments[S] : SnakeLetters<S>

type SnakeLetters<S extends string> = S extends `${infer First}${infer Rest}`
  ? `${First extends Lowercase<First> ? First : `_${Lowercase<First>}`}${SnakeLetters<Rest>}`
  : ''

/** The Hugging Face name of a name of ours, worked out by the compiler: HfName<'model.embedTokens'> is 'model.embed_tokens'. */
export type HfName<S extends string> = string extends S
  ? string
  : S extends `${infer Segment}.${infer Rest}`
    ? `${SnakeSegment<Segment>}.${HfName<Rest>}`
    : SnakeSegment<S>

/** `model.layers.0.selfAttn.qProj.weight` -> `model.layers.0.self_attn.q_proj.weight`. */
export function toHfName<S extends string>(name: S): HfName<S> {
  const segments: Readonly<Record<string, string>> = SEGMENTS
  return name
    .split('.')
    .map((segment) => (Object.hasOwn(segments, segment) ? segments[segment]! : snakeCase(segment)))
    .join('.') as HfName<S>
}

/** `model.layers.0.self_attn.q_proj.weight` -> `model.layers.0.selfAttn.qProj.weight`. */
export function fromHfName(name: string): string {
  return name
    .split('.')
    .map((segment) => HF_SEGMENTS.get(segment) ?? camelCase(segment))
    .join('.')
}

function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}

function camelCase(name: string): string {
  return name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())
}

/** config.json keys of a family that have another name with us than the camelCase of theirs: ours -> theirs. */
const CONFIG_KEYS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  gpt2: {
    hiddenSize: 'n_embd',
    numHiddenLayers: 'n_layer',
    numAttentionHeads: 'n_head',
    maxPositionEmbeddings: 'n_positions',
    intermediateSize: 'n_inner',
    layerNormEps: 'layer_norm_epsilon',
  },
}

/** The config.json key of a field of ours in a family: ('gpt2', 'hiddenSize') -> 'n_embd'. */
export function toHfConfigKey(modelType: string, field: string): string {
  return CONFIG_KEYS[modelType]?.[field] ?? snakeCase(field)
}

/** Our field for a config.json key of a family: ('gpt2', 'n_embd') -> 'hiddenSize'. */
export function fromHfConfigKey(modelType: string, key: string): string {
  const row = Object.entries(CONFIG_KEYS[modelType] ?? {}).find(([, theirs]) => theirs === key)
  return row?.[0] ?? camelCase(key)
}
