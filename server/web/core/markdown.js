/**
 * The block half of markdown-lite: text in, a list of blocks out. No DOM.
 *
 * Blocks: {t:"p",c} {t:"h",level,c} {t:"code",lang,v,closed} {t:"quote",blocks} {t:"hr"}
 * {t:"list",ordered,start,items:[{blocks,done?}]} {t:"table",align,head,rows}.
 * Each top-level block carries `src`, its own source: a view that sees the same
 * `src` again keeps what it drew, so a growing text costs only its last block.
 */

import { parseInline } from "./inline.js";

const DEPTH_LIMIT = 8;
const FENCE = /^( {0,3})(`{3,}|~{3,})/;
const HEADING = /^ {0,3}(#{1,6})(?=\s|$)/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:( +)(.*)|)$/;
const TABLE_RULE = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

/** Parse a whole text into blocks. Never throws, whatever the text. */
export function parseMarkdown(text, depth = 0) {
  const lines = spacedLines(text);
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (lines[at].trim() === "") {
      at += 1;
      continue;
    }
    const { block, end } = readBlock(lines, at, depth);
    block.src = lines.slice(at, end).join("\n");
    blocks.push(block);
    at = end;
  }
  return blocks;
}

/** Lines with leading tabs as four spaces, except inside fences: code keeps its tabs. */
function spacedLines(text) {
  let open = null;
  return text.replaceAll("\r\n", "\n").split("\n").map((line) => {
    const mark = /^\s*(`{3,}|~{3,})/.exec(line)?.[1];
    const inside = open !== null;
    if (mark && !inside) open = mark;
    else if (mark && mark.startsWith(open)) open = null;
    return inside && open !== null ? line : line.replace(/^[ \t]+/, (lead) => lead.replaceAll("\t", "    "));
  });
}

function readBlock(lines, at, depth) {
  for (const read of [fence, heading, rule, table]) {
    const found = read(lines, at);
    if (found) return found;
  }
  if (depth < DEPTH_LIMIT) {
    const found = quote(lines, at, depth) || list(lines, at, depth);
    if (found) return found;
  }
  return paragraph(lines, at, depth);
}

/** The opening of a code block: {indent, marks, lang}. A line with further backticks is a code span. */
function fenceAt(line) {
  const match = FENCE.exec(line);
  if (!match) return null;
  const [whole, indent, marks] = match;
  const rest = line.slice(whole.length);
  if (marks[0] === "`" && rest.includes("`")) return null;
  return { indent, marks, lang: rest.trim().split(/\s/, 1)[0] };
}

function fence(lines, at) {
  const open = fenceAt(lines[at]);
  if (!open) return null;
  const { indent, marks, lang } = open;
  const close = new RegExp(`^ {0,3}${marks[0] === "~" ? "~" : "`"}{${marks.length},}\\s*$`);
  const body = [];
  let end = at + 1;
  while (end < lines.length && !close.test(lines[end])) {
    body.push(stripIndent(lines[end], indent.length));
    end += 1;
  }
  const closed = end < lines.length;
  return { block: { t: "code", lang, v: body.join("\n"), closed }, end: closed ? end + 1 : end };
}

function stripIndent(line, width) {
  let cut = 0;
  while (cut < width && line[cut] === " ") cut += 1;
  return line.slice(cut);
}

function heading(lines, at) {
  const match = HEADING.exec(lines[at]);
  if (!match) return null;
  const text = lines[at].slice(match[0].length).trim();
  return { block: { t: "h", level: match[1].length, c: parseInline(withoutClosing(text)) }, end: at + 1 };
}

/** A heading may be closed by marks as well: "## Title ##". */
function withoutClosing(text) {
  let end = text.length;
  while (text[end - 1] === "#") end -= 1;
  return end === 0 || text[end - 1] === " " ? text.slice(0, end).trimEnd() : text;
}

function rule(lines, at) {
  return RULE.test(lines[at]) ? { block: { t: "hr" }, end: at + 1 } : null;
}

function quote(lines, at, depth) {
  if (!QUOTE.test(lines[at])) return null;
  const body = [];
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) {
    body.push(lines[end].replace(QUOTE, ""));
    end += 1;
  }
  return { block: { t: "quote", blocks: parseMarkdown(body.join("\n"), depth + 1) }, end };
}

