"""A server that is not root: how it is started by the steward, which stays root, and what it has of it."""

from __future__ import annotations

import ctypes
import getpass
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from pool import (
    STEWARD,
    Host,
    PoolConfig,
    Steward,
    StewardClient,
    database_file,
    end_strays,
    find_cli,
    give_data,
    given_to,
    obstacle_to_dropping,
    program_places,
    server_uid,
    stewards_verbs,
)
from pool.errors import BadRequest, PoolError
from server.commands import Site
from server.config import ServerConfig
from server.gateway_files import AT_ONCE, GatewayFiles, Stretch
from server.listening import bind
from server.model_keys import SETTLED, hand_on, new_memory
from server.next_image import NextImage
from server.settings import secret_text

_log = logging.getLogger(__name__)

INHERITED = "CLAUDE_POOL_INHERITED"
"""In the environment of the next image: which descriptors hold the lock and the listening socket."""

_PR_SET_PDEATHSIG = 1
RELOAD_CODE = 86
"""With which a server ends whose steward is to start the next image."""

_KEY_FILES = ("id_ed25519", "id_ecdsa", "id_rsa")
FENCED_CODE = 87
"""With which a server ends that does not own the pool any more, and is to come back at once."""

CAME_BACK = "CLAUDE_POOL_CAME_BACK"
"""In the environment of an image that follows on an owner's that was fenced: why it was."""

_TRIAL = (sys.executable, "-I", "-c", "import server.launching")


def whom_to_be(config: ServerConfig, pool_config: PoolConfig, host: Host) -> tuple[int | None, str | None]:
    """(uid for the server, None to stay who we are; what is in the way of one, or None)."""
    if not host.local.isolation.has_uids or config.isolation.server_user == "root":
        return None, None
    if pool_config.gateway_command and host.local.gateway_user.uid is None:
        return None, "the server runs as root, since the model gateway does: see gateway"
    database = database_file(secret_text(config.storage.url), pool_config.data_dir)
    if database is not None and database.absolute().parent != pool_config.data_dir.absolute():
        return None, "the server runs as root, since storage.url names a file outside the data directory"
    obstacle = obstacle_to_dropping(pool_config, shown_to_server(config, pool_config), _TRIAL)
    return (server_uid(pool_config), None) if obstacle is None else (None, obstacle)


def shown_to_server(config: ServerConfig, pool_config: PoolConfig) -> list[Path]:
    """What a server has to see even where it lies in directories that are closed to its user."""
    places = [pool_config.templates_dir, config.cli.path, _cli(pool_config)]
    return [*program_places([sys.executable], os.environ), *(place for place in places if place is not None)]


def _cli(pool_config: PoolConfig) -> Path | None:
    with suppress(PoolError):
        return find_cli(pool_config.cli_path)
    return None  # told when one is started


class StewardedServer:
    """Starts the server as ``uid`` and serves it until it ends."""

    def __init__(self, site: Site, pool_config: PoolConfig, host: Host, uid: int) -> None:
        self._site = site
        self._pool_config = pool_config
        self._host = host
        self._uid = uid

    def run(self, listen_fd: int | None, check_command: Sequence[str]) -> dict[str, Any]:
        """Until the server has ended: what the next image is to inherit, empty when there is none.

        A server that ended otherwise than well ends this process in the same
        way. Raises ``Conflict``, ``OSError``.
        """
        self._host.local.service_uid = self._uid
        gateway_files = GatewayFiles(self._site.data_dir)
        end_strays(self._uid)
        if given_to(self._site.data_dir) is None:
            # later the places of an earlier version are the server's
            gateway_files.settle()
        database = database_file(secret_text(self._site.config.storage.url), self._site.data_dir)
        give_data(self._site.data_dir, self._uid, None if database is None else database.name)
        listener = bind(self._site.config.server, inherited=listen_fd)
        memory = new_memory()
        config, files = readable_by(self._uid, self._site.config)
        hand_on(config, memory)
        image = NextImage(check_command)
        verbs = {
            **stewards_verbs(self._pool_config, self._host, self._uid),
            **gateway_verbs(gateway_files),
            "check_next_image": image.check,
        }
        # the lock stays here: whatever the server leaves behind must not hold it
        held = {"listen": listener.fileno()}
        environment = {name: value for name, value in os.environ.items() if name != "WATCHDOG_PID"}
        environment |= {
            INHERITED: json.dumps(held),
            SETTLED: str(memory),
            # what a library would look for there is root's
            "HOME": "/nonexistent",
            # whom SSH logs in as on a host that names nobody; the server's own uid has no name
            "LOGNAME": getpass.getuser(),
        }
        os.environ.pop(CAME_BACK, None)
        command = [sys.executable, *sys.orig_argv[1:]]
        descriptors = [*held.values(), memory, *files]
        steward = Steward(
            self._uid,
            command,
            environment,
            descriptors=descriptors,
            shown=shown_to_server(self._site.config, self._pool_config),
            verbs=verbs,
        )
        code = steward.run()
        end_strays(self._uid)
        for descriptor in (memory, *files):
            os.close(descriptor)
        return self._following(code, image, listener)

    def _following(self, code: int, image: NextImage, listener: socket.socket) -> dict[str, Any]:
        settled = image.descriptor if code == RELOAD_CODE else None
        if code == FENCED_CODE:
            settled = new_memory()
            hand_on(self._site.config, settled)
            os.environ[CAME_BACK] = "the line before says why"
        if settled is not None:
            return {"listen": os.dup(listener.fileno()), "settled": settled}
        _end_as(code)
        return {}


