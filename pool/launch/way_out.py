"""The ways from a sandbox's own network to the internet, and which of them work here, found out by trying.

Either slirp4netns carries everything but closed ranges (``outbound``), or a
proxy connects to hosts that are named (``isolation.egress_allow``).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pool.keeper.spawn import network_command

PROXY_PORT = 3128

_SYSTEM_DIRECTORIES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TRIAL_SECONDS = 20
_TRIAL = ("--unshare-user", "--uid", "1000", "--gid", "1000", "--unshare-pid", "--die-with-parent")
_FILES = ("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev")


@dataclass(frozen=True, slots=True)
class WayOut:
    """What the keeper needs to know of it (``network.py``), or why there is none."""

    settings: Mapping[str, Any]
    remedy: str | None = None


@cache
def find_way_out(bwrap: str, *, to_named_hosts: bool = False, uid: int | None = None) -> WayOut:
    """Try it as a sandbox of ``uid`` (None: ours) will use it; the answer of the first time is kept."""
    if to_named_hosts:
        settings: dict[str, Any] = {"kind": "proxy", "port": PROXY_PORT}
        problem = _try(
            {**settings, "egress": {"allow": []}, "uid": uid}, [bwrap, *_TRIAL, *_FILES, "--", "/bin/true"]
        )
        return WayOut(settings, None if problem is None else _remedy(problem))
    programs = {name: shutil.which(name, path=_SYSTEM_DIRECTORIES) for name in ("slirp4netns", "nft")}
    packages = {"slirp4netns": "slirp4netns", "nft": "nftables"}
    missing = [package for name, package in packages.items() if programs[name] is None]
    if missing:
        return WayOut({}, f"install what is missing: apt-get install {' '.join(missing)}")
    settings = {"kind": "outbound", "slirp4netns": programs["slirp4netns"], "nft": programs["nft"]}
    problem = _try({**settings, "uid": uid}, [bwrap, *_TRIAL, *_FILES, "--", "/bin/true"])
    return WayOut(settings, None if problem is None else _remedy(problem))


def _remedy(problem: str) -> str:
    return (
        "a network of its own cannot be made here: it needs user namespaces, a kernel with nf_tables, and "
        f"/dev/net/tun with mode 0666 as udev makes it (in a container: --device /dev/net/tun) ({problem})"
    )


def _try(settings: Mapping[str, Any], command: Sequence[str]) -> str | None:
    """None when it ran, else why not."""
    with open("/dev/null", "ab") as log:
        try:
            done = subprocess.run(
                network_command({**settings, "log": log.fileno()}, command),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TRIAL_SECONDS,
                check=False,
                env={"PATH": _SYSTEM_DIRECTORIES},
                pass_fds=(log.fileno(),),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    if done.returncode == 0:
        return None
    return done.stderr.decode(errors="replace").strip() or f"it exited with {done.returncode}"
