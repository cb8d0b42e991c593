// Memory: what this machine has, what this process may still take of it, what it has taken. Reads /proc and control
// groups on Linux; elsewhere what Node knows. Changes and limits nothing.
import { freemem, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { getHeapStatistics } from 'node:v8'
import { readText } from './read-text.ts'

export interface Memory {
  totalBytes: number
  /** What this process may still take, file caches given back. */
  availableBytes: number
}

type ReadText = (path: string) => string | undefined

/**
 * Memory of the machine, or of the tightest control group (container) around this process where that has less.
 * @param read  how files are read: a test brings its own
 */
export function describeMemory(read: ReadText = readText): Memory {
  const info = read('/proc/meminfo')
  const memory = {
    totalBytes: kilobytes(info, 'MemTotal') ?? totalmem(),
    availableBytes: kilobytes(info, 'MemAvailable') ?? freemem(),
  }
  for (const group of controlGroups(read)) {
    memory.totalBytes = Math.min(memory.totalBytes, group.totalBytes)
    memory.availableBytes = Math.min(memory.availableBytes, group.availableBytes)
  }
  return memory
}

/**
 * Bytes of this process that are in memory and backed by no file: heap, stacks, device memory of the CPU. Where the
 * system does not tell, all that is resident.
 */
export function anonymousBytes(): number {
  return kilobytes(readText('/proc/self/status'), 'RssAnon') ?? process.memoryUsage.rss()
}

/** Bytes of the JavaScript heap that are set aside but in no memory yet: short-lived objects will fill them. */
export function untouchedHeapBytes(): number {
  const { total_heap_size: reserved, total_physical_size: touched } = getHeapStatistics()
  return Math.max(0, reserved - touched)
}

/** `Name:   123 kB` in bytes. */
function kilobytes(text: string | undefined, name: string): number | undefined {
  const value = text && new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1]
  return value ? Number(value) * 1024 : undefined
}

/** File names of the two versions of control groups. */
const VERSIONS = [
  { mount: '/sys/fs/cgroup/memory', limit: 'memory.limit_in_bytes', usage: 'memory.usage_in_bytes', prefix: 'total_' },
  { mount: '/sys/fs/cgroup', limit: 'memory.max', usage: 'memory.current', prefix: '' },
] as const

/** Limits of the group of this process and of every group around it; groups without a limit are left out. */
function controlGroups(read: ReadText): Memory[] {
  const groups: Memory[] = []
  for (const line of read('/proc/self/cgroup')?.split('\n') ?? []) {
    const [, id, controllers, path] = /^(\d+):([^:]*):(\/.*)$/.exec(line) ?? []
    const isSecond = id === '0' && controllers === ''
    if (path === undefined || !(isSecond || controllers?.split(',').includes('memory'))) continue
    const version = VERSIONS[isSecond ? 1 : 0]
    for (let folder = path; ; folder = dirname(folder)) {
      const limit = Number(read(join(version.mount, folder, version.limit))?.trim() || 'none')
      const usage = Number(read(join(version.mount, folder, version.usage))?.trim() || 'none')
      const stat = read(join(version.mount, folder, 'memory.stat'))
      // 'max', or a number beyond any machine: no limit.
      if (Number.isSafeInteger(limit) && Number.isSafeInteger(usage)) {
        const caches = counted(stat, `${version.prefix}inactive_file`) + counted(stat, `${version.prefix}active_file`)
        groups.push({ totalBytes: limit, availableBytes: Math.max(0, limit - usage + caches) })
      }
      if (folder === '/') break
    }
  }
  return groups
}

/** Bytes of files that the kernel would give back: a line of memory.stat. */
function counted(stat: string | undefined, name: string): number {
  return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(stat ?? '')?.[1] ?? 0)
}
