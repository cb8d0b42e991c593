// What the data folder needs of a tokenizer, and nothing more: text in, ids out, and a hash that says which tokenizer
// it was. Any tokenizer with these members fits; nothing here trains or loads one.

/** A tokenizer as seen by `prepareData`. */
export interface Encoder {
  /** Number of ids: every id is in [0, vocabSize). */
  readonly vocabSize: number
  /** Hash of the tokenizer's definition: equal hashes mean equal ids for every text. */
  readonly hash: string
  readonly eosTokenId?: number | undefined
  readonly bosTokenId?: number | undefined
  /** The ids of `text`, without ids added at its start or end. */
  encode(text: string): ArrayLike<number>
}
