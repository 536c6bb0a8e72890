"""Which isolation can be had on this machine, found out by trying."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from pool.errors import IsolationUnavailable
from pool.launch.seccomp import MACHINES, filter_program
from pool.launch.way_out import WayOut, find_way_out

_INSTALL = "install bubblewrap: apt-get install bubblewrap"
_NAMESPACES = (
    "bubblewrap cannot make user namespaces here: allow them (sysctl kernel.unprivileged_userns_clone=1, "
    "user.max_user_namespaces above 0, kernel.apparmor_restrict_unprivileged_userns=0), or in a container "
    "run it with a seccomp profile that lets unshare(2) through"
)
_NO_UID_MODE = "isolation mode 'uid' is not available in this version: use bwrap or auto"
_NO_FILTER = (
    "system calls are not filtered: that needs a kernel with CONFIG_SECCOMP_FILTER "
    f"on one of {', '.join(MACHINES)}"
)
_NO_PROCESS_LIMIT = (
    "the processes of a sandbox are not limited: run the service as a user that is not root, "
    "on Linux 5.14 or later"
)

_TRIAL_SECONDS = 10
_TRIAL = (
    *("--unshare-user", "--uid", "1000", "--gid", "1000"),
    *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
    *("--die-with-parent", "--new-session", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"),
)


@dataclass(frozen=True, slots=True)
class Probe:
    """What a trial of bubblewrap showed. ``path`` is None when there is none."""

    path: str | None
    works: bool = False
    cuts_network: bool = False
    disables_nesting: bool = False
    filters_calls: bool = False
    counts_processes: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Isolation:
    """The mode and network in force, and what would make them stronger.

    ``is_up_to_template``: a template may ask for ``outbound``. ``way_out`` is
    how that is done, None where it is neither configured nor asked for.
    """

    mode: str
    network: str
    bwrap: str | None
    disable_nesting: bool
    filter_calls: bool
    count_processes: bool
    remedies: Sequence[str]
    is_up_to_template: bool = False
    way_out: WayOut | None = None

    def network_for(self, wanted: str | None) -> str:
        """The network of a session whose template asks for ``wanted``."""
        return "outbound" if self.is_up_to_template and wanted == "outbound" else self.network

    def label(self, network: str | None = None) -> str:
        """For people and records: "bwrap/gateway_only"."""
        return f"{self.mode}/{network or self.network}"


@cache
def probe() -> Probe:
    """Run bubblewrap as the sandbox will; the answer of the first time is kept."""
    path = shutil.which("bwrap")
    if path is None:
        return Probe(None)
    plain = _try(path)
    if plain is not None:
        return Probe(path, detail=plain)
    return Probe(
        path,
        works=True,
        cuts_network=_try(path, "--unshare-net") is None,
        disables_nesting=_try(path, "--disable-userns") is None,
        filters_calls=_try_filter(path) is None,
        counts_processes=_counts_processes(),
    )


def resolve(
    mode: str,
    network: str,
    found: Probe | None = None,
    *,
    to_named_hosts: bool = False,
    is_wanted: bool = False,
    find: Callable[..., WayOut] = find_way_out,
) -> Isolation:
    """The isolation to use for the configured mode and network.

    ``to_named_hosts``: ``outbound`` reaches those of ``isolation.egress_allow``
    only, and is what ``auto`` takes then. ``is_wanted``: a template asks for it.

    Raises ``IsolationUnavailable`` for one asked for by name that cannot be
    had; the text has the remedy.
    """
    seen = found or probe()
    if mode == "uid":
        raise IsolationUnavailable(_NO_UID_MODE)
    remedy = _remedy(seen)
    if mode == "bwrap" and remedy is not None:
        raise IsolationUnavailable(f"isolation mode 'bwrap' is not available: {remedy}")
    if to_named_hosts and (mode == "none" or remedy is not None or network not in ("auto", "outbound")):
        raise IsolationUnavailable(
            "isolation.egress_allow needs mode bwrap and network outbound or auto"
            + ("" if remedy is None else f"; {remedy}")
        )
    if mode == "none" or remedy is not None:
        return _without_sandbox(network, [] if remedy is None else [remedy])
    is_up_to_template = network == "auto" and seen.cuts_network
    if network == "auto":
        network = "outbound" if to_named_hosts else "gateway_only" if seen.cuts_network else "open"
    way_out = None
    if network == "outbound" or (is_up_to_template and is_wanted):
        way_out = find(seen.path, to_named_hosts=to_named_hosts)
    if network == "outbound" and way_out is not None and way_out.remedy is not None:
        raise IsolationUnavailable(f"isolation network 'outbound' is not available: {way_out.remedy}")
    if network == "gateway_only" and not seen.cuts_network:
        raise IsolationUnavailable(
            "isolation network 'gateway_only' is not available: bubblewrap cannot make network namespaces "
            "here; set network: open, or allow them in the container's seccomp profile"
        )
    no_way_out = (
        [f"a template asks for network outbound: {way_out.remedy}"] if way_out and way_out.remedy else []
    )
    missing = {_NO_FILTER: not seen.filters_calls, _NO_PROCESS_LIMIT: not seen.counts_processes}
    return Isolation(
        "bwrap",
        network,
        seen.path,
        disable_nesting=seen.disables_nesting,
        filter_calls=seen.filters_calls,
        count_processes=seen.counts_processes,
        remedies=[*(text for text, is_missing in missing.items() if is_missing), *no_way_out],
        is_up_to_template=is_up_to_template,
        way_out=way_out,
    )


def _without_sandbox(network: str, remedies: Sequence[str]) -> Isolation:
    if network in ("gateway_only", "outbound"):
        raise IsolationUnavailable(
            f"isolation network {network!r} needs mode bwrap" + "".join(f"; {remedy}" for remedy in remedies)
        )
    return Isolation(
        "none",
        "open",
        None,
        disable_nesting=False,
        filter_calls=False,
        count_processes=False,
        remedies=tuple(remedies),
    )


def _remedy(seen: Probe) -> str | None:
    if seen.path is None:
        return _INSTALL
    if not seen.works:
        return f"{_NAMESPACES} ({seen.detail})"
    return None


def _counts_processes() -> bool:
    """Does the kernel count the processes of each user namespace apart, and does its limit hold for us?

    It never holds for the host's root, whatever uid that has inside.
    """
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    return os.geteuid() != 0 and version is not None and tuple(map(int, version.groups())) >= (5, 14)


def _try_filter(path: str) -> str | None:
    """As ``_try``, with the filter of system calls."""
    machine = platform.machine()
    if machine not in MACHINES:
        return f"no filter for {machine}"
    descriptor = os.memfd_create("seccomp")
    try:
        os.write(descriptor, filter_program(machine))
        os.lseek(descriptor, 0, os.SEEK_SET)
        return _try(path, "--seccomp", str(descriptor), keep=(descriptor,))
    finally:
        os.close(descriptor)


def _try(path: str, *more: str, keep: Sequence[int] = ()) -> str | None:
    """None when it ran, else why not. The descriptors of ``keep`` are passed on."""
    command = [path, *_TRIAL, *more, "--", "/bin/true"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TRIAL_SECONDS,
            check=False,
            env={"PATH": "/usr/bin:/bin"},
            pass_fds=keep,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return done.stderr.decode(errors="replace").strip() or f"it exited with {done.returncode}"
