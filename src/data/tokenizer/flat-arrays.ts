// Growing and letting go of large typed arrays. Pages that were never written take no memory, so room to grow costs
// nothing until it is used; what is let go is given back at once, not when the garbage collector gets to it.

export type FlatArray = Uint8Array | Uint16Array | Int32Array | Uint32Array | Float64Array

/** The values of `array` in a longer one. `array` is empty afterwards. */
export function grown<T extends FlatArray>(array: T, length: number): T {
  // Not ArrayBuffer.transfer(length): it writes zeros to the rest, and so takes its pages.
  const longer = new (array.constructor as new (length: number) => T)(length)
  longer.set(array)
  release(array)
  return longer
}

/** Gives the memory of `array` back: it is empty afterwards, and so is every view of the same buffer. */
export function release(array: FlatArray): void {
  const { buffer } = array
  if (buffer instanceof ArrayBuffer) buffer.transfer(0)
}
