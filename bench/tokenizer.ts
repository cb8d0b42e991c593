// Tokenizers beside others in the same run: encoding on one thread, first pass with cold caches, over English prose, our
// own code and words of many scripts; and training. The peers are npm tiktoken (Rust in WebAssembly) and tokenizers (Rust).
//   node bench/tokenizer.ts [--rounds 2] [--only gpt2]
// Prose comes from ../shared/data/text where that is, else from the demo's packages.
import { spawnSync } from 'node:child_process'
import { existsSync, globSync, readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { gunzipSync } from 'node:zlib'
import { get_encoding, type TiktokenEncoding } from 'tiktoken'
import { loadDemoCorpus } from '../src/data/demo-corpus.ts'
import { loadTokenizer } from '../src/data/tokenizer/load.ts'
import { fromTiktoken } from '../src/data/tokenizer/tiktoken.ts'
import { trainTokenizer } from '../src/data/tokenizer/train.ts'
import { table } from '../src/display/text.ts'
import { rankFile, realTokenizer } from '../test/tokenizer/oracles.ts'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '2' },
    only: { type: 'string' },
    /** One measurement in a process of its own, so that every cache is cold: `ours gpt2`. */
    child: { type: 'string' },
  },
})

const MEGABYTE = 1e6
const ROOT = join(import.meta.dirname, '..')
const TEXTS = join(ROOT, '../shared/data/text')

async function prose(units: number): Promise<string> {
  if (!existsSync(TEXTS)) {
    const corpus = await loadDemoCorpus({ cacheDir: join(homedir(), '.cache', 'trainyard', 'demo') })
    return corpus.train
      .map(({ text }) => text)
      .join('\n')
      .slice(0, units)
  }
  const lines = globSync('english-novels-0[01].jsonl.gz', { cwd: TEXTS })
    .sort()
    .flatMap((name) =>
      gunzipSync(readFileSync(join(TEXTS, name)))
        .toString('utf8')
        .trim()
        .split('\n'),
    )
  return lines
    .map((line) => (JSON.parse(line) as { text: string }).text)
    .join('\n')
    .slice(0, units)
}

function code(): string {
  const files = globSync(['src/**/*.ts', 'src/**/*.cc', 'test/**/*.ts'], { cwd: ROOT }).sort()
  return files.map((file) => readFileSync(join(ROOT, file), 'utf8')).join('\n')
}

/** Names of countries, languages, currencies and scripts in 60 languages: words that hardly repeat, so caches help little. */
function manyScripts(): string {
  const locales =
    'af am ar az be bg bn bs ca cs da de el es et eu fa fi fil fr gl gu he hi hr hu hy id is it ja ka kk km kn ko ky lo lt lv mk ml mn mr ms my ne pl pt ro ru si sk sl sq sv sw ta te th tr uk ur uz vi zh zu'
  const codes = {
    region: codesOf('A'),
    language: codesOf('a'),
    currency: Intl.supportedValuesOf('currency'),
    script: ['Latn', 'Cyrl', 'Arab', 'Hans', 'Deva', 'Hebr', 'Thai', 'Grek', 'Hang', 'Jpan'],
  } as const
  const lines: string[] = []
  for (const locale of locales.split(' ')) {
    for (const type of ['region', 'language', 'currency', 'script'] as const) {
      const names = new Intl.DisplayNames([locale], { type, fallback: 'none' })
      lines.push(
        codes[type]
          .map((of) => names.of(of))
          .filter(Boolean)
          .join(', '),
      )
    }
  }
  return lines.join('\n')
}

/** All words of two letters from `first` on: aa ... zz. */
function codesOf(first: 'a' | 'A'): string[] {
  const letters = Array.from({ length: 26 }, (_, i) => String.fromCharCode(first.charCodeAt(0) + i))
  return letters.flatMap((left) => letters.map((right) => left + right))
}

type Encode = (text: string) => ArrayLike<number> | Promise<ArrayLike<number>>

async function encoderOf(who: string, name: string): Promise<Encode> {
  if (who === 'tiktoken') {
    const theirs = get_encoding(name as TiktokenEncoding)
    return (text) => theirs.encode_ordinary(text)
  }
  if (who === 'gpt-tokenizer') {
    const { encode } = (await import(`gpt-tokenizer/encoding/${name}`)) as {
      encode(text: string, options: { disallowedSpecial: Set<string> }): number[]
    }
    // What encode_ordinary does: special tokens are text like other text.
    const disallowedSpecial = new Set<string>()
    return (text) => encode(text, { disallowedSpecial })
  }
  if (who === 'tokenizers') {
    const { Tokenizer } = await import('tokenizers')
    const theirs = Tokenizer.fromFile(realTokenizer(name as 'llama3'))
    return async (text) => (await theirs.encode(text, null, { addSpecialTokens: false })).getIds()
  }
  // Each as the peer does it: tokenizers always recognises special tokens in the text, encode_ordinary never.
  if (/llama|qwen/.test(name)) {
    const ours = loadTokenizer(realTokenizer(name as 'llama3'))
    return (text) => ours.encode(text)
  }
  const ours = fromTiktoken(rankFile(name), name)
  return (text) => ours.encode(text, { parseSpecial: false })
}

interface Measured {
  bytes: number
  seconds: number
  tokens: number
}

