"""The demo model's errands: phrases that use one of the CLI's tools, and the words that close them. Pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from server.gateway.demo.answer import Answer, Block, Reply, Text, ToolUse
from server.gateway.demo.conversation import Conversation, ToolOutcome
from server.gateway.demo.pieces import in_pieces

_QUOTED_OUTPUT_CHARS = 4000
_EMPTY_FILE = "Made by the demo model of Claude Pool.\n"


def create_file(match: re.Match[str], conversation: Conversation) -> Answer:
    """``create a file NAME [with TEXT]``: the tool Write."""
    name = _name(match)
    content = match["text"].strip() + "\n" if match["text"] else _EMPTY_FILE
    use = ToolUse("Write", {"file_path": _path(name, conversation), "content": content})
    return _errand(conversation, f"I will create `{name}`.", (use,), f"Done: `{name}` is written.")


def list_files(_match: re.Match[str], conversation: Conversation) -> Answer:
    """``list my files``: Bash, else LS, else Glob."""
    where = conversation.cwd or "."
    for use in (
        ToolUse("Bash", {"command": "ls -la", "description": "List the files here"}),
        ToolUse("LS", {"path": where}),
        ToolUse("Glob", {"pattern": "*", "path": where}),
    ):
        if use.name in conversation.tools:
            return _errand(conversation, "Let me look.", (use,), "These are your files:")
    return _cannot("Bash")


def read_file(match: re.Match[str], conversation: Conversation) -> Answer:
    """``read NAME``: the tool Read."""
    name = _name(match)
    use = ToolUse("Read", {"file_path": _path(name, conversation)})
    return _errand(conversation, f"I will read `{name}`.", (use,), f"`{name}` holds:")


def run_command(match: re.Match[str], conversation: Conversation) -> Answer:
    """``run COMMAND``: the tool Bash."""
    command = (match["ticked"] or match["command"]).strip()
    use = ToolUse("Bash", {"command": command, "description": "Run what the user asked for"})
    return _errand(conversation, f"I will run `{command}`.", (use,), f"`{command}` printed:")


def make_todo_list(match: re.Match[str], conversation: Conversation) -> Answer:
    """``make a todo list of A, B, C``: TaskCreate for each, else TodoWrite."""
    things = [thing.strip(" .!") for thing in re.split(r",|\band\b", match["things"]) if thing.strip(" .!")]
    uses: tuple[ToolUse, ...]
    if "TaskCreate" in conversation.tools:
        uses = tuple(
            ToolUse("TaskCreate", {"subject": t, "description": f"{t} (demo model)"}) for t in things
        )
    elif "TodoWrite" in conversation.tools:
        todos = [{"content": t, "status": "pending", "activeForm": t} for t in things]
        uses = (ToolUse("TodoWrite", {"todos": todos}),)
    elif "ToolSearch" in conversation.tools and not conversation.outcomes:
        return _reply(
            "I need the list's tool first.",
            ToolUse("ToolSearch", {"query": "select:TaskCreate", "max_results": 1}),
        )
    else:
        return _cannot("TaskCreate")
    done = [o for o in conversation.outcomes if o.name in ("TaskCreate", "TodoWrite")]
    if not done:
        return _reply("I will note that down.", *uses)
    if any(o.is_error for o in done):
        return _reply(_closing("", done))
    return _reply("Your list: " + ", ".join(things) + ". (Noted by the demo model.)")


def _errand(conversation: Conversation, opening: str, uses: tuple[ToolUse, ...], closing: str) -> Answer:
    """Ask for the tools at first; close with what came back."""
    if conversation.outcomes:
        return _reply(_closing(closing, conversation.outcomes))
    missing = [use.name for use in uses if use.name not in conversation.tools]
    return _cannot(missing[0]) if missing else _reply(opening, *uses)


def _closing(words: str, outcomes: tuple[ToolOutcome, ...] | list[ToolOutcome]) -> str:
    failed = [outcome for outcome in outcomes if outcome.is_error]
    if failed:
        return f"That did not work. {failed[0].name} said:\n{_quoted(failed[0].text)}"
    if words.endswith(":"):
        return words + "\n" + "\n".join(_quoted(outcome.text) for outcome in outcomes)
    return words + " (I am the demo model.)"


def _quoted(text: str) -> str:
    shown = text.strip() or "(nothing)"
    if len(shown) > _QUOTED_OUTPUT_CHARS:
        shown = shown[:_QUOTED_OUTPUT_CHARS] + "\n…"
    return f"```\n{shown}\n```"


def _cannot(tool: str) -> Reply:
    return _reply(
        f"I am the demo model, and for that I need the tool {tool}, which this session does not offer."
    )


def _reply(words: str, *uses: ToolUse) -> Reply:
    blocks: tuple[Block, ...] = (Text(in_pieces(words)), *uses)
    return Reply(blocks, stop_reason="tool_use" if uses else "end_turn")


def _name(match: re.Match[str]) -> str:
    return (match["ticked"] or match["quoted"] or match["name"]).strip()


def _path(name: str, conversation: Conversation) -> str:
    if conversation.cwd is None or name.startswith(("/", "~")):
        return name
    return str(PurePosixPath(conversation.cwd) / name)
