// What compressors made of the demo's held-out text, measured once (bzip2 1.0.8, XZ Utils 5.4.1), for machines that
// lack them. They count only for the text with this hash; demo-corpus.test.ts compares them with the tools.

export const COMMITTED_FIGURES: {
  /** SHA-256 of the held-out texts joined with newlines: 582,493 bytes. */
  readonly textSha256: string
  /** SHA-256 of the training texts joined with newlines, and a newline: what xz was primed with. */
  readonly primedWithSha256: string
  /** By name of the result: compressed bytes of the text. */
  readonly compressedBytes: Readonly<Record<string, number>>
} = {
  textSha256: 'ef542c6147f1f3dfb31d0894b1a0032f163bede9665de2f8059bfc782e72cb49',
  primedWithSha256: 'ecfdd9aa1eef620c1ea7eade9142f92289fd8650fe34b2173dd80d9b984a1604',
  compressedBytes: {
    'bzip2 -9': 144_577,
    'xz -9': 162_504,
    'xz -9 primed with the training text': 127_972,
  },
}
