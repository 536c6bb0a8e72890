/**
 * The to-do list of a session, read from its tool calls. No DOM.
 */

const NAMES = new Set(["TodoWrite", "TaskCreate", "TaskUpdate", "TaskList"]);

/** Does this tool change the to-do list? */
export function isTodoTool(name) {
  return NAMES.has(name);
}

/** [{id, text, status}] after all `tools`, oldest first; status is pending, in_progress or completed. */
export function todosOf(tools) {
  let list = [];
  for (const tool of tools) {
    if (tool.status === "error" || tool.status === "denied") continue;
    list = STEPS[tool.name](list, tool.input ?? {}, tool.structured ?? {});
  }
  return list;
}

function entry(raw, id) {
  const text = raw.status === "in_progress" && raw.activeForm ? raw.activeForm : (raw.subject ?? raw.content);
  return { id: String(raw.id ?? id), text: String(text ?? ""), status: raw.status ?? "pending" };
}

const STEPS = {
  TodoWrite(_list, input, result) {
    const todos = result.newTodos ?? input.todos;
    return Array.isArray(todos) ? todos.map((todo, index) => entry(todo, index + 1)) : [];
  },

  TaskCreate(list, input, result) {
    const made = entry({ ...input, ...result.task, status: "pending" }, list.length + 1);
    return [...list.filter((todo) => todo.id !== made.id), made];
  },

  TaskUpdate(list, input) {
    const id = String(input.taskId ?? input.id ?? "");
    if (input.status === "deleted") return list.filter((todo) => todo.id !== id);
    return list.map((todo) => (todo.id === id ? updated(todo, input) : todo));
  },

  TaskList(list, _input, result) {
    return Array.isArray(result.tasks) ? result.tasks.map((task, index) => entry(task, index + 1)) : list;
  },
};

function updated(todo, input) {
  return { ...todo, text: String(input.subject ?? todo.text), status: input.status ?? todo.status };
}
