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
            **self._hosts(),
            "launches": self._launches(),
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
        here = self._around.hosts.here
        if here is None:
            return {"ok": True, "detail": "no instance runs on this machine"}
        up = here.is_reached
        return {"ok": up, "detail": "attached" if up else "gone; another one is being started"}

    def _hosts(self) -> dict[str, dict[str, Any]]:
        """Other machines, where there are any: which cannot be reached, and why."""
        hosts = [host for host in self._around.hosts if not host.is_here]
        away = [f"{host.name} cannot be reached ({host.trouble})" for host in hosts if not host.is_reached]
        if not hosts:
            return {}
        return {"hosts": {"ok": not away, "detail": "; ".join(away) or f"{len(hosts)} reached"}}

    def _launches(self) -> dict[str, Any]:
        hosts = list(self._around.hosts)
        paused = [(host, host.launches.health()) for host in hosts if host.launches.are_paused]
        if not paused:
            return hosts[0].launches.health()
        if len(hosts) == 1:
            return paused[0][1]
        return {"ok": False, "detail": "; ".join(f"{host.name}: {told['detail']}" for host, told in paused)}

    def _gateway(self) -> dict[str, Any]:
        here = self._around.hosts.here
        if here is None:
            return {"ok": True, "detail": "no model gateway runs on this machine", "uid": None}
        uid, obstacle = here.launcher.gateway_user()
        who = "the service's own user" if uid is None else f"uid {uid}, without any rights"
        detail = f"the model gateway runs as {who}"
        return {"ok": True, "detail": f"{detail}; {obstacle}" if obstacle else detail, "uid": uid}

    def _isolation(self) -> dict[str, Any]:
        mode, network, remedies = self._around.hosts.isolation()
        told = [host.launcher.describe_isolation()[:2] for host in self._around.hosts.reached]
        kept_apart = all(one == "bwrap" and other != "open" for one, other in [(mode, network), *told])
        detail = f"mode {mode}, network {network}"
        if not kept_apart:
            detail += ": users are not kept apart"
        detail += "".join(f"; {remedy}" for remedy in remedies)
        return {"ok": kept_apart, "detail": detail, "mode": mode, "network": network}
