"""The tables of ``claude-pool ps``, as ``/proc`` has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

_HERE = "local"
_COLUMNS = ("user", "session", "state", "pid", "rss", "cpu", "age", "turns", "processes", "threads")


def process_tables(found: Mapping[str, Any], now: float) -> Iterator[Table]:
    """The live instances, each with its whole tree; the hosts where there are others; orphans, if any.

    ``found`` is the answer of the operation ``ps``; ``now`` is in seconds
    since 1970. Memory that processes share is counted for each of them.
    """
    has_hosts = any(host["name"] != _HERE for host in found["hosts"])
    table = Table(*_COLUMNS, *(["host"] if has_hosts else []), box=None)
    for one in found["instances"]:
        tree = one["tree"] or {**one, "processes": "", "threads": ""}
        table.add_row(
            one["user_id"],
            one["session_id"],
            one["state"],
            str(one["pid"] or ""),
            _mebibytes(tree["rss_bytes"]),
            _seconds(tree["cpu_seconds"], 1),
            _seconds(now - one["started_at"]),
            str(one["turns"]),
            str(tree["processes"]),
            str(tree["threads"]),
            *([one["host"]] if has_hosts else []),
        )
    yield table
    if has_hosts:
        yield _hosts(found["hosts"])
    if found["orphans"]:
        yield _orphans(found["orphans"])


def _hosts(hosts: list[Mapping[str, Any]]) -> Table:
    table = Table("host", "instances", "of", "waiting", "users", "", box=None)
    for one in hosts:
        counts = (one["slots_taken"], one["slots"], one["waiting"], one["users"])
        state = "reached" if one["is_reached"] else f"not reached: {one['trouble']}"
        table.add_row(one["name"], *map(str, counts), state)
    return table


def _orphans(orphans: list[Mapping[str, Any]]) -> Table:
    title = "orphans: processes of ours that belong to no instance"
    table = Table("pid", "parent", "name", "instance", "rss", "cpu", "age", title=title, box=None)
    for one in orphans:
        table.add_row(
            str(one["pid"]),
            str(one["parent"]),
            one["name"],
            one["instance_id"],
            _mebibytes(one["rss_bytes"]),
            _seconds(one["cpu_seconds"], 1),
            _seconds(one["age_seconds"]),
        )
    return table


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def _seconds(value: float, digits: int = 0) -> str:
    return f"{max(0.0, value):.{digits}f} s"
