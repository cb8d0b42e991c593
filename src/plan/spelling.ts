/** A name without what spellings differ in: capitals, spaces and hyphens. `Llama 3 8B`, `llama-3-8b` -> `llama38b`. */
export function squash(name: string): string {
  return name.toLowerCase().replaceAll(/[^a-z0-9.]/g, '')
}
