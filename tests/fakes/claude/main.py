"""The entry point: arguments and plan, then the process."""

from __future__ import annotations

import json
import os
import re
import signal
import sys

from .process import Claude
from .transcript import leave

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

VERSION = "2.1.329"
SWITCHES = ("--print", "-p", "--verbose", "--include-partial-messages", "--fork-session", "--bare")
SHORT = {"-v": "--version", "-r": "--resume", "-c": "--continue"}
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def parse(argv: list[str]) -> dict[str, str]:
    """Options by name, ``--name value`` and ``--name=value`` alike (argparse is slow to import)."""
    options: dict[str, str] = {}
    words = iter(argv)
    last = ""
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("-") and len(word) > 1:
            last = SHORT.get(name, name)
            options[last] = value if equals else ""
        elif last and last not in SWITCHES and not options[last]:
            options[last] = word
    return options


def check(options: dict[str, str]) -> None:
    """Leave as the CLI does when the arguments cannot work together."""
    if "--version" in options:
        os.write(1, f"{VERSION} (Claude Code)\n".encode())
        leave(0)
    if options.get("--input-format") != "stream-json" or options.get("--output-format") != "stream-json":
        leave(1, "Error: the fake speaks stream-json only: --input-format and --output-format")
    if "--verbose" not in options:
        leave(1, "Error: When using --print, --output-format=stream-json requires --verbose")
    for name in ("--session-id", "--resume"):
        if name in options and not UUID.fullmatch(options[name]):
            leave(1, f"Error: Invalid session ID for {name}. Must be a valid UUID.")
    if "--session-id" in options and "--resume" in options and "--fork-session" not in options:
        leave(1, "Error: --session-id can only be used with --resume if --fork-session is also specified.")


def read_plan() -> dict[str, Any]:
    """The plan of the workspace, else the environment's, else only its start."""
    for path in (".fake-claude.json", os.environ.get("FAKE_CLAUDE_PLAN", "")):
        if path and os.path.exists(path):
            with open(path) as file:
                plan: dict[str, Any] = json.load(file)
            return plan
    return {"start": os.environ.get("FAKE_CLAUDE_START", "")}


def main() -> NoReturn:
    """Be the CLI."""
    options = parse(sys.argv[1:])
    check(options)
    signal.signal(signal.SIGTERM, lambda *_: leave(143))
    signal.signal(signal.SIGINT, lambda *_: leave(0))
    try:
        Claude(options, read_plan()).run()
    except BrokenPipeError:
        leave(0)
