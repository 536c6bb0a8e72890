"""The operations behind the commands: the same with a server running (by the control socket) and without."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from pool.errors import BadRequest, Conflict
from server.audit import AuditBook
from server.auth.sign_in import SignIn
from server.auth.users import Users, user_object
from server.door import Pool
from server.objects import instance_object

Operation = Callable[[Mapping[str, Any]], Awaitable[Any]]

LINK_SECONDS = 86400.0


class Operations:
    """Carries them out. ``pool`` is None beside no server; ``address`` is what links begin with."""

    def __init__(
        self, users: Users, sign_in: SignIn, pool: Pool | None, address: str, audit: AuditBook
    ) -> None:
        self._users = users
        self._sign_in = sign_in
        self._pool = pool
        self._address = address
        self._audit = audit
        self._operations: dict[str, Operation] = {
            "user_add": self._user_add,
            "user_list": self._user_list,
            "user_disable": self._user_disable,
            "user_delete": self._user_delete,
            "user_exported": self._user_exported,
            "user_password": self._user_password,
            "user_link": self._user_link,
            "token_create": self._token_create,
            "audit_noted": self._audit_noted,
            "ps": self._ps,
            "drain": self._drain,
            "resume": self._resume,
        }

    async def run(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """The result, fit for JSON. Raises ``BadRequest`` for an unknown name, else what happens."""
        operation = self._operations.get(name)
        if operation is None:
            raise BadRequest(f"there is no operation {name!r}")
        return await operation(arguments)

    @property
    def _live_pool(self) -> Pool:
        if self._pool is None:
            raise Conflict("no server is running on this data directory")
        return self._pool

    async def _user_add(self, arguments: Mapping[str, Any]) -> Any:
        account = await self._users.add(
            arguments["name"], password=arguments.get("password"), admin=bool(arguments.get("admin"))
        )
        return user_object(account)

    async def _user_list(self, _arguments: Mapping[str, Any]) -> Any:
        return [user_object(account) for account in await self._users.everyone()]

    async def _user_disable(self, arguments: Mapping[str, Any]) -> Any:
        await self._users.set_disabled(arguments["name"], not arguments.get("enable"))
        return {}

    async def _user_delete(self, arguments: Mapping[str, Any]) -> Any:
        await self._users.delete(arguments["name"], keep_workspace=bool(arguments.get("keep_workspace")))
        return {}

    async def _user_exported(self, arguments: Mapping[str, Any]) -> Any:
        """The command reads the data itself; here it is written down that it does."""
        account = await self._sign_in.account(arguments["name"])
        await self._audit.tell("user.exported", user_id=account.user_id)
        return {}

    async def _user_password(self, arguments: Mapping[str, Any]) -> Any:
        await self._users.set_password(arguments["name"], arguments["password"])
        return {}

    async def _user_link(self, arguments: Mapping[str, Any]) -> Any:
        code = await self._sign_in.make_link(arguments["name"], LINK_SECONDS)
        return {"url": f"{self._address}/#signin={code}"}

    async def _token_create(self, arguments: Mapping[str, Any]) -> Any:
        account = await self._sign_in.account(arguments["user"])
        issued = await self._sign_in.issue(
            account, kind="api", ttl_seconds=arguments.get("ttl"), scopes=arguments.get("scopes") or ()
        )
        return {"token": issued.token}

    async def _audit_noted(self, arguments: Mapping[str, Any]) -> Any:
        """The log itself is read by the command; here it is written down that it is."""
        what = arguments["what"]
        if what not in ("verified", "exported"):
            raise BadRequest(f"there is no audit.{what}")
        await self._audit.tell(f"audit.{what}", after=arguments.get("after"), user=arguments.get("user"))
        return {}

    async def _ps(self, _arguments: Mapping[str, Any]) -> Any:
        pool = self._live_pool
        report = await pool.process_report()
        instances = []
        for info in pool.instances():
            tree = report.trees.get(info.id)
            about = {"host": info.host, "tree": msgspec.to_builtins(tree)}
            instances.append(instance_object(info) | about)
        orphans = msgspec.to_builtins(list(report.orphans))
        return {"instances": instances, "orphans": orphans, "hosts": pool.hosts()}

    async def _drain(self, _arguments: Mapping[str, Any]) -> Any:
        pool = self._live_pool
        await self._audit.tell("server.drain")
        pool.drain()
        return {}

    async def _resume(self, _arguments: Mapping[str, Any]) -> Any:
        pool = self._live_pool
        await self._audit.tell("server.resume")
        pool.resume()
        return {}


def encode(value: Any) -> bytes:
    """One line of the control socket."""
    return msgspec.json.encode(value, enc_hook=str) + b"\n"
