// Weights of the models in recorded.json: a function of a tensor's name and the index, the same here and in
// tools/check-transformers.py (fixed_values), so that none need to be stored.

/** `count` values in [-0.5, 0.5): an FNV-1a hash of the name, mixed with the index (Wellons' lowbias32), 24 bits of it. */
export function fixedValues(name: string, count: number): Float64Array {
  let key = 0x811c9dc5
  for (const byte of new TextEncoder().encode(name)) key = Math.imul(key ^ byte, 0x01000193)
  return Float64Array.from({ length: count }, (_, i) => {
    let h = (key + Math.imul(i, 0x9e3779b9)) >>> 0
    h = Math.imul(h ^ (h >>> 16), 0x7feb352d)
    h = Math.imul(h ^ (h >>> 15), 0x846ca68b)
    h ^= h >>> 16
    return (h >>> 8) / 2 ** 24 - 0.5
  })
}

/** Weights of a tensor by its Hugging Face name: gains around 1, all else around 0. */
export function fixedWeights(name: string, count: number): Float32Array {
  const isGain = /(norm|ln_\w+)\.weight$/.test(name)
  return Float32Array.from(fixedValues(name, count), (value) => (isGain ? 1 + 0.25 * value : 0.5 * value))
}
