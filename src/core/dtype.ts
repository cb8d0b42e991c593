// Element types, named as in safetensors (lower case), and their width in bytes.

export type Dtype = 'f64' | 'f32' | 'bf16' | 'f16' | 'i32' | 'u8'

/** Bytes of one element as stored in a file or on a device that keeps the type as it is. */
export const DTYPE_BYTES: Readonly<Record<Dtype, number>> = { f64: 8, f32: 4, bf16: 2, f16: 2, i32: 4, u8: 1 }

/** The typed array that carries a dtype between the host and a device; 16-bit floats travel as raw bits. */
export type HostArray = Float64Array | Float32Array | Uint16Array | Int32Array | Uint8Array

/** Allocates a host array of `length` elements of `dtype` (`bf16` and `f16` as raw 16-bit words). */
export function hostArray(dtype: Dtype, length: number): HostArray {
  switch (dtype) {
    case 'f64':
      return new Float64Array(length)
    case 'f32':
      return new Float32Array(length)
    case 'bf16':
    case 'f16':
      return new Uint16Array(length)
    case 'i32':
      return new Int32Array(length)
    case 'u8':
      return new Uint8Array(length)
  }
}
