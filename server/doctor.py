"""Looks at the machine: would serving work here, and what would make it work better?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import resource
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from pool import (
    ClaudeInstancePool,
    Host,
    PoolConfig,
    find_orphans,
    find_spoilt_rows,
    given_to,
    measure_parts,
    noted_groups,
    open_accounts,
    open_host,
)
from pool.errors import PoolError
from server.beside import as_server, spoilt_rows_of
from server.commands import Site
from server.config import ServerConfig
from server.control_client import ControlError, NoServer, call
from server.replicas.moment import who_owns
from server.rules import check_platform, named_hosts
from server.settings import ConfigError, secret_text
from server.stewarded import whom_to_be

_LEAST_FREE_BYTES = 1 << 30
_CONNECT_SECONDS = 5
_VERSION_SECONDS = 20
_LEAST_FILES = 4096
_LEAST_WATCHES = 8192
_SUBUID = Path("/etc/subuid")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. Not ``ok`` and ``is_fatal``: serving would not work."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    is_fatal: bool = True


def examine(config: ServerConfig, pool_config: PoolConfig) -> Iterator[Finding]:
    """Every finding, one after the other; some take a second."""
    yield _platform()
    if pool_config.max_instances != 0:
        yield _cli(pool_config)
        yield from _isolation(pool_config, config)
    yield from _hosts(pool_config)
    yield _user_namespaces()
    yield _cgroup(pool_config.data_dir)
    yield _files()
    yield _processes()
    yield _inotify()
    yield _orphans(pool_config.data_dir)
    yield _disk(pool_config.data_dir)
    yield _database(config, pool_config.data_dir)
    yield _rows(config, pool_config.data_dir)
    yield _sizes(pool_config.data_dir)


def examine_host(config: ServerConfig, pool_config: PoolConfig) -> Iterator[Finding]:
    """As ``examine``, of a machine that is to run instances for a server elsewhere."""
    yield _platform()
    yield _cli(pool_config)
    yield from _isolation(pool_config)
    yield _user_namespaces()
    yield _cgroup(pool_config.data_dir)
    yield _files()
    yield _processes()
    yield _inotify()
    yield _orphans(pool_config.data_dir)
    yield _disk(pool_config.data_dir)
    yield _not_served(pool_config.data_dir)
    yield _model(config)
    yield _sizes(pool_config.data_dir)


def find_cli(configured: Path | None) -> Path | None:
    """The ``claude`` that would run: the configured one, the wheel's, or that on PATH."""
    if configured is not None:
        return configured
    spec = find_spec("claude_agent_sdk")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "_bundled" / "claude"
        if bundled.is_file():
            return bundled
    found = shutil.which("claude")
    return Path(found) if found else None


def _platform() -> Finding:
    try:
        check_platform()
    except ConfigError as error:
        return Finding("platform", False, str(error), "use a container or a virtual machine")
    return Finding("platform", True, f"Linux {os.uname().release}")


def _cli(config: PoolConfig) -> Finding:
    remedy = "install the wheel of claude-agent-sdk, or set cli.path"
    cli = find_cli(config.cli_path)
    if cli is None:
        return Finding("cli", False, "there is no claude", remedy)
    with tempfile.TemporaryDirectory(prefix="cp-") as home:
        try:
            answer = subprocess.run(
                [cli, "--version"],
                capture_output=True,
                text=True,
                timeout=_VERSION_SECONDS,
                check=True,
                stdin=subprocess.DEVNULL,
                env={"PATH": os.environ.get("PATH", ""), "HOME": home},
            )
        except (OSError, subprocess.SubprocessError) as error:
            return Finding("cli", False, f"{cli} does not answer: {type(error).__name__}", remedy)
    return Finding("cli", True, f"{cli}, {answer.stdout.strip()}")


def _isolation(config: PoolConfig, server: ServerConfig | None = None) -> Iterator[Finding]:
    """``server`` None: there is to be none here."""

    async def look(
        host: Host,
    ) -> tuple[str, str, list[str], tuple[int, int] | None, tuple[int | None, str | None]]:
        pool = ClaudeInstancePool(replace(config, hosts=()), host=host)
        mode, network, remedies = pool.isolation()
        return mode, network, list(remedies), pool.uid_range(), pool.gateway_user()

    try:
        host = open_host(config)
        mode, network, remedies, uids, gateway = asyncio.run(look(host))
    except PoolError as error:
        yield Finding("sandbox", False, error.message, "install bubblewrap, or set isolation.mode")
        return
    good = mode == "bwrap" and network != "open" and not remedies
    only = f", only to {named_hosts(config.egress_allow)}" if config.egress_allow else ""
    detail = f"mode {mode}, network {network}{only}"
    yield Finding("sandbox", good, detail, "; ".join(remedies), is_fatal=False)
    yield _uid_mapping(uids)
    yield _gateway(*gateway)
    if server is not None:
        yield _server(*whom_to_be(server, config, host))


