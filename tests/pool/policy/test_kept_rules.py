"""What is kept for a session's next instance is what the card told, and means the same there."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.policy.kept_rules import kept_texts, kept_with, settings_of
from pool.policy.remembered import Remembered, remembered

MODES = ("default", "acceptEdits")


def agreed(*rules: dict[str, Any], directories: list[str] | None = None) -> list[Remembered]:
    suggestions: list[dict[str, Any]] = [{"type": "setMode", "mode": "acceptEdits"}]
    if rules:
        suggestions.append({"type": "addRules", "behavior": "allow", "rules": list(rules)})
    if directories:
        suggestions.append({"type": "addDirectories", "directories": directories})
    return remembered(suggestions, MODES)


def bash(content: str) -> dict[str, Any]:
    return {"toolName": "Bash", "ruleContent": content}


def test_rules_and_directories_add_up_and_nothing_is_kept_twice() -> None:
    kept = kept_with(None, agreed(bash("ls:*"), directories=["/a"]))
    kept = kept_with(kept, agreed(bash("ls:*"), {"toolName": "WebFetch"}, directories=["/a", "/b"]))
    assert kept_texts(kept) == ["Bash(ls:*)", "every WebFetch", "files in /a", "files in /b"]
    assert settings_of(kept) == {
        "permissions": {"allow": ["Bash(ls:*)", "WebFetch"], "additionalDirectories": ["/a", "/b"]}
    }


def test_parentheses_are_written_as_the_cli_reads_them() -> None:
    settings = settings_of(kept_with(None, agreed(bash("echo (x) a\\b, c:*"))))
    assert settings == {"permissions": {"allow": ["Bash(echo \\(x\\) a\\\\b, c:*)"]}}


@pytest.mark.parametrize(
    ("content", "is_kept"), [("//etc/**", True), ("~/notes/**", True), ("/src/**", False), ("src/**", False)]
)
def test_a_path_that_would_mean_another_place_is_not_kept(content: str, is_kept: bool) -> None:
    kept = kept_with(None, agreed({"toolName": "Read", "ruleContent": content}, directories=["relative"]))
    assert kept_texts(kept) == ([f"Read({content})"] if is_kept else [])


def test_nothing_kept_is_nothing_to_tell() -> None:
    assert settings_of(None) is settings_of(kept_with(None, agreed())) is None
    assert kept_texts(None) == []


@given(st.lists(st.text(min_size=1, max_size=30_000), max_size=6))
def test_what_is_kept_is_bounded_and_the_newest_stays(contents: list[str]) -> None:
    kept = None
    for content in contents:
        kept = kept_with(kept, agreed(bash(content)))
        rules = [rule["ruleContent"] for rule in kept["rules"]]
        assert sum(map(len, rules)) <= 65536
        assert not rules or rules[-1] == content or content in rules
