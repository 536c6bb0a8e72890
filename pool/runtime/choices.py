"""What a user chooses for a session and what outlives its instance: the model, the permission mode."""

from __future__ import annotations

from typing import Any

from pool.errors import BadRequest
from pool.model import InstanceState
from pool.policy.control import check_allowed_mode
from pool.runtime import auditing
from pool.runtime.session import Session


async def set_model(session: Session, model: str | None) -> None:
    """Take another model, now if live and for every later instance. Raises ``BadRequest``."""
    await _tell(session, "set_model", {"model": model})
    session.patch(model=model)


async def set_permission_mode(session: Session, mode: str) -> None:
    """Take another permission mode. Raises ``Forbidden`` for one that is not configured."""
    check_allowed_mode(mode, session.around.config.permission_modes)
    await _tell(session, "set_permission_mode", {"mode": mode})
    session.patch(permission_mode=mode)
    session.log.change(auditing.mode_changed(session, mode))


async def _tell(session: Session, subtype: str, fields: dict[str, Any]) -> None:
    instance = session.instance
    if instance is not None and instance.state in (InstanceState.READY, InstanceState.BUSY):
        answer = await instance.ask(subtype, **fields)
        if not answer.ok:
            raise BadRequest(f"the CLI refused {subtype}: {answer.error}")
