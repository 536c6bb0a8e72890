"""How a connection to a host begins: whom we trust, with what we come in, and what to say of trouble."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from pool.config import SshHost
from pool.errors import HostRefused, KeeperUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTimes:
    """How long things may take, in seconds.

    A link over which nothing comes is dead after ``keepalive_seconds * (keepalive_misses + 1)``. Both
    programs on the host are promised a word every ``speaks_every_seconds``.
    """

    connect_seconds: float = 20.0
    hello_seconds: float = 60.0
    attach_seconds: float = 120.0
    keepalive_seconds: float = 4.0
    keepalive_misses: int = 2
    speaks_every_seconds: float = 10.0


def options_for(settings: SshHost, times: LinkTimes, known: Path) -> asyncssh.SSHClientConnectionOptions:
    """What asyncssh is told; nothing of the user's own configuration counts. Raises ``HostRefused``."""
    own_key = {}
    if settings.key_file is not None:
        _check_private(settings, settings.key_file)
        own_key = {"client_keys": [str(settings.key_file)], "agent_path": None}
    user = {} if settings.user is None else {"username": settings.user}
    try:
        return asyncssh.SSHClientConnectionOptions(
            config=None,
            known_hosts=str(known),
            connect_timeout=times.connect_seconds,
            login_timeout=times.connect_seconds,
            keepalive_interval=times.keepalive_seconds,
            keepalive_count_max=times.keepalive_misses,
            preferred_auth="publickey",
            **user,
            **own_key,
        )
    except (OSError, ValueError) as error:
        text = f"host {settings.name}: no SSH connection can be tried, {settings.key_file or 'keys'}: {error}"
        raise HostRefused(text, details={"host": settings.name, "reason": "key_refused"}) from error


def _check_private(settings: SshHost, key_file: Path) -> None:
    try:
        mode = stat.S_IMODE(key_file.stat().st_mode)
    except OSError as error:
        text = f"host {settings.name}: key_file {key_file}: {error.strerror}"
        raise HostRefused(text, details={"host": settings.name, "reason": "key_refused"}) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise HostRefused(
            f"host {settings.name}: key_file {key_file} has mode {mode:04o}, so that others may read it: "
            f"chmod 600 {key_file}",
            details={"host": settings.name, "reason": "key_refused"},
        )


def known_hosts_of(settings: SshHost) -> Path:
    """The file with the keys of hosts that are trusted. Raises ``HostRefused``."""
    path = settings.known_hosts_file or Path("~/.ssh/known_hosts").expanduser()
    try:
        path.read_bytes()
    except OSError as error:
        problem = f"its key cannot be checked, {path}: {error.strerror}"
        raise HostRefused(
            f"host {settings.name}: {problem}. {_how_to_trust(settings, path)}",
            details={"host": settings.name, "reason": "host_key_unknown"},
        ) from error
    return path


def refusal_of(settings: SshHost, known: Path, error: Exception) -> KeeperUnavailable:
    """What to raise for what kept us from connecting."""
    name, where = settings.name, f"{settings.address}:{settings.port}"
    if isinstance(error, asyncssh.HostKeyNotVerifiable | asyncssh.KeyExchangeFailed):
        if _knows(known, settings):
            return HostRefused(
                f"host {name}: {where} shows another key than the one in {known} ({error}): somebody may be "
                f"in between. Only if its key was changed on purpose: ssh-keygen -f {known} -R "
                f"'{_name_in_file(settings)}', then trust the new one. {_how_to_trust(settings, known)}",
                details={"host": name, "reason": "host_key_changed"},
            )
        return HostRefused(
            f"host {name}: nothing in {known} tells which key {where} has. {_how_to_trust(settings, known)}",
            details={"host": name, "reason": "host_key_unknown"},
        )
    if isinstance(error, asyncssh.PermissionDenied):
        return HostRefused(
            f"host {name}: {where} lets nobody in with our key ({error}): put its public half into "
            f"authorized_keys of {settings.user or 'our user'} there, see docs/hosts.md",
            details={"host": name, "reason": "key_refused"},
        )
    return KeeperUnavailable(f"host {name}: no SSH connection to {where}: {error}", details={"host": name})


def _how_to_trust(settings: SshHost, known: Path) -> str:
    return (
        f"ssh-keyscan -p {settings.port} {settings.address} prints it: compare it with "
        f"/etc/ssh/ssh_host_*_key.pub on that machine, then append it to {known}"
    )


def _knows(known: Path, settings: SshHost) -> bool:
    keys, authorities, *_others = asyncssh.match_known_hosts(str(known), settings.address, "", settings.port)
    return bool(keys or authorities)


def _name_in_file(settings: SshHost) -> str:
    return settings.address if settings.port == 22 else f"[{settings.address}]:{settings.port}"