def readable_by(uid: int, config: ServerConfig, home: Path | None = None) -> tuple[ServerConfig, list[int]]:
    """``config`` with files in memory that the server needs and only root may read, and their descriptors.

    These are the files of TLS, and for each host over SSH key and known host keys; those that SSH finds
    by itself are found in ``home``, root's. Raises ``OSError`` for a file of TLS.
    """
    descriptors: list[int] = []

    def in_memory(path: Path) -> Path:
        content = path.read_bytes()
        descriptor = new_memory()
        descriptors.append(descriptor)
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        os.fchmod(descriptor, 0o600)
        os.fchown(descriptor, uid, uid)
        return Path(f"/proc/self/fd/{descriptor}")

    server = config.server
    if server.tls_cert_file is not None and server.tls_key_file is not None:
        paths = {name: in_memory(getattr(server, name)) for name in ("tls_cert_file", "tls_key_file")}
        config = config.model_copy(update={"server": server.model_copy(update=paths)})
    of_ssh = (home or Path.home()) / ".ssh"
    hosts = []
    for host in config.hosts:
        places = {
            "key_file": [host.key_file] if host.key_file else [of_ssh / name for name in _KEY_FILES],
            "known_hosts_file": [host.known_hosts_file or of_ssh / "known_hosts"],
        }
        found = {name: _first(in_memory, paths) for name, paths in places.items()}
        # what is missing is told when the host is to be reached
        hosts.append(host.model_copy(update={name: path for name, path in found.items() if path is not None}))
    return (config.model_copy(update={"hosts": hosts}) if hosts else config), descriptors


def _first(in_memory: Callable[[Path], Path], paths: Sequence[Path]) -> Path | None:
    for path in paths:
        with suppress(OSError):
            return in_memory(path)
    return None


def _end_as(code: int) -> None:
    """End this process as the server ended; return when it ended well."""
    if code < 0:
        with suppress(OSError):  # KILL cannot be caught
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    if code != 0:
        sys.exit(code if code > 0 else 1)


def take_steward(environ: dict[str, str] | os._Environ[str]) -> StewardClient | None:
    """The steward of this process, once; None without one."""
    descriptor = environ.pop(STEWARD, None)
    if descriptor is None:
        return None
    sock = socket.socket(fileno=int(descriptor))
    sock.set_inheritable(False)
    # the end of the socket says the same, to a thread that might be held up
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return StewardClient(sock)


def gateway_verbs(files: GatewayFiles) -> dict[str, Callable[..., Any]]:
    """What a server may have its steward do in the gateway's directories: the steward's side."""

    def grown(*, offsets: Mapping[str, Any], about_bytes: int) -> list[Stretch]:
        known = {str(name): int(offset) for name, offset in offsets.items()}
        return files.grown(known, int(about_bytes))

    def finished(*, offsets: Mapping[str, Any], before: float) -> list[str]:
        return files.finished({str(name): int(offset) for name, offset in offsets.items()}, float(before))

    def remove_own_key(*, user_id: str, provider: str | None) -> bool:
        return files.remove_own_key(_text(user_id), None if provider is None else _text(provider))

    return {
        "describe": files.describe,
        "own_keys_of": lambda *, user_id: files.own_keys_of(_text(user_id)),
        "put_own_key": lambda *, user_id, provider, key: files.put_own_key(
            _text(user_id), _text(provider), _text(key)
        ),
        "remove_own_key": remove_own_key,
        "grown": grown,
        "finished": finished,
        "remove_journal": lambda *, file: files.remove_journal(_text(file)),
        "forget_user": lambda *, user_id, at: files.forget_user(_text(user_id), float(at)),
        "put_team_use": lambda *, teams: files.put_team_use(dict(teams)),
    }


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BadRequest("not text")
    return value


class Talk(Protocol):
    """How a program is spoken with that does named work: a steward, or another machine's host program."""

    def call(self, verb: str, **arguments: Any) -> Any:
        """The verb's result. Raises what it raised; blocking."""


class RemoteGatewayFiles(GatewayFiles):
    """See ``GatewayFiles``; all of it is the steward's to do."""

    def __init__(self, steward: Talk, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._steward = steward
        # it changes with a reload only, and is asked for on the event loop
        self._described: dict[str, Any] = steward.call("describe")

    def settle(self) -> None:
        """See ``GatewayFiles``; the steward's image before did."""

    def describe(self) -> dict[str, Any]:
        """See ``GatewayFiles``."""
        return self._described

    def own_keys_of(self, user_id: str) -> dict[str, bool]:
        """See ``GatewayFiles``."""
        return dict(self._steward.call("own_keys_of", user_id=user_id))

    def put_own_key(self, user_id: str, provider: str, key: str) -> None:
        """See ``GatewayFiles``."""
        self._steward.call("put_own_key", user_id=user_id, provider=provider, key=key)

    def remove_own_key(self, user_id: str, provider: str | None) -> bool:
        """See ``GatewayFiles``."""
        return bool(self._steward.call("remove_own_key", user_id=user_id, provider=provider))

    def grown(self, offsets: Mapping[str, int], about_bytes: int = AT_ONCE) -> list[Stretch]:
        """See ``GatewayFiles``."""
        return list(self._steward.call("grown", offsets=dict(offsets), about_bytes=about_bytes))

    def finished(self, offsets: Mapping[str, int], before: float) -> list[str]:
        """See ``GatewayFiles``."""
        return list(self._steward.call("finished", offsets=dict(offsets), before=before))

    def remove_journal(self, file: str) -> None:
        """See ``GatewayFiles``."""
        self._steward.call("remove_journal", file=file)

    def forget_user(self, user_id: str, at: float) -> None:
        """See ``GatewayFiles``."""
        self._steward.call("forget_user", user_id=user_id, at=at)

    def put_team_use(self, teams: Mapping[str, Any]) -> None:
        """See ``GatewayFiles``."""
        self._steward.call("put_team_use", teams=dict(teams))