def _uid_mapping(uids: tuple[int, int] | None) -> Finding:
    if uids is not None:
        clash = accounts_in(*uids, pwd.getpwall(), _SUBUID)
        detail = f"each user has a uid of {uids[0]} to {uids[1]}"
        if clash:
            detail += f", where {clash} is too"
        return Finding("uid mapping", not clash, detail, "choose another isolation.uid_range", is_fatal=False)
    who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    remedy = "see sandbox, or run the service as a user that is not root" if who == "root" else ""
    return Finding("uid mapping", not remedy, f"all users share {who}", remedy, is_fatal=False)


def _gateway(uid: int | None, obstacle: str | None) -> Finding:
    if uid is not None:
        return Finding("gateway", True, f"the model gateway runs as uid {uid}, without any rights")
    if obstacle is not None:
        return Finding("gateway", False, "the model gateway runs as root", obstacle, is_fatal=False)
    return Finding("gateway", True, "the model gateway runs as the service's own user")


def _server(uid: int | None, obstacle: str | None) -> Finding:
    if uid is not None:
        return Finding("server", True, f"the server runs as uid {uid}, without any rights")
    if obstacle is not None:
        return Finding("server", False, "the server runs as root", obstacle, is_fatal=False)
    who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    return Finding("server", True, f"the server runs as {who}, as it was started", is_fatal=False)


def _not_served(data_dir: Path) -> Finding:
    """Only looked at: whoever has it goes on."""
    try:
        hello = call(data_dir, "hello", {}, timeout_seconds=10)
    except (NoServer, ControlError):
        return Finding("data directory", True, f"no server of this machine's own has {data_dir}")
    text = f"a server of this machine's own has {data_dir} (process {hello['pid']})"
    return Finding("data directory", False, text, "stop that server, or choose another --data")


def _model(config: ServerConfig) -> Finding:
    """Which model answers is decided here: no credential comes from the server."""
    names = [name for name, one in config.providers.items() if one.default] or list(config.providers)
    if not names or config.providers[names[0]].kind == "demo":
        told = "the built-in demo model answers: no model provider is configured here"
        return Finding("model", False, told, "see providers in docs/configuration.md", is_fatal=False)
    return Finding("model", True, f"provider {names[0]} ({config.providers[names[0]].kind})")


def accounts_in(first: int, last: int, accounts: Iterable[pwd.struct_passwd], subuid: Path) -> str:
    """One of ``accounts``, or a range that ``subuid`` gives to somebody's containers, that lies in the range.

    "" if none does.
    """
    for account in accounts:
        if first <= account.pw_uid <= last:
            return f"the account {account.pw_name}"
    with contextlib.suppress(OSError):
        for line in subuid.read_text().splitlines():
            with contextlib.suppress(ValueError):  # an empty line, or a note
                name, start, count = line.split(":")
                if int(start) <= last and first < int(start) + int(count):
                    return f"the range of {name} in {subuid}"
    return ""


def _user_namespaces() -> Finding:
    limit = _number("/proc/sys/user/max_user_namespaces")
    restricted = _number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if limit == 0:
        return Finding(
            "user namespaces", False, "none allowed", "sysctl user.max_user_namespaces=10000", is_fatal=False
        )
    if restricted and os.geteuid() != 0:
        return Finding(
            "user namespaces",
            False,
            "restricted by AppArmor",
            "give bwrap an AppArmor profile",
            is_fatal=False,
        )
    return Finding("user namespaces", True, f"at most {limit}")


def _cgroup(data_dir: Path) -> Finding:
    """What the keeper has, which is asked and not guessed: this command is in another group."""
    noted = noted_groups(data_dir)
    remedy = "run the keeper under systemd with Delegate=yes, or set isolation.cgroup"
    if noted is None:
        return Finding("cgroup", False, "not known before the first start", remedy, is_fatal=False)
    root, controllers = noted
    if root is None:
        told = "none is delegated: a look at /proc every two seconds holds the limits of memory"
        return Finding("cgroup", False, told, remedy, is_fatal=False)
    if "memory" not in controllers:
        told = f"{root}, without the memory controller: a look at /proc holds its limits"
        return Finding("cgroup", False, told, "boot with cgroup v2 only", is_fatal=False)
    return Finding("cgroup", True, f"{root}: the kernel holds {' and '.join(controllers)}")


def _files() -> Finding:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ok = hard == resource.RLIM_INFINITY or hard >= _LEAST_FILES
    return Finding("open files", ok, f"at most {hard}", f"ulimit -n {_LEAST_FILES} or more", is_fatal=False)


