"""Commands of root's on a data directory that is a server's: done by a child that is the server's user.

Names there may be the work of a server that was taken over: root opens none of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pool import (
    AuditPlace,
    AuditVerdict,
    PoolConfig,
    SpoiltRow,
    Steward,
    StewardClient,
    program_places,
    stewarded_files,
    stewards_file_verbs,
)
from pool.errors import PoolError
from server.commands import Site
from server.control_client import ControlError, spoken
from server.gateway_files import GatewayFiles
from server.model_keys import SETTLED, hand_on, new_memory, settled_config
from server.settings import secret_text
from server.stewarded import gateway_verbs, take_steward

_WORK = "CLAUDE_POOL_WORK"
_CHILD = (sys.executable, "-I", "-c", "from server.beside import main; main()")
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "CLAUDE_POOL_TEST")
_MOST_BYTES = 64 * 1024 * 1024


def as_server(
    site: Site, uid: int, work: str, arguments: Mapping[str, Any], output: int | None = None
) -> Any:
    """What ``work`` gives, done as ``uid``; what it writes goes to ``output``. Blocking.

    The answer is a server's: nothing in it is to be believed. Raises ``ControlError``.
    """
    settings, request, answer = new_memory(), new_memory(), new_memory()
    descriptors = [settings, request, answer, *([] if output is None else [output])]
    plain = {"data": str(site.data_dir), "work": work, "arguments": arguments, "uid": os.getuid()}
    files = {"request": request, "answer": answer, "output": output}
    environment = {name: os.environ[name] for name in os.environ if name in _PASSED_ON or name[:2] == "PG"}
    try:
        hand_on(site.config, settings)
        os.write(request, json.dumps(plain).encode())
        pool_config = PoolConfig(data_dir=site.data_dir, uid_range=site.config.isolation.uid_range)
        steward = Steward(
            uid,
            _CHILD,
            environment | {SETTLED: str(settings), _WORK: json.dumps(files), "HOME": "/nonexistent"},
            descriptors=descriptors,
            shown=program_places([sys.executable], os.environ),
            verbs={
                **stewards_file_verbs(pool_config, uid),
                **gateway_verbs(GatewayFiles(site.data_dir)),
            },
        )
        code = steward.run()
        body = os.pread(answer, _MOST_BYTES, 0)
    finally:
        for descriptor in (settings, request, answer):
            os.close(descriptor)
    if code != 0 or not body:
        raise ControlError("failed", f"the command ended with {code} as uid {uid}")
    return spoken(body)


def main() -> None:
    """The child: does the work that its environment names, and answers."""
    files = json.loads(os.environ.pop(_WORK))
    config, steward = settled_config(os.environ), take_steward(os.environ)
    assert config is not None
    assert steward is not None
    with os.fdopen(files["request"], "rb") as file:
        file.seek(0)
        request = json.load(file)
    from server.errors import describe  # noqa: PLC0415
    from server.operations import encode  # noqa: PLC0415

    try:
        work = _Work(Site(config, Path(request["data"])), steward, request["uid"], files["output"])
        answer = {"result": getattr(work, request["work"])(**request["arguments"])}
    except PoolError as error:
        answer = {"error": describe(error)}
    except OSError as error:
        answer = {"error": {"code": "failed", "message": str(error)}}
    os.pwrite(files["answer"], encode(answer), 0)
    steward.close()


class _Work:
    """What the child does, by name. What it needs of the database is loaded by it only."""

    def __init__(self, site: Site, steward: StewardClient, uid: int, output: int | None) -> None:
        self._site = site
        self._url = secret_text(site.config.storage.url)
        self._steward = steward
        self._uid = uid
        self._output = output

    def perform(self, op: str, arguments: Mapping[str, Any]) -> Any:
        from server.offline import perform_here  # noqa: PLC0415

        config, data_dir = self._site.config, self._site.data_dir
        work = perform_here(config, data_dir, op, arguments, steward=self._steward, uid=self._uid)
        return asyncio.run(work)

    def export(self, name: str) -> int:
        return asyncio.run(self._export(name))

    async def _export(self, name: str) -> int:
        from pool import export_user_data  # noqa: PLC0415

        assert self._output is not None
        size = 0
        files = stewarded_files(self._site.data_dir, self._steward)
        with os.fdopen(self._output, "wb") as file:
            async for piece in export_user_data(self._site.data_dir, self._url, name, files=files):
                size += await asyncio.to_thread(file.write, piece)
        return size

    def verify(self, expected: list[tuple[str, str]]) -> list[Any]:
        from pool import verify_audit  # noqa: PLC0415

        places = [(name, AuditPlace.parse(place)) for name, place in expected]
        is_alone = self._site.config.replica.url is None
        verdict = asyncio.run(verify_audit(self._site.data_dir, self._url, places, is_alone=is_alone))
        return [verdict.problems, verdict.records, verdict.first, str(verdict.end)]

    def audit_export(self, after: int, user: str | None) -> int:
        from server.audit_commands import write_records  # noqa: PLC0415

        assert self._output is not None
        with os.fdopen(self._output, "wb") as file:
            return write_records(self._site, after, user, file)

    def rows(self) -> list[list[Any]]:
        from pool import find_spoilt_rows  # noqa: PLC0415

        rows = asyncio.run(find_spoilt_rows(self._site.data_dir, self._url))
        return [[row.table, row.row_id, row.fields] for row in rows]

    def database(self) -> str:
        """A word on who has it, of several replicas."""
        from pool import open_accounts  # noqa: PLC0415
        from server.replicas.moment import who_owns  # noqa: PLC0415

        if self._site.config.replica.url is not None:
            return asyncio.run(who_owns(self._site.config, self._site.data_dir))

        async def look() -> None:
            store, accounts = open_accounts(self._site.data_dir, self._url)
            await store.open()
            try:
                await accounts.list_users()
            finally:
                await store.aclose()

        asyncio.run(look())
        return ""


def verdict_of(plain: Any) -> AuditVerdict:
    """The verdict as ``verify`` gave it."""
    problems, records, first, end = msgspec.convert(plain, tuple[tuple[str, ...], int, int, str])
    return AuditVerdict(problems, records, first, AuditPlace.parse(end))


def spoilt_rows_of(plain: Any) -> list[SpoiltRow]:
    """The rows as ``rows`` gave them, without whose they are."""
    rows = msgspec.convert(plain, list[tuple[str, str, tuple[str, ...]]])
    return [SpoiltRow(table, row_id, fields, None) for table, row_id, fields in rows]
