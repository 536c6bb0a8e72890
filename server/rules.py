"""Where may this server listen, given how well users are kept apart? CONTRACT section 2, end."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from typing import Any

from server.config import ServerConfig
from server.loopback import is_loopback
from server.settings import ConfigError, secret_text

_OLDEST_LINUX = (5, 4)
_SHOWN_HOSTS = 20


def check_platform(system: str | None = None, release: str | None = None) -> None:
    """Raises ``ConfigError`` elsewhere than on Linux 5.4 or later."""
    system = platform.system() if system is None else system
    release = platform.release() if release is None else release
    numbers = re.match(r"(\d+)\.(\d+)", release)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if system != "Linux" or version < _OLDEST_LINUX:
        raise ConfigError(
            f"serving needs Linux 5.4 or later, this is {system} {release}: "
            "use a container or a virtual machine"
        )


def check_single_user(config: ServerConfig) -> None:
    """Raises ``ConfigError`` for single-user mode on an address that others can reach."""
    if not config.multi_user and not is_loopback(config.server.host):
        raise ConfigError(
            f"bad configuration:\n  server.host: single-user mode serves on a loopback address only, "
            f"not on {config.server.host}"
        )


def check_replica(config: ServerConfig) -> None:
    """Raises ``ConfigError`` for a replica whose next owner would not find what this one has."""
    if config.replica.url is None:
        return
    storage = secret_text(config.storage.url) or ""
    missing = {
        "storage.url of a PostgreSQL that all replicas use": storage.startswith("postgresql"),
        "hosts, for instances must run where every replica reaches them": bool(config.hosts),
        "pool.max_instances: 0, for this machine is none of theirs": config.pool.max_instances == 0,
        "auth.jwt.secret, the same for all replicas": bool(secret_text(config.auth.jwt.secret)),
        "multi_user: true": config.multi_user,
    }
    wanted = [what for what, is_there in missing.items() if not is_there]
    if wanted:
        raise ConfigError(f"bad configuration:\n  replica.url: a replica needs {'; '.join(wanted)}")


def named_hosts(hosts: Sequence[str]) -> str:
    """A list of ``isolation.egress_allow`` in one line that is not too long."""
    more = len(hosts) - _SHOWN_HOSTS
    return ", ".join(hosts[:_SHOWN_HOSTS]) + (f" and {more} more" if more > 0 else "")


def isolation_check(
    config: ServerConfig,
    isolation: tuple[str, str, Sequence[str]],
    uids: tuple[int, int] | None = None,
) -> Mapping[str, Any]:
    """The isolation check of ``/health``. Raises ``ConfigError`` when it is too weak to serve there."""
    mode, network, remedies = isolation
    detail = f"mode {mode}, network {network}"
    hosts = config.isolation.egress_allow
    if hosts:
        detail += f", only to {named_hosts(hosts)}"
    if uids is not None:
        detail += f", each user with a uid of {uids[0]} to {uids[1]}"
    in_force = {"mode": mode, "network": network} | ({"egress_allow": list(hosts)} if hosts else {})
    if not config.multi_user:
        return {"ok": True, "detail": f"{detail}; one user", **in_force}
    if mode == "bwrap" and network != "open":
        return {"ok": True, "detail": "; ".join([detail, *remedies]), **in_force}
    remedy = "; ".join(remedies) or "see docs/configuration.md, isolation"
    by_name = config.isolation.mode != "auto" and config.isolation.network != "auto"
    if not is_loopback(config.server.host) and not by_name:
        raise ConfigError(
            f"refusing to serve several users on {config.server.host} with isolation {detail}: {remedy}; "
            "or choose isolation.mode and isolation.network by name"
        )
    detail += f": users are not kept apart from each other; {remedy}"
    return {"ok": False, "detail": detail, **in_force}
