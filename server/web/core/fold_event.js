/**
 * The CLI's own stream-json folded into a session's model (see model.js).
 *
 * The rules that matter: an answer is built from `assistant` frames only.
 * Deltas are shown until then, in `model.open`, and are void after
 * `system/api_retry`, a new `message_start`, or a `message_stop` that had no
 * `message_delta` before it.
 */

import { addItem, contentText, settlePending, touch } from "./model.js";
import { isTodoTool } from "./todos.js";
import { resultText, withoutAnsi } from "./tools.js";

const OUTPUT_KEPT = 400000;

/** Fold one stream-json frame. Unknown ones are ignored. */
export function foldEvent(model, event) {
  const step = STEPS[event.type];
  if (step) step(model, event);
}

function firstTime(model, event) {
  if (!event.uuid) return true;
  if (model.seen.has(event.uuid)) return false;
  model.seen.add(event.uuid);
  return true;
}

const STEPS = {
  stream_event(model, event) {
    if (event.parent_tool_use_id) return;
    DELTAS[event.event?.type]?.(model, event.event);
  },

  assistant(model, event) {
    const message = event.message ?? {};
    const blocks = Array.isArray(message.content) ? message.content : [];
    if (!event.parent_tool_use_id) for (const block of blocks) finishOpen(model, message.id, block);
    if (!firstTime(model, event)) return;
    model.retry = null;
    blocks.forEach((block, index) => addBlock(model, event, block, `${event.uuid ?? message.id}:${index}`));
  },

  user(model, event) {
    if (!firstTime(model, event)) return;
    const content = event.message?.content;
    const results = Array.isArray(content) ? content.filter((block) => block.type === "tool_result") : [];
    for (const block of results) finishTool(model, event, block);
    if (results.length > 0 || event.parent_tool_use_id) return;
    if (event.isReplay) addEcho(model, event, content);
    else addUserNotice(model, event, contentText(content) ?? "");
  },

  result(model, event) {
    model.open = null;
    model.retry = null;
    if (!firstTime(model, event)) return;
    const usage = event.usage ?? {};
    // No cost: the CLI's figure follows its own price list and counts on over turns.
    model.usage = {
      input: (usage.input_tokens ?? 0) + (usage.cache_creation_input_tokens ?? 0),
      cached: usage.cache_read_input_tokens ?? 0,
      output: usage.output_tokens ?? 0,
      milliseconds: event.duration_ms ?? null,
      fresh: true,
    };
  },

  system(model, event) {
    SYSTEM[event.subtype]?.(model, event);
  },

  tool_progress(model, event) {
    const item = model.byId.get(event.tool_use_id);
    if (item?.status === "running") touch(item, { elapsed: event.elapsed_time_seconds });
  },

  conversation_reset(model, event) {
    if (!firstTime(model, event)) return;
    notice(model, event, "The conversation was cleared: Claude no longer sees what is above.");
  },
};

const DELTAS = {
  message_start(model, { message }) {
    model.open = { id: message?.id ?? null, blocks: [], ended: false };
    model.retry = null;
  },

  content_block_start(model, { index, content_block: block }) {
    model.open ??= { id: null, blocks: [], ended: false };
    const text = block?.text ?? block?.thinking ?? "";
    const { type, id: toolId, name } = block ?? {};
    model.open.blocks.push({ index, type, toolId, name, text, size: 0, done: false, rev: 0 });
    model.activity = { thinking: "thinking", tool_use: "tool" }[type] ?? "writing";
  },

  content_block_delta(model, { index, delta }) {
    // A block whose start this client did not get would begin in mid-word: its assistant frame brings it.
    const block = model.open?.blocks.findLast((one) => one.index === index);
    if (!block || block.done || !delta) return;
    if (delta.type === "text_delta") block.text += delta.text ?? "";
    else if (delta.type === "thinking_delta") block.text += delta.thinking ?? "";
    else if (delta.type === "input_json_delta") block.size += delta.partial_json?.length ?? 0;
    block.rev += 1;
  },

  message_delta(model) {
    if (model.open) model.open.ended = true;
  },

  message_stop(model) {
    model.open = null;
    model.activity = "working";
  },
};

