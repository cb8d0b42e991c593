// GPT-2's spelling of bytes as printable characters, in which byte-level vocabularies are written: printable Latin-1
// stands for itself, the other bytes for U+0100 and on (a space is U+0120).

const charOfByte: string[] = []
const byteOfUnit = new Map<number, number>()
let nextUnit = 0x100
for (let byte = 0; byte < 256; byte++) {
  const isPrintable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
  const unit = isPrintable ? byte : nextUnit++
  charOfByte.push(String.fromCharCode(unit))
  byteOfUnit.set(unit, byte)
}

/** Bytes as text of the alphabet. */
export function spellBytes(bytes: Uint8Array): string {
  let text = ''
  for (const byte of bytes) text += charOfByte[byte]!
  return text
}

/** The bytes that text of the alphabet stands for, or undefined where a character is not of it. */
export function unspellBytes(text: string): Uint8Array | undefined {
  const bytes = new Uint8Array(text.length)
  for (let i = 0; i < text.length; i++) {
    const byte = byteOfUnit.get(text.charCodeAt(i))
    if (byte === undefined) return undefined
    bytes[i] = byte
  }
  return bytes
}
