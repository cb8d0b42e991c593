// The text of a sweep that was given none: the demo's 12 MB of public-domain English, with a small vocabulary, so that
// small models are more than their embeddings. A quarter of the demo's held-out addresses validates, as that costs compute.
// Every text is cut into short pieces, so that a run of any length reads a fair sample: the 357 texts are so long that the
// runs of one horizon read 50 of them, the same ones, and lay up to 2 % off the law together.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { writeContents } from '../../checkpoint/files.ts'
import { HELD_OUT, loadDemoCorpus } from '../../data/demo-corpus.ts'
import type { Document } from '../../data/document.ts'
import { prepareData } from '../../data/prepare.ts'
import { tokenizerFiles } from '../../data/tokenizer/load.ts'
import { trainTokenizer } from '../../data/tokenizer/train.ts'

/** Characters of a piece at least, a few rows of the context that a sweep trains with. */
const PIECE = 500
const SENTENCE_END = /[.!?]\s/

/** Makes `folder` what `data prepare` would make, unless it is there. @returns whether it was made now */
export async function prepareSweepText(folder: string, vocabSize: number, cacheDir: string): Promise<boolean> {
  if (existsSync(join(folder, 'validation', 'manifest.json'))) return false
  const corpus = await loadDemoCorpus({ cacheDir })
  const validating = new Set(HELD_OUT.filter((_, i) => i % 4 === 0))
  const tokenizer = trainTokenizer(
    corpus.train.map((document) => document.text),
    { vocabSize },
  )
  for (const [name, text] of Object.entries(tokenizerFiles(tokenizer))) {
    await writeContents(join(folder, 'tokenizer', name), text)
  }
  const heldOut = corpus.heldOut.filter((document) => validating.has(document.source))
  await prepareData({
    sources: [{ name: 'demo', documents: [...piecesOf([...corpus.train, ...heldOut])] }],
    tokenizer,
    outDir: folder,
    validation: { documents: [...validating] },
    prependBos: true,
    overwrite: true,
  })
  return true
}

/** Pieces end with a sentence, and keep the name of the text they are from. */
function* piecesOf(documents: Iterable<Document>): Generator<Document> {
  let index = 0
  for (const { text, source } of documents) {
    for (let start = 0; start < text.length; ) {
      const sentence = text.slice(start + PIECE).search(SENTENCE_END)
      const end = sentence < 0 ? text.length : start + PIECE + sentence + 1
      yield { text: text.slice(start, end).trim(), source, index: index++ }
      start = end
    }
  }
}