def _processes() -> Finding:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    ok = hard == resource.RLIM_INFINITY or hard >= 1024
    shown = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    return Finding("processes", ok, f"at most {shown}", "ulimit -u 4096 or more", is_fatal=False)


def _inotify() -> Finding:
    watches = _number("/proc/sys/fs/inotify/max_user_watches") or 0
    return Finding(
        "inotify",
        watches >= _LEAST_WATCHES,
        f"{watches} watches a user",
        "sysctl fs.inotify.max_user_watches=524288",
        is_fatal=False,
    )


def _orphans(data_dir: Path) -> Finding:
    """Asked of the server when one runs: it knows which processes are its own."""
    try:
        found = call(data_dir, "ps", {}, timeout_seconds=10)
        pids = [one["pid"] for one in found["orphans"]]
    except (NoServer, ControlError):
        pids = [stray.pid for stray in find_orphans(data_dir)]
    if not pids:
        return Finding("orphans", True, "no process of this data directory is left over")
    shown = ", ".join(map(str, sorted(pids)))
    remedy = "start the server, which ends them, or kill them"
    return Finding("orphans", False, f"nobody looks after process {shown}", remedy, is_fatal=False)


def _hosts(config: PoolConfig) -> Iterator[Finding]:
    """Other machines, as the server has them when one runs; else whether anybody listens there."""
    try:
        known = {one["name"]: one for one in call(config.data_dir, "ps", {}, timeout_seconds=10)["hosts"]}
    except (NoServer, ControlError):
        known = {}
    for host in config.hosts:
        name, remedy = f"host {host.name}", "see docs/hosts.md, when something breaks"
        told = known.get(host.name)
        if told is not None:
            detail = "the server reaches it" if told["is_reached"] else told["trouble"]
            yield Finding(name, told["is_reached"], detail, remedy, is_fatal=False)
            continue
        try:
            socket.create_connection((host.address, host.port), _CONNECT_SECONDS).close()
        except OSError as error:
            detail = f"{host.address}, port {host.port}: {error.strerror or error}"
            yield Finding(name, False, detail, remedy, is_fatal=False)
        else:
            yield Finding(name, True, f"{host.address} listens on port {host.port}; nothing more was tried")


def _disk(data_dir: Path) -> Finding:
    place = data_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    ok = free >= _LEAST_FREE_BYTES and os.access(place, os.W_OK)
    return Finding("disk", ok, f"{free // 2**20} MiB free for {data_dir}", "make room, or choose --data")


def _database(config: ServerConfig, data_dir: Path) -> Finding:
    """A database that exists is opened; else one is made in a temporary place."""

    async def look(directory: Path, url: str | None) -> str:
        if config.replica.url is not None:
            return await who_owns(config, directory)
        store, accounts = open_accounts(directory, url)
        await store.open()
        try:
            await accounts.list_users()
        finally:
            await store.aclose()
        return ""

    url = secret_text(config.storage.url)
    try:
        uid = given_to(data_dir)
        if url is not None:
            if uid is None:
                word = asyncio.run(look(data_dir, url))
            else:
                word = as_server(Site(config, data_dir), uid, "database", {})
            return Finding(
                "database", True, "; ".join(["the configured one answers", *([word] if word else [])])
            )
        with tempfile.TemporaryDirectory(prefix="cp-") as directory:
            asyncio.run(look(Path(directory), None))
        return Finding("database", True, "SQLite works")
    except (PoolError, ControlError, OSError) as error:
        return Finding("database", False, str(error), "see storage.url in docs/configuration.md")


def _rows(config: ServerConfig, data_dir: Path) -> Finding:
    """Rows are named and never shown."""
    uid = given_to(data_dir)
    try:
        if uid is None:
            spoilt = asyncio.run(find_spoilt_rows(data_dir, secret_text(config.storage.url)))
        else:
            spoilt = spoilt_rows_of(as_server(Site(config, data_dir), uid, "rows", {}))
    except (PoolError, ControlError, OSError) as error:
        return Finding("rows", True, f"not looked at: {error}", is_fatal=False)
    if not spoilt:
        return Finding("rows", True, "every session can be read")
    named = [f"{row.table} {row.row_id} ({', '.join(row.fields) or 'its ids'})" for row in spoilt[:5]]
    shown = "; ".join(named)
    more = f" and {len(spoilt) - 5} more" if len(spoilt) > 5 else ""
    remedy = "see docs/operations.md, rows that cannot be read"
    return Finding("rows", False, f"cannot be read: {shown}{more}", remedy, is_fatal=False)


def _sizes(data_dir: Path) -> Finding:
    *_, sizes = measure_parts(data_dir)
    shown = ", ".join(f"{name} {size // 2**20} MiB" for name, size in sizes.items())
    return Finding("data", True, f"{shown} in {data_dir}", is_fatal=False)


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None
