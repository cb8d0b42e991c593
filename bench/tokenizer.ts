// Tokenizers beside others in the same run: encoding on one thread, first pass over prose, code and text that is not
// English, with a cold cache; and training on 10 MB. The peers are npm tiktoken (Rust in WebAssembly), tokenizers (Rust)
// and gpt-tokenizer (JavaScript, where it is installed).
//   node bench/tokenizer.ts [--rounds 3] [--only gpt2]
// Text comes from ../shared/data/text where that is, else from the demo's packages and our own sources.
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
import { rankFile, realTokenizer } from '../test/tokenizer/oracles.ts'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    only: { type: 'string' },
    /** One measurement in a process of its own, so that every cache is cold: `ours gpt2`. */
    child: { type: 'string' },
  },
})

const MEGABYTE = 1e6
const TEXTS = join(import.meta.dirname, '../../shared/data/text')

/** About 10 MB: prose, code, and a part in other scripts. */
async function mixedText(): Promise<string> {
  const corpus = await loadDemoCorpus({ cacheDir: join(homedir(), '.cache', 'trainyard', 'demo') })
  const prose = corpus.train
    .map(({ text }) => text)
    .join('\n')
    .slice(0, 6 * MEGABYTE)
  const root = join(import.meta.dirname, '..')
  const files = globSync(['src/**/*.ts', 'src/**/*.cc', 'node_modules/typescript/lib/*.d.ts'], { cwd: root }).sort()
  const code = files
    .map((file) => readFileSync(join(root, file), 'utf8'))
    .join('\n')
    .slice(0, 3 * MEGABYTE)
  return `${prose}\n${code}\n${otherScripts()}`
}

/** Text that is not English: of the shared corpus, or the character names of this machine's locales. */
function otherScripts(): string {
  const file = join(TEXTS, 'multilingual.txt.gz')
  if (existsSync(file)) return gunzipSync(readFileSync(file)).toString('utf8').slice(0, MEGABYTE)
  const locales = ['de', 'fr', 'ru', 'el', 'ar', 'hi', 'zh', 'ja', 'ko', 'th', 'he', 'tr']
  const lines = locales.flatMap((locale) => {
    const date = new Intl.DateTimeFormat(locale, { dateStyle: 'full', timeStyle: 'long' })
    const regions = new Intl.DisplayNames([locale], { type: 'region' })
    const codes = ['DE', 'FR', 'RU', 'GR', 'EG', 'IN', 'CN', 'JP', 'KR', 'TH', 'IL', 'TR', 'BR', 'US', 'MX', 'ZA']
    return Array.from(
      { length: 700 },
      (_, day) => `${date.format(new Date(day * 86_400_000))} ${regions.of(codes[day % codes.length]!)}`,
    )
  })
  return lines.join('\n').slice(0, MEGABYTE)
}

type Encode = (text: string) => ArrayLike<number> | Promise<ArrayLike<number>>

async function encoderOf(who: string, name: string): Promise<Encode | undefined> {
  if (who === 'ours') {
    const ours = /llama|qwen/.test(name)
      ? loadTokenizer(realTokenizer(name as 'llama3'))
      : fromTiktoken(rankFile(name), name)
    return (text) => ours.encode(text, { parseSpecial: false })
  }
  if (who === 'tokenizers') {
    const { Tokenizer } = await import('tokenizers')
    const theirs = Tokenizer.fromFile(realTokenizer(name as 'llama3'))
    return async (text) => (await theirs.encode(text, null, { addSpecialTokens: false })).getIds()
  }
  if (who === 'tiktoken') {
    const theirs = get_encoding(name as TiktokenEncoding)
    return (text) => theirs.encode_ordinary(text)
  }
  try {
    const module = (await import(`gpt-tokenizer/encoding/${name === 'gpt2' ? 'r50k_base' : name}`)) as {
      encode: Encode
    }
    return (text) => module.encode(text)
  } catch {
    return undefined
  }
}

/** MB/s of the first pass, by document of a few kilobytes, as data preparation encodes. */
async function measure(who: string, name: string): Promise<{ rate: number; tokens: number } | undefined> {
  const text = await mixedText()
  const encode = await encoderOf(who, name)
  if (encode === undefined) return undefined
  const documents = text.match(/[\s\S]{1,20000}/g)!.map((document) => document.toWellFormed())
  const bytes = documents.reduce((sum, document) => sum + Buffer.byteLength(document), 0)
  // The loops get warm on other words, the cache stays cold for what is measured.
  for (let i = 0; i < 200; i++) await encode(`warming up ${i} `.repeat(20))
  const start = performance.now()
  let tokens = 0
  for (const document of documents) tokens += (await encode(document)).length
  return { rate: bytes / (performance.now() - start) / 1000, tokens }
}

const ROWS: [name: string, peers: string[]][] = [
  ['gpt2', ['tiktoken', 'gpt-tokenizer']],
  ['cl100k_base', ['tiktoken', 'gpt-tokenizer']],
  ['o200k_base', ['tiktoken', 'gpt-tokenizer']],
  ['llama3', ['tokenizers']],
  ['qwen3', ['tokenizers']],
]

if (values.child !== undefined) {
  const [who, name] = values.child.split(' ') as [string, string]
  console.log(JSON.stringify((await measure(who, name)) ?? null))
} else {
  const child = (who: string, name: string): { rate: number; tokens: number } | undefined => {
    const { stdout, stderr, status } = spawnSync(
      process.execPath,
      [import.meta.filename, '--child', `${who} ${name}`],
      { encoding: 'utf8' },
    )
    if (status !== 0) throw new Error(`bench/tokenizer: ${who} ${name}: ${stderr}`)
    return (JSON.parse(stdout) as { rate: number; tokens: number } | null) ?? undefined
  }
  for (const [name, peers] of ROWS) {
    if (values.only !== undefined && !name.includes(values.only)) continue
    const best = new Map<string, number>()
    const counts = new Set<number>()
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const who of ['ours', ...peers]) {
        const result = child(who, name)
        if (result === undefined) continue
        best.set(who, Math.max(best.get(who) ?? 0, result.rate))
        counts.add(result.tokens)
      }
    }
    const ours = best.get('ours')!
    const others = [...best].filter(([who]) => who !== 'ours')
    const shown = others
      .map(([who, rate]) => `${who} ${rate.toFixed(1)} MB/s (${(ours / rate).toFixed(1)} x)`)
      .join(', ')
    const same = counts.size === 1 ? 'equal counts' : `token counts differ: ${[...counts].join(', ')}`
    console.log(`${name.padEnd(12)} ours ${ours.toFixed(1)} MB/s; ${shown}; ${same}`)
  }
  if (values.only === undefined) {
    const ours = fromTiktoken(rankFile('cl100k_base'), 'cl100k_base')
    let start = performance.now()
    ours.encode('a'.repeat(MEGABYTE))
    console.log(`1 MB of one letter: ${((performance.now() - start) / 1000).toFixed(2)} s`)
    const corpus = await loadDemoCorpus({ cacheDir: join(homedir(), '.cache', 'trainyard', 'demo') })
    const documents = corpus.train.map(({ text }) => text)
    start = performance.now()
    const { vocabSize } = trainTokenizer(documents, { vocabSize: 8192 + 257 })
    const bytes = documents.reduce((sum, text) => sum + Buffer.byteLength(text), 0)
    console.log(
      `training ${vocabSize - 257} merges on ${(bytes / MEGABYTE).toFixed(1)} MB: ${((performance.now() - start) / 1000).toFixed(2)} s`,
    )
  }
}