function list(lines, at, depth) {
  const first = itemAt(lines[at]);
  if (!first || first.indent > 3) return null;
  const items = [];
  let end = at;
  while (end < lines.length) {
    const item = itemAt(lines[end]);
    if (!item || item.ordered !== first.ordered || item.indent > first.indent + 1) break;
    const taken = itemBody(lines, end, item);
    items.push(listItem(taken.body, depth));
    end = taken.end;
  }
  return { block: { t: "list", ordered: first.ordered, start: first.number, items }, end };
}

function itemAt(line) {
  const match = line === undefined ? null : ITEM.exec(line);
  if (!match || RULE.test(line)) return null;
  const ordered = /\d/.test(match[2]);
  const gap = match[3] === undefined || match[3].length > 4 ? 1 : match[3].length;
  return {
    indent: match[1].length,
    content: match[1].length + match[2].length + gap,
    ordered,
    number: ordered ? Number.parseInt(match[2], 10) : 1,
  };
}

/** An item owns its first line, deeper lines, and lazy lines of its last paragraph. */
function itemBody(lines, at, item) {
  const body = [lines[at].slice(item.content)];
  let end = at + 1;
  while (end < lines.length) {
    const line = lines[end];
    const blank = line.trim() === "";
    if (blank) {
      const next = lines[end + 1];
      if (next === undefined || !(indentOf(next) > item.indent + 1 && next.trim() !== "")) {
        if (itemAt(next) && indentOf(next) <= item.indent + 1) end += 1;
        break;
      }
      body.push("");
    } else if (indentOf(line) > item.indent + 1 || (item.indent < 2 && indentOf(line) >= item.content)) {
      body.push(stripIndent(line, item.content));
    } else if (startsBlock(line)) {
      break;
    } else {
      body.push(line.trimStart());
    }
    end += 1;
  }
  return { body, end };
}

function listItem(body, depth) {
  const task = /^\[([ xX])\] (.*)$/.exec(body[0]);
  const source = task ? [task[2], ...body.slice(1)] : body;
  const item = { blocks: parseMarkdown(source.join("\n"), depth + 1) };
  if (task) item.done = task[1] !== " ";
  return item;
}

function indentOf(line) {
  return line.length - line.trimStart().length;
}

function startsBlock(line) {
  return fenceAt(line) !== null || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || itemAt(line) !== null;
}

function table(lines, at) {
  if (!lines[at].includes("|") || at + 1 >= lines.length || !TABLE_RULE.test(lines[at + 1])) return null;
  const head = cells(lines[at]);
  const marks = cells(lines[at + 1]);
  if (head.length !== marks.length) return null;
  const align = marks.map((mark) => alignment(mark));
  const rows = [];
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|") && lines[end].trim() !== "") {
    rows.push(head.map((_, column) => parseInline(cells(lines[end])[column] ?? "")));
    end += 1;
  }
  return { block: { t: "table", align, head: head.map((cell) => parseInline(cell)), rows }, end };
}

function alignment(mark) {
  if (mark.startsWith(":") && mark.endsWith(":")) return "center";
  return mark.endsWith(":") ? "right" : "left";
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function paragraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() !== "") {
    const line = lines[end];
    if (fenceAt(line) || HEADING.test(line) || RULE.test(line)) break;
    if (depth < DEPTH_LIMIT && (QUOTE.test(line) || interrupts(itemAt(line)))) break;
    end += 1;
  }
  const text = lines.slice(at, end).map((line) => line.trimStart()).join("\n");
  return { block: { t: "p", c: parseInline(text) }, end };
}

/** Prose such as "1986. A great year" must not become a list in mid-paragraph. */
function interrupts(item) {
  return item !== null && item.indent < 4 && (!item.ordered || item.number === 1);
}
