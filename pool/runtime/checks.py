"""The slow facts behind ``GET /health``, looked at in the background so that the page never waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pool.errors import PoolError
from pool.runtime.surroundings import Surroundings


class Checks:
    """Named checks: ``{"ok": bool, "detail": text}``."""

    def __init__(self, surroundings: Surroundings, watched: Callable[[], dict[str, dict[str, Any]]]) -> None:
        self._around = surroundings
        self._watched = watched
        self._database: dict[str, Any] = {"ok": True, "detail": "not asked yet"}

    def results(self) -> dict[str, dict[str, Any]]:
        """What is known now."""
        return {
            "keeper": self._keeper(),
            "isolation": self._isolation(),
            "gateway": self._gateway(),
            "launches": self._around.launches.health(),
            **self._watched(),
            "database": self._database,
            "cli": dict(self._around.cli_check),
        }

    @property
    def database_trouble(self) -> str | None:
        """Why the database took nothing when it was last asked; None when it did."""
        return None if self._database["ok"] else str(self._database["detail"])

    async def run(self) -> None:
        """Ask what takes time."""
        try:
            await self._around.store.check()
        except PoolError as error:
            self._database = {"ok": False, "detail": error.message}
        else:
            self._database = {"ok": True, "detail": "answers"}

    def _keeper(self) -> dict[str, Any]:
        up = self._around.keeper_is_back.is_set()
        return {"ok": up, "detail": "attached" if up else "gone; another one is being started"}

    def _gateway(self) -> dict[str, Any]:
        uid, obstacle = self._around.launcher.gateway_user()
        who = "the service's own user" if uid is None else f"uid {uid}, without any rights"
        detail = f"the model gateway runs as {who}"
        return {"ok": True, "detail": f"{detail}; {obstacle}" if obstacle else detail, "uid": uid}

    def _isolation(self) -> dict[str, Any]:
        mode, network, remedies = self._around.launcher.describe_isolation()
        kept_apart = mode == "bwrap" and network != "open"
        detail = f"mode {mode}, network {network}"
        if not kept_apart:
            detail += ": users are not kept apart"
        detail += "".join(f"; {remedy}" for remedy in remedies)
        return {"ok": kept_apart, "detail": detail, "mode": mode, "network": network}
