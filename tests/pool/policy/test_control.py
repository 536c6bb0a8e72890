"""What clients may have sent to the CLI."""

from __future__ import annotations

from typing import Any

import pytest

from pool.errors import BadRequest, Forbidden
from pool.policy.control import check_allowed_mode, check_client_control

MODES = ("default", "acceptEdits", "plan")


def test_the_three_that_clients_may_send() -> None:
    assert check_client_control("set_model", "opus", MODES) == {"model": "opus"}
    assert check_client_control("set_model", None, MODES) == {"model": None}
    assert check_client_control("set_permission_mode", "plan", MODES) == {"mode": "plan"}
    assert check_client_control("interrupt", None, MODES) == {"cancel_queued": True}


@pytest.mark.parametrize(
    "subtype",
    [
        "read_file",
        "set_cwd",
        "mcp_call",
        "apply_flag_settings",
        "initialize",
        "end_session",
        "",
        None,
        7,
        ["x"],
    ],
)
def test_all_others_are_forbidden(subtype: Any) -> None:
    with pytest.raises(Forbidden):
        check_client_control(subtype, "x", MODES)


@pytest.mark.parametrize("mode", ["bypassPermissions", "auto", "dontAsk", "Plan", ""])
def test_modes_outside_the_configured_ones_are_forbidden(mode: str) -> None:
    with pytest.raises(Forbidden):
        check_client_control("set_permission_mode", mode, MODES)


def test_a_mode_that_the_pool_cannot_have_stays_refused_even_when_configured() -> None:
    with pytest.raises(BadRequest):
        check_allowed_mode("bypassPermissions", (*MODES, "bypassPermissions"))


@pytest.mark.parametrize("value", [None, 7, ["plan"]])
def test_a_mode_is_text(value: Any) -> None:
    with pytest.raises(BadRequest):
        check_client_control("set_permission_mode", value, MODES)


@pytest.mark.parametrize("value", ["--dangerously-skip-permissions", "", 7, "a b"])
def test_a_model_is_a_name(value: Any) -> None:
    with pytest.raises(BadRequest):
        check_client_control("set_model", value, MODES)
