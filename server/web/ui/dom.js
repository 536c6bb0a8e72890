/**
 * Building the page from nodes. Text only ever becomes a text node: no string is parsed as HTML anywhere.
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element: el("button", {class: "quiet", onclick: f, "aria-label": "Close"}, child, "text", null).
 * Attributes that are null, undefined or false are left out; `on…` are listeners; children may be nested lists.
 */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Change text only where it differs, so that selections and screen readers are left in peace. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Show or hide. */
export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/** Set or drop an attribute. */
export function setAttribute(node, name, value) {
  if (value === null || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, String(value));
}

const PATHS = {
  menu: "M4 7h16M4 12h16M4 17h16",
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  chevron: "M9 6l6 6-6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  copy: "M9 9h10v10H9zM5 15V5h10",
  check: "M5 13l4 4L19 7",
  archive: "M4 5h16v4H4zM6 9v10h12V9M10 13h4",
  exit: "M14 4h5v16h-5M4 12h11M11 8l4 4-4 4",
  terminal: "M5 7l5 5-5 5M12 17h7",
  file: "M7 4h7l4 4v12H7zM14 4v4h4",
  pencil: "M5 19l1-4L16 5l3 3L9 18z",
  search: "M11 5a6 6 0 100 12 6 6 0 000-12zM16 16l4 4",
  globe: "M12 4a8 8 0 100 16 8 8 0 000-16zM4 12h16M12 4c5 5 5 11 0 16M12 4c-5 5-5 11 0 16",
  branch: "M7 5v14M7 12h6a4 4 0 004-4V6",
  list: "M9 6h11M9 12h11M9 18h11M4 6h1M4 12h1M4 18h1",
  question: "M9 9a3 3 0 115 2c-1 1-2 1.500-2 3M12 18v.5",
  tool: "M14 6a4 4 0 015 5l-8 8-4-4 8-8zM7 15l-2 2 2 2 2-2",
  warning: "M12 4l9 16H3zM12 10v4M12 17v.5",
  spark: "M12 4v5M12 15v5M4 12h5M15 12h5M7 7l2 2M15 15l2 2M17 7l-2 2M9 15l-2 2",
};

/** A line icon that screen readers skip. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const attributes = { viewBox: "0 0 24 24", width: 18, height: 18, class: "icon", "aria-hidden": "true" };
  for (const [key, value] of Object.entries(attributes)) svg.setAttribute(key, String(value));
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name] ?? PATHS.tool);
  svg.append(path);
  return svg;
}

/** Copy text; works on plain http too, where the clipboard interface is missing. Resolves to success. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", { class: "off-screen", "aria-hidden": "true", readonly: true });
    area.value = text;
    document.body.append(area);
    const focused = document.activeElement;
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus?.();
    return done;
  }
}

/** A button that copies `read()` and says so for a moment. */
export function copyButton(read, label) {
  const caption = el("span", {}, "Copy");
  const button = el("button", { type: "button", class: "copy", "aria-label": label }, icon("copy"), caption);
  button.addEventListener("click", async () => {
    setText(caption, (await copyText(read())) ? "Copied" : "Not copied");
    setTimeout(() => setText(caption, "Copy"), 1500);
  });
  return button;
}