/** First pass over each text, by pieces of 20,000 characters, as data preparation encodes documents. */
async function measure(who: string, name: string): Promise<Measured[]> {
  const texts = [await prose(4 * MEGABYTE), code(), manyScripts()]
  const encode = await encoderOf(who, name)
  // The loops get warm on other words; the caches stay cold for what is measured.
  for (let i = 0; i < 200; i++) await encode(`warming up ${i} `.repeat(20))
  const measured: Measured[] = []
  for (const text of texts) {
    const documents = text.match(/.{1,20000}/gsu)!
    const start = performance.now()
    let tokens = 0
    for (const document of documents) tokens += (await encode(document)).length
    measured.push({ bytes: Buffer.byteLength(text), seconds: (performance.now() - start) / 1000, tokens })
  }
  return measured
}

const OPENAI_PEERS = hasPackage('gpt-tokenizer') ? ['tiktoken', 'gpt-tokenizer'] : ['tiktoken']

const ROWS: [name: string, peers: string[]][] = [
  ['gpt2', OPENAI_PEERS],
  ['cl100k_base', OPENAI_PEERS],
  ['o200k_base', OPENAI_PEERS],
  ['llama3', ['tokenizers']],
  ['qwen3', ['tokenizers']],
]

function hasPackage(name: string): boolean {
  try {
    import.meta.resolve(name)
    return true
  } catch {
    return false
  }
}

function measureInProcess(who: string, name: string): Measured[] {
  const args = [import.meta.filename, '--child', `${who} ${name}`]
  const { stdout, stderr, status } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`bench/tokenizer: ${who} ${name}: ${stderr}`)
  return JSON.parse(stdout) as Measured[]
}

/** MB/s of each text and of all together. */
function ratesOf(measured: readonly Measured[]): number[] {
  const sum = (key: 'bytes' | 'seconds'): number => measured.reduce((total, part) => total + part[key], 0)
  return [...measured, { bytes: sum('bytes'), seconds: sum('seconds') }].map(
    ({ bytes, seconds }) => bytes / seconds / MEGABYTE,
  )
}

/** The round with the least time in all: others share the machine. */
function fastest(rounds: readonly Measured[][]): Measured[] {
  const secondsOf = (round: Measured[]): number => round.reduce((total, { seconds }) => total + seconds, 0)
  return rounds.reduce((best, round) => (secondsOf(round) < secondsOf(best) ? round : best))
}

function compareEncoding(): void {
  const rows = [['MB/s', '', 'prose', 'code', 'many scripts', 'all', 'ours / peer', 'tokens']]
  let sizes: number[] = []
  for (const [name, peers] of ROWS) {
    if (values.only !== undefined && !name.includes(values.only)) continue
    // In turns, so that a busy moment of the machine hits all of them.
    const rounds = Array.from({ length: Number(values.rounds) }, () =>
      ['ours', ...peers].map((who) => measureInProcess(who, name)),
    )
    const [ours, ...others] = ['ours', ...peers].map((_, i) => fastest(rounds.map((round) => round[i]!)))
    sizes = ours!.map(({ bytes }) => bytes)
    const cells = (rates: number[]): string[] => rates.map((rate) => rate.toFixed(1))
    const ourRates = ratesOf(ours!)
    rows.push([name, 'ours', ...cells(ourRates), '', ''])
    others.forEach((theirs, i) => {
      const theirRates = ratesOf(theirs)
      const ratio = (ourRates.at(-1)! / theirRates.at(-1)!).toFixed(1)
      const isSame = ours!.every(({ tokens }, part) => tokens === theirs[part]!.tokens)
      rows.push(['', peers[i]!, ...cells(theirRates), ratio, isSame ? 'equal' : 'DIFFER'])
    })
  }
  const right = 'right' as const
  for (const line of table(rows, { align: ['left', 'left', right, right, right, right, right, 'left'] })) {
    console.log(line)
  }
  if (!hasPackage('gpt-tokenizer')) {
    console.log('gpt-tokenizer is not here: npm install --no-save gpt-tokenizer, and it is measured too')
  }
  console.log(`texts of ${sizes.map((bytes) => (bytes / MEGABYTE).toFixed(1)).join(', ')} MB`)
}

async function timeTraining(): Promise<void> {
  const cl100k = fromTiktoken(rankFile('cl100k_base'), 'cl100k_base')
  let start = performance.now()
  cl100k.encode('a'.repeat(MEGABYTE))
  console.log(`encoding 1 MB of one letter: ${((performance.now() - start) / 1000).toFixed(2)} s`)
  const documents = (await prose(10 * MEGABYTE)).split(/(?<=\n)(?=\n)/)
  const bytes = documents.reduce((sum, text) => sum + Buffer.byteLength(text), 0)
  start = performance.now()
  const { vocabSize } = trainTokenizer(documents, { vocabSize: 8192 + 257 })
  const seconds = (performance.now() - start) / 1000
  console.log(
    `training ${vocabSize - 257} merges on ${(bytes / MEGABYTE).toFixed(1)} MB of prose: ${seconds.toFixed(2)} s`,
  )
}

if (values.child !== undefined) {
  const [who, name] = values.child.split(' ') as [string, string]
  console.log(JSON.stringify(await measure(who, name)))
} else {
  compareEncoding()
  if (values.only === undefined) await timeTraining()
}
