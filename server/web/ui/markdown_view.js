/**
 * Draws the block tree of core/markdown.js as nodes, keeping what did not change.
 */

import { parseMarkdown } from "../core/markdown.js";
import { copyButton, el } from "./dom.js";

const HUGE = 300000;
const SLOW = 8;

/**
 * A region that shows markdown. `update(text)` redraws only the blocks whose source
 * differs; a text that has become slow to parse is redrawn less often until `update(text, true)`.
 */
export function createMarkdown() {
  const node = el("div", { class: "prose" });
  const drawn = [];
  let notBefore = 0;
  function update(text, final = false) {
    const began = performance.now();
    if (!final && began < notBefore) return;
    const blocks = text.length > HUGE ? [{ t: "code", lang: "", v: text, closed: true, src: text }] : parseMarkdown(text);
    blocks.forEach((block, index) => place(node, drawn, block, index));
    while (drawn.length > blocks.length) drawn.pop().node.remove();
    const took = performance.now() - began;
    notBefore = took > SLOW ? began + took * 10 : 0;
  }
  return { node, update };
}

function place(parent, drawn, block, index) {
  const known = drawn[index];
  if (known && known.src === block.src && known.t === block.t) return;
  if (known && known.t === "code" && block.t === "code" && known.lang === block.lang) {
    // A growing code block keeps its element: the button and a selection survive.
    known.node.querySelector("code").textContent = block.v;
    known.src = block.src;
    return;
  }
  const fresh = { src: block.src, t: block.t, lang: block.lang, node: drawBlock(block) };
  if (known) known.node.replaceWith(fresh.node);
  else parent.append(fresh.node);
  drawn[index] = fresh;
}

function drawBlock(block) {
  return BLOCKS[block.t](block);
}

const BLOCKS = {
  p: (block) => el("p", {}, drawInline(block.c)),
  // The page's own headings are h1 and h2: those of an answer begin below.
  h: (block) => el(`h${Math.min(6, block.level + 2)}`, { class: `level-${block.level}` }, drawInline(block.c)),
  hr: () => el("hr"),
  quote: (block) => el("blockquote", {}, block.blocks.map(drawBlock)),

  code(block) {
    const code = el("code", {}, block.v);
    const name = block.lang ? `Code, ${block.lang}` : "Code";
    const head = el("div", { class: "code-head" }, el("span", {}, block.lang || "text"));
    head.append(copyButton(() => code.textContent, "Copy code"));
    const body = el("pre", { tabindex: "0", role: "region", "aria-label": name }, code);
    return el("div", { class: "code", "data-testid": "code-block" }, head, body);
  },

  list(block) {
    const attributes = block.ordered && block.start !== 1 ? { start: block.start } : {};
    const tasks = block.items.some((item) => item.done !== undefined);
    return el(block.ordered ? "ol" : "ul", { ...attributes, class: tasks && "tasks" }, block.items.map(drawItem));
  },

  table(block) {
    const cell = (tag) => (content, column) =>
      el(tag, { class: `align-${block.align[column]}` }, drawInline(content));
    const head = el("thead", {}, el("tr", {}, block.head.map(cell("th"))));
    const body = el("tbody", {}, block.rows.map((row) => el("tr", {}, row.map(cell("td")))));
    return el("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" }, el("table", {}, head, body));
  },
};

function drawItem(item) {
  const tight = item.blocks.length > 0 && item.blocks[0].t === "p";
  const [first, ...rest] = item.blocks;
  const lead = tight ? drawInline(first.c) : item.blocks.slice(0, 1).map(drawBlock);
  const mark = item.done === undefined ? null : el("span", { class: "task" }, item.done ? "☑ " : "☐ ");
  return el("li", {}, mark, lead, rest.map(drawBlock));
}

function drawInline(nodes) {
  return nodes.map((node) => INLINE[node.t](node));
}

const INLINE = {
  text: (node) => document.createTextNode(node.v),
  code: (node) => el("code", {}, node.v),
  b: (node) => el("strong", {}, drawInline(node.c)),
  i: (node) => el("em", {}, drawInline(node.c)),
  s: (node) => el("del", {}, drawInline(node.c)),
  br: () => el("br"),
  a: (node) => el("a", { href: node.href, target: "_blank", rel: "noopener noreferrer" }, drawInline(node.c)),
};
