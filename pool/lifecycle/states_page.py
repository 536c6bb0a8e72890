"""Prints ``docs/states.md`` from the tables: ``python -m pool.lifecycle.states_page > docs/states.md``."""

from __future__ import annotations

import sys
from enum import Enum
from typing import TypeVar

from pool.lifecycle import instance, session, turn
from pool.lifecycle.table import Table

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)
C = TypeVar("C", bound=Enum)

_HEAD = """# State machines

Generated from the tables in `pool/lifecycle/` by `python -m pool.lifecycle.states_page`; a test compares
this page with the code. The reasons stand at the head of each of the three files.

A row says: in this state, on this event, go there and do that, in this order. An event without a row is a
defect and raises `InvalidTransition` with the machine's story.
"""


def render() -> str:
    """The whole page."""
    parts = [
        _HEAD,
        _machine("Instance", instance.INSTANCE_TABLE, instance.__doc__),
        _machine("Turn", turn.TURN_TABLE, turn.__doc__),
        _machine("Session", session.SESSION_TABLE, session.__doc__),
    ]
    return "\n".join(parts)


def _machine(title: str, table: Table[S, E, C], essay: str | None) -> str:
    first_line = (essay or "").strip().partition("\n")[0]
    ends = [f"`{state.value}`" for state, row in table.rows.items() if not row]
    ending = f"Ends: {', '.join(ends)}." if ends else "It has no end."
    return "\n".join(
        [
            f"## {title}",
            "",
            first_line,
            "",
            f"Begins: `{table.initial.value}`. {ending}",
            "",
            *_diagram(table),
            "",
            "| state | event | next | commands |",
            "|---|---|---|---|",
            *_rows(table),
            "",
        ]
    )


def _rows(table: Table[S, E, C]) -> list[str]:
    lines = []
    for state, row in table.rows.items():
        for event, (target, commands) in row.items():
            doing = ", ".join(command.value for command in commands) or "–"
            lines.append(f"| {state.value} | {event.value} | {target.value} | {doing} |")
    return lines


def _diagram(table: Table[S, E, C]) -> list[str]:
    edges: dict[tuple[str, str], list[str]] = {}
    for state, row in table.rows.items():
        for event, (target, _) in row.items():
            if target is not state:
                edges.setdefault((state.value, target.value), []).append(event.value)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {table.initial.value}"]
    lines += [f"    {source} --> {target}: {', '.join(names)}" for (source, target), names in edges.items()]
    lines += [f"    {state.value} --> [*]" for state, row in table.rows.items() if not row]
    return [*lines, "```"]


if __name__ == "__main__":
    sys.stdout.write(render())
