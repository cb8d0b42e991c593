// The pairs that may still be joined, as flat arrays of about 50 bytes a pair: as objects in a Map they took 150. A pair
// is a number; its number is free for another only after recycle(), because the heap still holds forgotten pairs.
import { grown, release } from './flat-arrays.ts'

const FIRST_CAPACITY = 1 << 12

export class PairTable {
  /** Token ids of a pair. */
  left = new Int32Array(FIRST_CAPACITY)
  right = new Int32Array(FIRST_CAPACITY)
  /** How often it occurs now; 0 once forgotten. */
  counts = new Float64Array(FIRST_CAPACITY)
  /** How often it occurred when the heap last looked. */
  ranks = new Float64Array(FIRST_CAPACITY)
  /** Where the list of its words starts in WordLists; -1 for none. */
  lists = new Float64Array(FIRST_CAPACITY)
  /** pair + 1, or 0; open addressing, at most half full. */
  #slots = new Int32Array(2 * FIRST_CAPACITY)
  #known = 0
  #forgotten = 0
  /** Numbers given out so far; those of #free, linked through `left`, are free again. */
  #numbers = 0
  #free = -1

  /** Pairs that are forgotten and not recycled. */
  get forgotten(): number {
    return this.#forgotten
  }

  /** Adds a pair that is not there. @returns its number */
  add(left: number, right: number, count: number): number {
    if (2 * (this.#known + 1) > this.#slots.length) this.#rehash()
    let pair = this.#free
    if (pair >= 0) this.#free = this.left[pair]!
    else {
      pair = this.#numbers++
      if (pair === this.left.length) this.#grow()
    }
    this.left[pair] = left
    this.right[pair] = right
    this.counts[pair] = count
    this.ranks[pair] = count
    this.lists[pair] = -1
    this.#known++
    this.#insert(this.#slots, pair)
    return pair
  }

  /** The number of a pair, or -1. */
  find(left: number, right: number): number {
    const mask = this.#slots.length - 1
    let slot = hashOf(left, right) & mask
    for (let pair = this.#slots[slot]! - 1; pair >= 0; pair = this.#slots[slot]! - 1) {
      if (this.left[pair] === left && this.right[pair] === right) return pair
      slot = (slot + 1) & mask
    }
    return -1
  }

  /** A pair that will never be joined any more: it is not found any more, its list is given up. */
  forget(pair: number): void {
    const slots = this.#slots
    const mask = slots.length - 1
    let hole = hashOf(this.left[pair]!, this.right[pair]!) & mask
    while (slots[hole] !== pair + 1) hole = (hole + 1) & mask
    // Those behind it move up, unless that would put them before the slot where their search starts.
    for (let slot = (hole + 1) & mask; slots[slot] !== 0; slot = (slot + 1) & mask) {
      const other = slots[slot]! - 1
      const home = hashOf(this.left[other]!, this.right[other]!) & mask
      if (((slot - home) & mask) < ((slot - hole) & mask)) continue
      slots[hole] = other + 1
      hole = slot
    }
    slots[hole] = 0
    this.counts[pair] = 0
    this.lists[pair] = -1
    this.#known--
    this.#forgotten++
  }

  /** Frees the number of a forgotten pair. */
  recycle(pair: number): void {
    this.left[pair] = this.#free
    this.#free = pair
    this.#forgotten--
  }

  #insert(slots: Int32Array, pair: number): void {
    const mask = slots.length - 1
    let slot = hashOf(this.left[pair]!, this.right[pair]!) & mask
    while (slots[slot] !== 0) slot = (slot + 1) & mask
    slots[slot] = pair + 1
  }

  #rehash(): void {
    const slots = new Int32Array(2 * this.#slots.length)
    for (const entry of this.#slots) if (entry > 0) this.#insert(slots, entry - 1)
    release(this.#slots)
    this.#slots = slots
  }

  #grow(): void {
    const capacity = Math.ceil(1.5 * this.left.length)
    this.left = grown(this.left, capacity)
    this.right = grown(this.right, capacity)
    this.counts = grown(this.counts, capacity)
    this.ranks = grown(this.ranks, capacity)
    this.lists = grown(this.lists, capacity)
  }
}

function hashOf(left: number, right: number): number {
  const hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)
  return hash ^ (hash >>> 15)
}
