// Reads Markdown as the documentation tests need it: fenced code with the line before it, links, headings.

export interface Fence {
  /** 'sh', 'ts', ''. */
  language: string
  text: string
  /** Of the opening fence, from 1. */
  line: number
  /** The reason in `<!-- test: skip (reason) -->` right before it. */
  skip: string | undefined
}

const FENCE = /^```(\w*)[^\n]*\n([\s\S]*?)^```$/gm
const SKIP = /<!-- test: skip \(([^)]+)\) -->\s*$/

export function listFences(markdown: string): Fence[] {
  return [...markdown.matchAll(FENCE)].map((match) => {
    const before = markdown.slice(0, match.index)
    return {
      language: match[1]!,
      text: match[2]!,
      line: before.split('\n').length,
      skip: SKIP.exec(before)?.[1],
    }
  })
}

export interface Link {
  /** As written, without the anchor: '' for a place in the same file. */
  path: string
  anchor: string | undefined
  line: number
}

/** Links to files and places; the web is left out, and so is code. */
export function listLinks(markdown: string): Link[] {
  const blank = (code: string): string => code.replaceAll(/[^\n]/g, ' ')
  const prose = markdown.replaceAll(FENCE, blank).replaceAll(/`[^`\n]*`/g, blank)
  return [...prose.matchAll(/\]\(([^()\s]+)\)/g)].flatMap((match) => {
    if (/^[a-z]+:/.test(match[1]!)) return []
    const [path = '', anchor] = match[1]!.split('#')
    return [{ path, anchor, line: prose.slice(0, match.index).split('\n').length }]
  })
}

/** The anchors that GitHub gives to the headings of a page. */
export function listAnchors(markdown: string): string[] {
  return [...markdown.replaceAll(FENCE, '').matchAll(/^#+ +(.+)$/gm)].map(([, title]) =>
    title!
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\- _]/gu, '')
      .trim()
      .replaceAll(' ', '-'),
  )
}
