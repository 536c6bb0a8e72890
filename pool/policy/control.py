"""Which control requests clients may have sent to the CLI: an allow-list.

Most control requests are powers over the machine (``read_file``, ``set_cwd``,
``mcp_call``, ``apply_flag_settings``); a client reaches three of them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pool.errors import BadRequest, Forbidden
from pool.protocol.command_line import check_model, check_permission_mode

CLIENT_CONTROLS = ("set_model", "set_permission_mode", "interrupt")


def check_client_control(subtype: object, value: object, permission_modes: Collection[str]) -> dict[str, Any]:
    """The fields of the control request that a client may have sent.

    ``value`` is the model (None: the default) or the mode; an interrupt has
    none. Raises ``Forbidden`` for any other request and for modes outside
    ``permission_modes``, ``BadRequest`` for a value that is not one at all.
    """
    if subtype == "interrupt":
        return {"cancel_queued": True}
    if subtype == "set_model":
        return {"model": None if value is None else check_model(value)}
    if subtype == "set_permission_mode":
        return {"mode": check_allowed_mode(value, permission_modes)}
    raise Forbidden(f"clients may only send {', '.join(CLIENT_CONTROLS)}")


def check_allowed_mode(value: object, permission_modes: Collection[str]) -> str:
    """A permission mode that is configured. Raises ``Forbidden``, or ``BadRequest`` if it is no text."""
    if not isinstance(value, str):
        raise BadRequest("permission_mode must be text", details={"field": "permission_mode"})
    if value not in permission_modes:
        raise Forbidden(f"permission_mode must be one of {', '.join(permission_modes)}")
    return check_permission_mode(value)
