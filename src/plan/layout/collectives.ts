// The time of collective operations by size of the message and by where the members of the group are: inside one node,
// over nodes, with one network adapter or all of them (rings and trees as NCCL makes them).
import type { Cluster } from './machine.ts'

/** Members of one group, as they lie on nodes. */
export interface Group {
  readonly size: number
  /** Members that share a node. */
  readonly perNode: number
}

/** Members are `stride` devices apart: consecutive ranks fill a node first. */
export function groupOf(on: Cluster, size: number, stride: number): Group {
  return { size, perNode: Math.max(1, Math.min(size, Math.floor(on.devicesPerNode / stride))) }
}

export function nodesOf({ size, perNode }: Group): number {
  return Math.ceil(size / perNode)
}

/**
 * Which network adapters of a node a group's rings enter and leave by. 'all': every member's own. 'one': one for the whole
 * group. 'contended': as NCCL before 2.12 chose on servers where two devices and two adapters share a PCIe switch (DGX A100).
 */
export type Rails = 'all' | 'contended' | 'one'

/** Bus bandwidth in bytes per second: a ring enters and leaves each node once an adapter. */
function busBandwidth(on: Cluster, group: Group, rails: Rails): number {
  const { constants } = on
  const link = on.linkBandwidth * constants.linkEfficiency
  if (nodesOf(group) === 1) return link
  const network = on.networkBandwidth * constants.networkEfficiency * adaptersOf(on, group, rails)
  return group.perNode === 1 ? network : Math.min(link, network)
}

/**
 * Adapters of a node that a group has for itself. That NCCL began each group's search at an adapter given by the group's
 * first device alone: right for a group of one device a node, or of all; groups in between took the same adapters after
 * the first, and rings, which go at the pace of their slowest, had half.
 */
function adaptersOf(on: Cluster, { perNode }: Group, rails: Rails): number {
  if (rails === 'one') return 1
  const isContended = rails === 'contended' && perNode > 1 && perNode < on.devicesPerNode
  return isContended ? perNode / 2 : perNode
}

/** Once around a ring: a hop to each member, and more where the hop leaves the node. */
function ringLatency(on: Cluster, group: Group): number {
  const nodes = nodesOf(group)
  return (group.size - 1) * on.constants.linkLatency + (nodes - 1) * on.constants.networkLatency
}

/** Up and down a tree over nodes, with a chain of members in each. */
function treeLatency(on: Cluster, group: Group): number {
  const levels = Math.ceil(Math.log2(nodesOf(group)))
  return 2 * ((group.perNode - 1) * on.constants.linkLatency + levels * on.constants.networkLatency)
}

/** A tree's inner nodes send and receive for two children: half of what a ring moves in that time. */
const TREE_BANDWIDTH = 0.5

/** Seconds to sum `bytes` over the group so that every member has the sum. */
export function allReduceSeconds(on: Cluster, bytes: number, group: Group, rails: Rails = 'all'): number {
  if (group.size === 1) return 0
  const volume = (2 * (group.size - 1) * bytes) / group.size
  const transfer = volume / busBandwidth(on, group, rails)
  const ring = transfer + 2 * ringLatency(on, group)
  const tree = transfer / TREE_BANDWIDTH + treeLatency(on, group)
  return Math.min(ring, tree) + on.constants.kernelGap
}

/** Seconds to bring `bytes`, of which every member has its share, to all members; reduce-scatter takes the same. */
export function allGatherSeconds(on: Cluster, bytes: number, group: Group, rails: Rails = 'all'): number {
  if (group.size === 1) return 0
  return (
    ((group.size - 1) * bytes) / group.size / busBandwidth(on, group, rails) +
    ringLatency(on, group) +
    on.constants.kernelGap
  )
}

export const reduceScatterSeconds = allGatherSeconds

/** Seconds in which every member sends `bytes`, divided over all members. */
export function allToAllSeconds(on: Cluster, bytes: number, group: Group): number {
  if (group.size === 1) return 0
  const { constants } = on
  const inside = ((group.perNode - 1) / group.size) * bytes
  const outside = ((group.size - group.perNode) / group.size) * bytes
  const link = on.linkBandwidth * constants.linkEfficiency
  const network = on.networkBandwidth * constants.networkEfficiency
  const seconds = Math.max(inside / link, outside === 0 ? 0 : outside / network)
  return seconds + constants.linkLatency + (outside === 0 ? 0 : constants.networkLatency)
}

/** Seconds to send `bytes` to one other device. */
export function sendSeconds(on: Cluster, bytes: number, isInsideNode: boolean): number {
  const { constants } = on
  return isInsideNode
    ? bytes / (on.linkBandwidth * constants.linkEfficiency) + constants.linkLatency
    : bytes / (on.networkBandwidth * constants.networkEfficiency) + constants.networkLatency
}
