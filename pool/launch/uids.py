"""Can each user of the pool be a Linux user of their own on this machine? Found out by trying."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pool.config import PoolConfig
from pool.errors import LaunchFailed
from pool.fs_identity import acting_as
from pool.launch.cli import find_cli, interpreter_of
from pool.launch.isolation import NOT_ROOT, Uids, probe

_TRIAL_SECONDS = 10
# what root needs to give files away, to become users and to end what is theirs
_CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
}


def trial_uid(config: PoolConfig) -> int:
    """The uid that trials run as, the first of the range: no user ever gets it."""
    return config.uid_range[0]


def find_uids(config: PoolConfig, runtime_dir: Path) -> Uids:
    """What keeps users from having uids here, None if nothing does, and what bubblewrap can do as one."""
    if os.geteuid() != 0:
        return Uids(NOT_ROOT)
    uid = trial_uid(config)
    try:
        obstacle = next(_obstacles(config, runtime_dir, uid), None)
    except PermissionError as error:
        obstacle = f"root may not act as another user here ({error})"
    return Uids(obstacle) if obstacle is not None else Uids(None, probe(uid), uid)


def first_blocked(path: Path, uid: int) -> Path | None:
    """The first directory on the way to ``path`` that ``uid`` may not pass through, None if they can.

    What does not exist yet blocks nobody.
    """
    with acting_as(uid, uid):
        for directory in reversed(path.absolute().parents):
            try:
                os.stat(f"{directory}/.")
            except PermissionError:
                return directory
            except OSError:
                return None
    return None


def _obstacles(config: PoolConfig, runtime_dir: Path, uid: int) -> Iterator[str]:
    effective = _effective_capabilities()
    lacking = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    if lacking:
        yield f"root has no {', '.join(lacking)} here: give them to the container"
        return
    # a name in it, because it is the directory itself that has to be passed through
    data = config.data_dir / "workspaces"
    yield from _blocked(data, uid, "or choose another data directory (--data)")
    # the runtime directory itself is ours and made passable
    yield from _blocked(runtime_dir.parent, uid, "or set runtime_dir")
    yield from _blocked_cli(config, uid)
    try:
        subprocess.run(
            ["/bin/true"],
            check=True,
            timeout=_TRIAL_SECONDS,
            stdin=subprocess.DEVNULL,
            cwd="/",
            user=uid,
            group=uid,
            extra_groups=[],
        )
    except (OSError, subprocess.SubprocessError) as error:
        yield f"uid {uid} of isolation.uid_range can run no program here ({error})"


def _blocked_cli(config: PoolConfig, uid: int) -> Iterator[str]:
    """A program is copied to where everybody can reach it; a script needs more than itself."""
    try:
        cli = find_cli(config.cli_path)
    except LaunchFailed:
        return  # told when one is started
    interpreter = interpreter_of(cli)
    if interpreter is not None:
        for path in (cli, interpreter, interpreter.resolve()):
            yield from _blocked(path, uid, "which the CLI, a script, needs")


def _blocked(path: Path, uid: int, otherwise: str) -> Iterator[str]:
    directory = first_blocked(path.resolve() if path.exists() else path, uid)
    if directory is not None:
        yield f"other users cannot pass through {directory}: chmod o+x {directory}, {otherwise}"


def _effective_capabilities() -> int:
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
