/**
 * How a tool call is named to a person: what it does and to what. No DOM.
 */

const TARGETS = {
  Bash: ["command"],
  Read: ["file_path"],
  Write: ["file_path"],
  Edit: ["file_path"],
  MultiEdit: ["file_path"],
  NotebookEdit: ["notebook_path"],
  Grep: ["pattern", "path"],
  Glob: ["pattern", "path"],
  LS: ["path"],
  WebFetch: ["url"],
  WebSearch: ["query"],
  Task: ["description"],
  Agent: ["description"],
  Skill: ["skill", "command"],
  TaskCreate: ["subject"],
  TaskUpdate: ["taskId", "status"],
};

const ICONS = {
  Bash: "terminal",
  Read: "file",
  Write: "pencil",
  Edit: "pencil",
  MultiEdit: "pencil",
  NotebookEdit: "pencil",
  Grep: "search",
  Glob: "search",
  LS: "search",
  WebFetch: "globe",
  WebSearch: "globe",
  Task: "branch",
  Agent: "branch",
  TodoWrite: "list",
  TaskCreate: "list",
  TaskUpdate: "list",
  TaskList: "list",
  AskUserQuestion: "question",
  ExitPlanMode: "list",
};

/**
 * {label, target, icon} of one call; `target` is one line of plain text, perhaps empty.
 * Paths below `cwd` are shortened.
 */
export function describeTool(name, input, cwd = null) {
  const values = input && typeof input === "object" ? input : {};
  const keys = TARGETS[name];
  const shorten = (part) => (cwd && String(part).startsWith(`${cwd}/`) ? String(part).slice(cwd.length + 1) : part);
  const parts = keys ? keys.map((key) => values[key]) : [Object.values(values).find(isText)];
  return {
    label: toolLabel(name),
    target: oneLine(parts.filter((part) => part !== undefined && part !== null).map(shorten).join("  ")),
    icon: ICONS[name] ?? "tool",
  };
}

/** `mcp__server__tool` as "server: tool", anything else as it is. */
export function toolLabel(name) {
  const match = /^mcp__(.+?)__(.+)$/.exec(name ?? "");
  return match ? `${match[1]}: ${match[2]}` : (name ?? "Tool");
}

function isText(value) {
  return typeof value === "string" && value !== "";
}

function oneLine(text) {
  const flat = text.replace(/\s+/g, " ").trim();
  return flat.length > 300 ? `${flat.slice(0, 299)}…` : flat;
}

/**
 * What an approval shows, as parts in order: {kind:"code"|"text"|"path"|"removed"|"added"|"markdown", label, text}.
 * Every value of the input appears in some part: nothing that will run is hidden.
 */
export function approvalParts(tool, input) {
  const values = input && typeof input === "object" ? { ...input } : {};
  const parts = [];
  const take = (key, kind, label) => {
    if (typeof values[key] !== "string") return;
    parts.push({ kind, label, text: values[key] });
    delete values[key];
  };
  if (tool === "Bash") {
    take("command", "code", "Command");
    take("description", "text", "Described as");
  } else if (tool === "ExitPlanMode") {
    take("plan", "markdown", "Plan");
  } else {
    take("file_path", "path", "File");
    take("notebook_path", "path", "Notebook");
    take("url", "path", "Address");
    take("old_string", "removed", "Removes");
    take("new_string", "added", "Puts in");
    take("content", "added", "Content");
  }
  if (Object.keys(values).length > 0) {
    parts.push({ kind: "code", label: parts.length ? "Also" : "Input", text: JSON.stringify(values, null, 2) });
  }
  return parts;
}

/** What "always" would make the CLI remember, word for word as the server told it; [] when nothing can be. */
export function ruleWords(remembers) {
  return Array.isArray(remembers) ? remembers.filter((text) => typeof text === "string" && text) : [];
}

const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\u{e0000}-\u{e007f}]/gu;

/** Text with characters that could hide or reorder what will run written as ⟨U+202E⟩. */
export function revealed(text) {
  return text.replace(INVISIBLE, (char) => {
    const code = char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return `⟨U+${code}⟩`;
  });
}

/** The text of a tool_result's content: a string, or blocks of which only text is shown. */
export function resultText(content) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return "";
  return content.map((block) => (block?.type === "text" ? block.text : `[${block?.type ?? "block"}]`)).join("\n");
}

/** Terminal output without its colour and cursor sequences. */
export function withoutAnsi(text) {
  return text.replace(/\u001b\[[0-9;?]*[ -/]*[@-~]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)/g, "");
}
