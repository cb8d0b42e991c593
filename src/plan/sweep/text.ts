// The text of a sweep that was given none: the demo's 12 MB of public-domain English, with a small vocabulary, so that
// small models are more than their embeddings. A quarter of the demo's held-out addresses validates, as that costs compute.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { writeContents } from '../../checkpoint/files.ts'
import { HELD_OUT, loadDemoCorpus } from '../../data/demo-corpus.ts'
import { prepareData } from '../../data/prepare.ts'
import { tokenizerFiles } from '../../data/tokenizer/load.ts'
import { trainTokenizer } from '../../data/tokenizer/train.ts'

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
    sources: [{ name: 'demo', documents: [...corpus.train, ...heldOut] }],
    tokenizer,
    outDir: folder,
    validation: { documents: [...validating] },
    prependBos: true,
    overwrite: true,
  })
  return true
}
