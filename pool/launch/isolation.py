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
NOT_ROOT = "only a service that runs as root can give each user a Linux user"
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
class Uids:
    """Can each user be a Linux user? ``obstacle`` is None if so, else why not and what to do.

    ``found`` is what bubblewrap can do for such a user, ``uid`` as whom that was tried.
    """

    obstacle: str | None = NOT_ROOT
    found: Probe | None = None
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class Isolation:
    """The mode and network in force, and what would make them stronger.

    ``is_up_to_template``: a template may ask for ``outbound``. ``way_out`` is
    how that is done, None where it is neither configured nor asked for.
    ``has_uids``: each user is a Linux user of their own.
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
    has_uids: bool = False

    def network_for(self, wanted: str | None) -> str:
        """The network of a session whose template asks for ``wanted``."""
        return "outbound" if self.is_up_to_template and wanted == "outbound" else self.network

    def label(self, network: str | None = None) -> str:
        """For people and records: "bwrap/gateway_only"."""
        return f"{self.mode}/{network or self.network}"


@cache
def probe(uid: int | None = None) -> Probe:
    """Run bubblewrap as the sandbox will, as ``uid`` or as ourselves; the first answer is kept."""
    path = shutil.which("bwrap")
    if path is None:
        return Probe(None)
    plain = _try(path, uid=uid)
    if plain is not None:
        return Probe(path, detail=plain)
    return Probe(
        path,
        works=True,
        cuts_network=_try(path, "--unshare-net", uid=uid) is None,
        disables_nesting=_try(path, "--disable-userns", uid=uid) is None,
        filters_calls=_try_filter(path, uid) is None,
        counts_processes=_counts_processes(os.geteuid() if uid is None else uid),
    )


def resolve(
    mode: str,
    network: str,
    found: Probe | None = None,
    uids: Uids = Uids(),
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
    if mode == "uid" and uids.obstacle is not None:
        raise IsolationUnavailable(f"isolation mode 'uid' is not available: {uids.obstacle}")
    seen, has_uids = _in_force(found or probe(), uids)
    remedy = _remedy(seen)
    if mode == "bwrap" and remedy is not None:
        raise IsolationUnavailable(f"isolation mode 'bwrap' is not available: {remedy}")
    is_without = mode in ("none", "uid") or remedy is not None
    if to_named_hosts and (is_without or network not in ("auto", "outbound")):
        raise IsolationUnavailable(
            "isolation.egress_allow needs mode bwrap and network outbound or auto"
            + ("" if remedy is None else f"; {remedy}")
        )
    if is_without:
        return _without_sandbox(mode, network, uids, [] if remedy is None else [remedy])
    is_up_to_template = network == "auto" and seen.cuts_network
    if network == "auto":
        network = "outbound" if to_named_hosts else "gateway_only" if seen.cuts_network else "open"
    way_out = None
    if network == "outbound" or (is_up_to_template and is_wanted):
        way_out = find(seen.path, to_named_hosts=to_named_hosts, uid=uids.uid if has_uids else None)
    _refuse_network(network, seen, way_out)
    wanted = way_out.remedy if way_out is not None else None
    missing = {
        _NO_FILTER: not seen.filters_calls,
        _NO_PROCESS_LIMIT: not seen.counts_processes,
        _all_root(uids): not has_uids and uids.obstacle != NOT_ROOT,
        f"a template asks for network outbound: {wanted}": wanted is not None,
    }
    return Isolation(
        "bwrap",
        network,
        seen.path,
        disable_nesting=seen.disables_nesting,
        filter_calls=seen.filters_calls,
        count_processes=seen.counts_processes,
        remedies=[text for text, is_missing in missing.items() if is_missing],
        is_up_to_template=is_up_to_template,
        way_out=way_out,
        has_uids=has_uids,
    )


def _in_force(ours: Probe, uids: Uids) -> tuple[Probe, bool]:
    """What bubblewrap can do for who will run it, and is that each user?"""
    own = uids.found if uids.obstacle is None else None
    return (own, True) if own is not None and own.works else (ours, False)


def _refuse_network(network: str, seen: Probe, way_out: WayOut | None) -> None:
    """Raises ``IsolationUnavailable`` for a network that cannot be had."""
    if network == "outbound" and way_out is not None and way_out.remedy is not None:
        raise IsolationUnavailable(f"isolation network 'outbound' is not available: {way_out.remedy}")
    if network == "gateway_only" and not seen.cuts_network:
        raise IsolationUnavailable(
            "isolation network 'gateway_only' is not available: bubblewrap cannot make network namespaces "
            "here; set network: open, or allow them in the container's seccomp profile"
        )


def _all_root(uids: Uids) -> str:
    why = uids.obstacle or (uids.found.detail if uids.found is not None else "")
    return f"every instance runs as root, with no Linux user of its own: {why}"


def _without_sandbox(mode: str, network: str, uids: Uids, remedies: Sequence[str]) -> Isolation:
    if network in ("gateway_only", "outbound"):
        raise IsolationUnavailable(
            f"isolation network {network!r} needs mode bwrap" + "".join(f"; {remedy}" for remedy in remedies)
        )
    has_uids = mode != "none" and uids.obstacle is None
    if mode == "auto" and uids.obstacle not in (None, NOT_ROOT):
        remedies = [*remedies, _all_root(uids)]
    return Isolation(
        "uid" if has_uids else "none",
        "open",
        None,
        disable_nesting=False,
        filter_calls=has_uids and platform.machine() in MACHINES,
        count_processes=has_uids,
        remedies=() if mode == "uid" else tuple(remedies),
        has_uids=has_uids,
    )


def _remedy(seen: Probe) -> str | None:
    if seen.path is None:
        return _INSTALL
    if not seen.works:
        return f"{_NAMESPACES} ({seen.detail})"
    return None


def _counts_processes(uid: int) -> bool:
    """Does the kernel count the processes of each user namespace apart, and does its limit hold for ``uid``?

    It never holds for the host's root, whatever uid that has inside.
    """
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    return uid != 0 and version is not None and tuple(map(int, version.groups())) >= (5, 14)


def _try_filter(path: str, uid: int | None = None) -> str | None:
    """As ``_try``, with the filter of system calls."""
    machine = platform.machine()
    if machine not in MACHINES:
        return f"no filter for {machine}"
    descriptor = os.memfd_create("seccomp")
    try:
        os.write(descriptor, filter_program(machine))
        os.lseek(descriptor, 0, os.SEEK_SET)
        return _try(path, "--seccomp", str(descriptor), keep=(descriptor,), uid=uid)
    finally:
        os.close(descriptor)


def _try(path: str, *more: str, keep: Sequence[int] = (), uid: int | None = None) -> str | None:
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
            cwd="/",
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return done.stderr.decode(errors="replace").strip() or f"it exited with {done.returncode}"