const SYSTEM = {
  init(model, event) {
    model.cwd = event.cwd ?? model.cwd;
    model.model = event.model ?? model.model;
    model.mode = event.permissionMode ?? model.mode;
  },

  status(model, event) {
    if (event.permissionMode) model.mode = event.permissionMode;
    if (event.status === "compacting") model.activity = "compacting";
    else if (event.status === "requesting") model.activity = "working";
  },

  api_retry(model, event) {
    model.open = null;
    const { attempt, max_retries: limit, retry_delay_ms: delay, error, error_status: status } = event;
    model.retry = { attempt, limit, delay, error: error ?? "unknown", status: status ?? null };
  },

  thinking_tokens(model) {
    model.activity = "thinking";
  },

  compact_boundary(model, event) {
    if (firstTime(model, event)) notice(model, event, "Earlier messages were summarised to make room.");
  },

  permission_denied(model, event) {
    const item = model.byId.get(event.tool_use_id);
    if (item) touch(item, { status: "denied", output: event.message ?? "" });
  },
};

/** A complete block replaces the deltas that announced it. */
function finishOpen(model, messageId, block) {
  const open = model.open;
  if (!open || (open.id && messageId && open.id !== messageId)) return;
  const twin = open.blocks.find((one) =>
    block.type === "tool_use" ? one.toolId === block.id : !one.done && one.type === block.type,
  );
  if (twin) twin.done = true;
}

function addBlock(model, event, block, id) {
  const parent = event.parent_tool_use_id ?? null;
  if (block.type === "tool_use") {
    addTool(model, block, parent);
  } else if (parent) {
    addChild(model, parent, { kind: "text", id, text: block.text ?? "" });
  } else if (block.type === "text" && block.text) {
    addText(model, event, block.text, id);
  } else if (block.type === "thinking" && block.thinking) {
    addItem(model, { kind: "thinking", id, text: block.thinking });
  }
}

function addText(model, event, text, id) {
  if (event.error) addItem(model, { kind: "notice", level: "error", id, text });
  else addItem(model, { kind: "text", id, text });
}

function addTool(model, block, parent) {
  const { id, name, input } = block;
  const item = { kind: "tool", id, name, input, parent, status: "running", output: "", children: [], cwd: model.cwd };
  const result = model.orphans.get(id);
  if (parent) {
    if (model.byId.has(id)) return;
    item.rev = 0;
    model.byId.set(id, item);
    addChild(model, parent, item);
  } else {
    addItem(model, item);
  }
  if (result) {
    touch(model.byId.get(id), result);
    model.orphans.delete(id);
  }
  if (isTodoTool(name)) model.todoRev += 1;
}

function addChild(model, parentId, child) {
  const parent = model.byId.get(parentId);
  if (!parent?.children || (child.kind === "text" && !child.text)) return;
  child.rev ??= 0;
  parent.children.push(child);
  bubble(model, parent);
}

/** A card inside a card is drawn by the outermost one. */
function bubble(model, item) {
  touch(item, {});
  const parent = item.parent && model.byId.get(item.parent);
  if (parent) bubble(model, parent);
}

function finishTool(model, event, block) {
  const meta = (event.tool_result_meta ?? []).find((one) => one.id === block.tool_use_id);
  const denied = meta?.permission_decision?.decision === "deny";
  let output = withoutAnsi(resultText(block.content));
  if (output.length > OUTPUT_KEPT) output = `${output.slice(0, OUTPUT_KEPT)}\n… (the rest is not shown)`;
  const changes = {
    status: denied ? "denied" : block.is_error ? "error" : "done",
    output,
    structured: isTodoTool(model.byId.get(block.tool_use_id)?.name) ? event.tool_use_result : null,
  };
  const item = model.byId.get(block.tool_use_id);
  if (!item) {
    model.orphans.set(block.tool_use_id, changes);
    return;
  }
  Object.assign(item, changes);
  bubble(model, item);
  if (isTodoTool(item.name)) model.todoRev += 1;
}

/** The CLI says a user's message back when its turn takes it up; its uuid is the turn's id. */
function addEcho(model, event, content) {
  const turn = model.turns.get(event.uuid);
  settlePending(model, event.uuid, turn?.messageId ?? null, turn?.state ?? "running", content);
}

function addUserNotice(model, event, text) {
  const plain = withoutAnsi(text).replace(/<\/?(?:local-)?command-[a-z-]+>/g, "").trim();
  if (!plain || plain.startsWith("[Request interrupted by user")) return;
  notice(model, event, plain);
}

function notice(model, event, text) {
  addItem(model, { kind: "notice", level: "info", id: `notice:${event.uuid ?? model.items.length}`, text });
}
