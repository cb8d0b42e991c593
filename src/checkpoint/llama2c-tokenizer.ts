// llama2.c's tokenizer file (SentencePiece pieces with scores) as the files of a Hugging Face tokenizer: byte-pair
// encoding with byte fallback, as transformers converts Llama 2's. Does not encode or decode text itself.
import { readFileSync } from 'node:fs'
import { TokenizerError } from '../core/errors.ts'
import type { TokenizerFiles } from './hf.ts'

/** A piece as SentencePiece writes it, with its meta symbol for a space. */
interface Piece {
  readonly text: string
  readonly score: number
}

const SPACE = '\u2581'
const UNKNOWN = '<unk>'
const BOS = '<s>'
const EOS = '</s>'
/** Ids 3 to 258 stand for the 256 bytes. */
const FIRST_BYTE = 3

/**
 * Reads int32 longest piece, then for each id float32 score, int32 length and the bytes.
 * @throws TokenizerError if the file is cut off, has a rest, or its pieces are not text
 */
export function readLlama2cTokenizer(path: string, vocabSize: number): Piece[] {
  let bytes: Buffer
  try {
    bytes = readFileSync(path)
  } catch (cause) {
    throw new TokenizerError(`${path}: expected a llama2.c tokenizer, but the file cannot be read`, { cause })
  }
  const pieces: Piece[] = []
  let position = 4
  const cut = (): never => {
    throw new TokenizerError(
      `${path}: expected ${vocabSize} pieces of a llama2.c tokenizer, but the file ends in piece ${pieces.length}`,
    )
  }
  const decoder = new TextDecoder('utf-8', { fatal: true })
  for (let id = 0; id < vocabSize; id++) {
    if (position + 8 > bytes.length) cut()
    const score = bytes.readFloatLE(position)
    const length = bytes.readInt32LE(position + 4)
    position += 8
    if (length < 0 || position + length > bytes.length) cut()
    try {
      pieces.push({ text: pieceText(id, decoder.decode(bytes.subarray(position, position + length))), score })
    } catch (cause) {
      throw new TokenizerError(`${path}: piece ${id} is not UTF-8; this is no llama2.c tokenizer`, { cause })
    }
    position += length
  }
  if (position !== bytes.length) {
    throw new TokenizerError(
      `${path}: ${bytes.length - position} bytes follow the ${vocabSize} pieces of the model; it is the tokenizer of another one`,
    )
  }
  return pieces
}

/** llama2.c writes spaces for the meta symbol and line breaks around the control tokens. */
function pieceText(id: number, text: string): string {
  if (id < FIRST_BYTE) return [UNKNOWN, BOS, EOS][id]!
  return text.replaceAll(' ', SPACE)
}

/**
 * tokenizer.json and tokenizer_config.json of a llama2.c tokenizer.
 * @param maxPositions  longest context of the model
 */
export function llama2cTokenizerFiles(path: string, vocabSize: number, maxPositions: number): TokenizerFiles {
  const pieces = readLlama2cTokenizer(path, vocabSize)
  const special = (id: number) => ({
    id,
    content: pieces[id]!.text,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  })
  const tokenizer = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [special(0), special(1), special(2)],
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: SPACE },
        { type: 'Replace', pattern: { String: ' ' }, content: SPACE },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: BOS, type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [
        { SpecialToken: { id: BOS, type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: BOS, type_id: 1 } },
        { Sequence: { id: 'B', type_id: 1 } },
      ],
      special_tokens: { [BOS]: { id: BOS, ids: [1], tokens: [BOS] } },
    },
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: SPACE }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: 1, stop: 0 },
      ],
    },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: UNKNOWN,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: Object.fromEntries(pieces.map(({ text }, id) => [text, id])),
      merges: mergesOf(pieces),
    },
  }
  const config = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    bos_token: BOS,
    eos_token: EOS,
    unk_token: UNKNOWN,
    clean_up_tokenization_spaces: false,
    model_max_length: maxPositions,
  }
  return {
    'tokenizer.json': `${JSON.stringify(tokenizer, null, 2)}\n`,
    'tokenizer_config.json': `${JSON.stringify(config, null, 2)}\n`,
  }
}

/**
 * SentencePiece joins the neighbours whose joint piece has the highest score. As merges: every way to cut a piece into
 * two others, by falling score; the cuts of one piece in the order that transformers' converter gives them.
 */
function mergesOf(pieces: readonly Piece[]): [string, string][] {
  const ids = new Map(pieces.map(({ text }, id) => [text, id]))
  const merges: { left: string; right: string; score: number }[] = []
  // Only where both parts have the length of some piece: a long piece of a damaged file has a great many other cuts.
  const lengths = new Set(pieces.map(({ text }) => text.length))
  for (const { text, score } of pieces.slice(FIRST_BYTE + 256)) {
    const cuts: { left: string; right: string; score: number }[] = []
    for (let at = 1; at < text.length; at++) {
      if (!lengths.has(at) || !lengths.has(text.length - at)) continue
      const [left, right] = [text.slice(0, at), text.slice(at)]
      if (ids.has(left) && ids.has(right)) cuts.push({ left, right, score })
    }
    cuts.sort((a, b) => ids.get(a.left)! - ids.get(b.left)! || ids.get(a.right)! - ids.get(b.right)!)
    merges.push(...cuts)
  }
  const length = (text: string): number => [...text].length
  merges.sort((a, b) => b.score - a.score || length(b.left) - length(a.left) || length(b.right) - length(a.right))
  return merges.map(({ left, right }) => [left, right])
}
