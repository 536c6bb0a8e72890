"""What ``claude-pool ps`` prints."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from server.process_tables import process_tables


def printed(found: dict[str, Any]) -> str:
    console = Console(width=200, force_terminal=False)
    with console.capture() as captured:
        for table in process_tables(found, 100.0):
            console.print(table)
    return captured.get()


def instance(user: str, host: str) -> dict[str, Any]:
    tree = {"rss_bytes": 3 << 20, "cpu_seconds": 1.0, "processes": 2, "threads": 4}
    about = {"user_id": user, "session_id": "default", "state": "ready", "pid": 7, "started_at": 90.0}
    return {**about, "turns": 1, "rss_bytes": 0, "cpu_seconds": 0.0, "host": host, "tree": tree}


def host(name: str, trouble: str = "") -> dict[str, Any]:
    counts = {"slots": 9, "slots_taken": 1, "waiting": 2, "users": 3}
    return {"name": name, "is_reached": not trouble, "trouble": trouble, **counts}


def test_one_machine_needs_no_word_of_hosts() -> None:
    text = printed({"instances": [instance("alice", "local")], "orphans": [], "hosts": [host("local")]})
    assert "alice" in text
    assert "host" not in text


def test_instances_are_told_with_their_hosts_and_hosts_with_what_is_wrong() -> None:
    hosts = [host("local"), host("far", "the link is cut")]
    instances = [instance("alice", "local"), instance("bob", "far")]
    lines = printed({"instances": instances, "orphans": [], "hosts": hosts}).splitlines()
    (bob,) = (line for line in lines if "bob" in line)
    assert bob.split()[-1] == "far"
    (far,) = (line for line in lines if "the link is cut" in line)
    assert far.split()[:5] == ["far", "1", "9", "2", "3"]
