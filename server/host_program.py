"""What the command ``claude-pool host`` becomes: does on this machine what a server elsewhere asks.

The channel and most verbs are ``pool.hosts``'; here is what needs the server's
configuration, the model gateway's files and the limits of users.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from pool import Host, Quota, QuotaBook, serve_files
from pool.errors import BadRequest, Conflict
from server.commands import Site
from server.config import Quotas
from server.data_lock import DataLock, HeldElsewhere
from server.gateway.budgets import write_budgets
from server.gateway.settings import GatewayConfigError
from server.gateway_files import GatewayFiles
from server.logs import logging_to, standard_error
from server.pool_settings import limits_of, quota_book, to_pool_config
from server.stewarded import gateway_verbs

_LOCK_SECONDS = 5.0
_PAUSE_SECONDS = 0.05


def serve_host(site: Site) -> NoReturn:
    """Do what one server asks, over standard input and output, until it goes. ``site`` is settled."""
    config = site.config
    quotas = ServersQuotas(config.quotas)
    pool_config = replace(to_pool_config(config, site.data_dir, os.environ), quotas=quotas, hosts=())
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def verbs(_host: Host) -> Mapping[str, Callable[..., Any]]:
        # the kernel lets go of it with this process
        held.append(_lock(site.data_dir))
        return host_verbs(site.data_dir, quotas)

    held: list[DataLock] = []
    with logging_to(standard_error(), config.logging.model_copy(update={"format": "json"})):
        code = serve_files(pool_config, verbs)
    os._exit(code)


def host_verbs(data_dir: Path, quotas: ServersQuotas) -> Mapping[str, Callable[..., Any]]:
    """What a server may have done in the gateway's directories here, and the limits, which it tells."""
    files = GatewayFiles(data_dir)
    files.settle()
    return {**gateway_verbs(files), "put_limits": _put_limits(data_dir, quotas)}


class ServersQuotas(QuotaBook):
    """The limits of the server that this machine serves; this machine's own until it has told them."""

    def __init__(self, own: Quotas) -> None:
        super().__init__()
        self.put(own)

    def put(self, quotas: Quotas) -> None:
        """Hold users to these from now on."""
        object.__setattr__(self, "_book", quota_book(quotas))

    def for_user(self, user_id: str) -> Quota:
        """See ``QuotaBook``."""
        return self._book.for_user(user_id)

    def plan_of(self, user_id: str) -> str | None:
        """See ``QuotaBook``."""
        return self._book.plan_of(user_id)

    _book: QuotaBook


def _put_limits(data_dir: Path, quotas: ServersQuotas) -> Callable[..., None]:
    def put_limits(*, default: Any, users: Any, teams: Any) -> None:
        """Replace the limits of all users and teams: what ``limits_of`` gives."""
        try:
            told = Quotas.model_validate({"default": default, "users": users, "teams": teams})
            write_budgets(data_dir, **limits_of(told))
        except ValidationError as error:
            wrong = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise BadRequest("not the limits of users: " + "; ".join(wrong)) from None
        except GatewayConfigError as error:
            raise Conflict(str(error)) from error
        quotas.put(told)

    return put_limits


def _lock(data_dir: Path) -> DataLock:
    """The data directory's lock; a host program that is about to end is waited for. Raises ``Conflict``."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return DataLock(data_dir, is_host=True)
        except HeldElsewhere as error:
            if time.monotonic() > deadline:
                raise Conflict(f"{error}: a machine is a server of its own, or a host of one") from error
        time.sleep(_PAUSE_SECONDS)
