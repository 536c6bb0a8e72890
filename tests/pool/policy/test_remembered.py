"""What would be remembered: told word for word, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.policy.remembered import remembered

MODES = ("default", "acceptEdits", "plan")


def rules(*items: object, **more: Any) -> dict[str, Any]:
    return {
        "type": "addRules",
        "behavior": "allow",
        "rules": list(items),
        "destination": "localSettings",
    } | more


@pytest.mark.parametrize(
    ("suggestion", "text"),
    [
        (rules({"toolName": "Bash", "ruleContent": "make:*"}), "Bash(make:*)"),
        (rules({"toolName": "WebFetch"}), "every WebFetch"),
        (rules({"toolName": "A", "ruleContent": "b"}, {"toolName": "C"}), "A(b), every C"),
        ({"type": "setMode", "mode": "acceptEdits", "destination": "session"}, "all file edits"),
        ({"type": "addDirectories", "directories": ["/a", "/b"]}, "files in /a, files in /b"),
    ],
)
def test_what_can_be_told_is_told(suggestion: dict[str, Any], text: str) -> None:
    (one,) = remembered([suggestion], MODES)
    assert one.text == text
    assert "destination" not in one.update
    assert one.update["type"] == suggestion["type"]


@pytest.mark.parametrize(
    "suggestion",
    [
        {"type": "setMode", "mode": "bypassPermissions"},
        {"type": "setMode", "mode": "dontAsk"},
        {"type": "removeRules", "rules": [{"toolName": "Bash"}], "behavior": "deny"},
        {"type": "replaceRules", "rules": [{"toolName": "Bash"}], "behavior": "allow"},
        rules({"toolName": "Bash"}, behavior="deny"),
        rules(),
        rules({"toolName": "Bash", "ruleContent": 7}),
        rules({"toolName": "Bash", "more": "x"}),
        rules({"toolName": "Bash", "ruleContent": "a"}, "odd"),
        rules({"ruleContent": "a"}),
        {"type": "addDirectories", "directories": ["/a", 3]},
        {"type": "addDirectories", "directories": []},
        {},
        "odd",
    ],
)
def test_what_cannot_is_not_agreed_to(suggestion: object) -> None:
    assert remembered([suggestion], (*MODES, "dontAsk", "bypassPermissions")) == []


def test_a_mode_that_users_may_not_choose_is_not_come_by_through_an_approval() -> None:
    suggestion = {"type": "setMode", "mode": "acceptEdits"}
    assert remembered([suggestion], ("default", "plan")) == []


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["addRules", "setMode", "x"])},
            optional={"rules": json_like, "behavior": json_like, "mode": json_like},
        )
        | json_like
    )
    | json_like
)
def test_any_suggestion_is_taken_or_left(suggestions: Any) -> None:
    for one in remembered(suggestions, MODES):
        assert one.text
