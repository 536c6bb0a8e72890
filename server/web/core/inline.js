/**
 * The inline half of markdown-lite: text in, a tree of plain nodes out.
 *
 * Nodes: {t:"text",v} {t:"code",v} {t:"b"|"i"|"s",c:[…]} {t:"a",href,c:[…]} {t:"br"}.
 * Raw HTML has no meaning here: it stays text. Nothing in this file knows the DOM.
 */

const PUNCTUATION = /[!-/:-@[-`{-~]/;
const DEPTH_LIMIT = 12;
const LINK_REACH = 2000;
const PLAIN_ABOVE = 40000;

/** The address if it may be followed from a chat (http, https, mailto), else null. */
export function safeHref(raw) {
  const text = raw.trim();
  if (/[\u0000-\u0020\u007f\u200b-\u200f\u2028-\u202e\u2066-\u2069\\]/.test(text)) return null;
  return /^(https?:\/\/[^/]|mailto:[^/])/i.test(text) ? text : null;
}

/** Parse one paragraph's text. Very long text without structure stays plain, so cost stays linear. */
export function parseInline(text, depth = 0) {
  if (depth > DEPTH_LIMIT || text.length > PLAIN_ABOVE) return [{ t: "text", v: text }];
  const out = new Collector();
  const state = { text, depth, dead: new Set() };
  let at = 0;
  while (at < text.length) {
    const rule = RULES[text[at]];
    const found = rule ? rule(state, at) : null;
    if (found) {
      out.push(found.node);
      at = found.end;
    } else {
      out.text(text[at]);
      at += 1;
    }
  }
  return out.nodes;
}

class Collector {
  constructor() {
    this.nodes = [];
  }

  push(node) {
    if (node.t === "text") this.text(node.v);
    else this.nodes.push(node);
  }

  text(value) {
    const last = this.nodes[this.nodes.length - 1];
    if (last && last.t === "text") last.v += value;
    else this.nodes.push({ t: "text", v: value });
  }
}

function escaped({ text }, at) {
  const next = text[at + 1];
  if (next === "\n") return { node: { t: "br" }, end: at + 2 };
  if (next && PUNCTUATION.test(next)) return { node: { t: "text", v: next }, end: at + 2 };
  return null;
}

function hardBreak({ text }, at) {
  const match = /^ {2,}\n/.exec(text.slice(at, at + 12));
  return match ? { node: { t: "br" }, end: at + match[0].length } : null;
}

function codeSpan(state, at) {
  const { text, dead } = state;
  let size = 1;
  while (text[at + size] === "`") size += 1;
  const fence = "`".repeat(size);
  const literal = { node: { t: "text", v: fence }, end: at + size };
  if (dead.has(fence)) return literal;
  let close = text.indexOf(fence, at + size);
  while (close !== -1 && (text[close + size] === "`" || text[close - 1] === "`")) {
    close = text.indexOf(fence, close + 1);
  }
  if (close === -1) {
    dead.add(fence);
    return literal;
  }
  let inner = text.slice(at + size, close).replaceAll("\n", " ");
  if (inner.length > 2 && inner.startsWith(" ") && inner.endsWith(" ")) inner = inner.slice(1, -1);
  return { node: { t: "code", v: inner }, end: close + size };
}

function emphasis(state, at) {
  const { text } = state;
  const mark = text[at];
  const double = text[at + 1] === mark;
  return (double && wrapped(state, at, mark + mark, "b")) || wrapped(state, at, mark, "i");
}

function strike(state, at) {
  return state.text[at + 1] === "~" ? wrapped(state, at, "~~", "s") : null;
}

function wrapped(state, at, mark, kind) {
  const { text, depth, dead } = state;
  const from = at + mark.length;
  if (dead.has(mark) || !opens(text, at, from, mark)) return null;
  let close = text.indexOf(mark, from + 1);
  while (close !== -1 && !closes(text, close, mark)) close = text.indexOf(mark, close + 1);
  if (close === -1) {
    dead.add(mark);
    return null;
  }
  return { node: { t: kind, c: parseInline(text.slice(from, close), depth + 1) }, end: close + mark.length };
}

function opens(text, at, from, mark) {
  const next = text[from];
  if (next === undefined || /\s/.test(next)) return false;
  return mark[0] !== "_" || !isWord(text[at - 1]);
}

function closes(text, close, mark) {
  if (/\s/.test(text[close - 1])) return false;
  const after = text[close + mark.length];
  if (mark.length === 1 && (after === mark || text[close - 1] === mark)) return false;
  return mark[0] !== "_" || !isWord(after);
}

function isWord(char) {
  return char !== undefined && /[\p{L}\p{N}]/u.test(char);
}

function link({ text, depth }, at) {
  const image = text[at] === "!";
  const start = image ? at + 1 : at;
  if (text[start] !== "[") return null;
  const labelEnd = matching(text, start, "[", "]");
  if (labelEnd === -1 || text[labelEnd + 1] !== "(") return null;
  const end = matching(text, labelEnd + 1, "(", ")");
  if (end === -1) return null;
  const target = text.slice(labelEnd + 2, end).replace(/\s+["'(][^\n]*$/, "").replace(/^<(.*)>$/, "$1");
  const href = safeHref(target);
  if (!href) return { node: { t: "text", v: text.slice(at, end + 1) }, end: end + 1 };
  const label = text.slice(start + 1, labelEnd);
  const inner = image ? [{ t: "text", v: label || href }] : parseInline(label, depth + 1).map(withoutLinks);
  return { node: { t: "a", href, c: inner }, end: end + 1 };
}

function withoutLinks(node) {
  if (node.t === "a") return { t: "text", v: plainText(node.c) };
  return node.c ? { ...node, c: node.c.map(withoutLinks) } : node;
}

/** The bare text of inline nodes. */
export function plainText(nodes) {
  return nodes.map((node) => (node.c ? plainText(node.c) : (node.v ?? " "))).join("");
}

function matching(text, start, open, close) {
  const limit = Math.min(text.length, start + LINK_REACH);
  let level = 0;
  for (let at = start; at < limit; at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === open) level += 1;
    else if (text[at] === close && --level === 0) return at;
    else if (text[at] === "\n" && open === "(") return -1;
  }
  return -1;
}

function angleLink({ text }, at) {
  const match = /^<((?:https?:\/\/|mailto:)[^\s<>]{1,1000})>/i.exec(text.slice(at, at + 1020));
  const href = match && safeHref(match[1]);
  return href ? { node: { t: "a", href, c: [{ t: "text", v: match[1] }] }, end: at + match[0].length } : null;
}

function bareLink({ text }, at) {
  if (isWord(text[at - 1])) return null;
  const match = /^https?:\/\/[^\s<>"'`*\]]{1,1000}/i.exec(text.slice(at, at + 1010));
  if (!match) return null;
  let raw = match[0].replace(/[.,;:!?]+$/, "");
  if (raw.endsWith(")") && !raw.includes("(")) raw = raw.replace(/\)+$/, "");
  const href = safeHref(raw);
  return href ? { node: { t: "a", href, c: [{ t: "text", v: raw }] }, end: at + raw.length } : null;
}

const RULES = {
  "\\": escaped,
  " ": hardBreak,
  "`": codeSpan,
  "*": emphasis,
  _: emphasis,
  "~": strike,
  "[": link,
  "!": link,
  "<": angleLink,
  h: bareLink,
  H: bareLink,
};
