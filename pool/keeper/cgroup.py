"""Control groups (v2): one for each instance, below a directory that was delegated to the keeper.

With one, a whole instance can be killed at once whatever its processes did,
and its memory and processes have limits in the kernel where those controllers
are delegated too. Without, all of this is done by looking at ``/proc``.

Nothing is ever written or removed but in groups that bear this installation's
name: ``keeper-SITE`` for the keeper itself, ``i-SITE-HASH`` for an instance.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

OUT_OF_MEMORY = "out_of_memory"
OFF = "off"
AUTO = "auto"

_CONTROLLERS = ("memory", "pids")
_HIGH_SHARE = 0.9
_END_SECONDS = 5.0
_PAUSE_SECONDS = 0.01
_DELEGATED = ("user.delegate", "trusted.delegate")
_HOME = re.compile(r"keeper-[0-9a-f]{16}")


class Group:
    """The group of one instance; it exists from ``Groups.make`` to ``remove``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def limit(self, memory_bytes: int | None, processes: int | None) -> None:
        """Set what the delegated controllers can hold. Raises ``OSError``."""
        if memory_bytes is not None and (self.path / "memory.max").exists():
            _write(self.path / "memory.high", str(int(memory_bytes * _HIGH_SHARE)))
            _write(self.path / "memory.max", str(memory_bytes))
            # one ends, all end: a session without its CLI or with half a tool is of no use
            _write(self.path / "memory.oom.group", "1")
            if (self.path / "memory.swap.max").exists():
                _write(self.path / "memory.swap.max", "0")
        if processes is not None and (self.path / "pids.max").exists():
            _write(self.path / "pids.max", str(processes))

    def kill(self) -> bool:
        """KILL everything in it and below it; False when that could not be done, and nothing was."""
        try:
            if os.getpid() in self.pids():
                return False
            _write(self.path / "cgroup.kill", "1")
        except OSError:
            return False
        return True

    def pids(self) -> list[int]:
        """What is in it, nested groups left out; empty when it is gone. Raises ``OSError``."""
        with contextlib.suppress(FileNotFoundError):
            return [int(word) for word in (self.path / "cgroup.procs").read_text().split()]
        return []

    @property
    def is_empty(self) -> bool:
        """Does nothing live in it or below it? True when it is gone; False when nobody can tell."""
        try:
            return _figures(self.path / "cgroup.events").get("populated") == 0
        except OSError as error:
            return error.errno in (errno.ENOENT, errno.ENODEV)

    def cause(self) -> str | None:
        """Why the kernel ended something in it, None when it did not or when nobody can tell."""
        for name in ("memory.events.local", "memory.events"):
            with contextlib.suppress(OSError):
                figures = _figures(self.path / name)
                if figures.get("oom_kill", 0) or figures.get("oom_group_kill", 0):
                    return OUT_OF_MEMORY
        return None

    def remove(self) -> bool:
        """Remove it, the groups that its processes made below it first; False when it stays."""
        for directory, _names, _files in os.walk(self.path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        return not self.path.exists()


class Groups:
    """The directory that holds the groups of a data directory's instances; ``root`` None: there is none."""

    def __init__(self, root: Path | None, site: str) -> None:
        self.root = root
        self._site = site

    @classmethod
    def find(cls, wanted: str, site: str) -> Groups:
        """Where groups may be made: at the path ``wanted``, or if that is ``auto`` in the keeper's own group
        if it was delegated.

        Raises ``OSError`` for a path that cannot be used.
        """
        if wanted == OFF:
            return cls(None, site)
        if wanted != AUTO:
            path = Path(wanted)
            path.mkdir(mode=0o755, exist_ok=True)
            if not (path / "cgroup.kill").exists():
                raise OSError(errno.ENOTSUP, "no group of the second version, or too old a kernel", wanted)
            return cls(path, site)
        own = own_group()
        if own is None:
            return cls(None, site)
        root = own.parent if _HOME.fullmatch(own.name) else own
        is_usable = (root / "cgroup.kill").exists() and os.access(root, os.W_OK) and is_delegated(root)
        return cls(root if is_usable else None, site)

    def enable(self) -> list[str]:
        """Have the controllers hold in the groups to come; those that do. Raises ``OSError``.

        A group with controllers for those below it may have no process of its
        own, so the keeper goes into a group beside them.
        """
        if self.root is None:
            return []
        offered = (self.root / "cgroup.controllers").read_text().split()
        wanted = [name for name in _CONTROLLERS if name in offered]
        home = self._home(self.root)
        home.mkdir(mode=0o755, exist_ok=True)
        _write(home / "cgroup.procs", "0")
        for name in wanted:
            # another process in the directory, for one
            with contextlib.suppress(OSError):
                _write(self.root / "cgroup.subtree_control", f"+{name}")
        return self.controllers()

    def controllers(self) -> list[str]:
        """Those of ours that hold in the groups of instances."""
        if self.root is None:
            return []
        try:
            active = (self.root / "cgroup.subtree_control").read_text().split()
        except OSError:
            return []
        return [name for name in _CONTROLLERS if name in active]

    def of(self, instance_id: str) -> Group | None:
        """The group of an instance, there or not; None where there are no groups."""
        if self.root is None:
            return None
        name = hashlib.sha256(instance_id.encode()).hexdigest()[:16]
        return Group(self.root / f"i-{self._site}-{name}")

    @contextlib.contextmanager
    def born_in(self, instance_id: str, limits: Mapping[str, int | None]) -> Iterator[None]:
        """Make the instance's group; what is started meanwhile is born in it. Raises ``OSError``.

        ``limits`` are ``memory_bytes`` and ``processes``. The keeper itself is
        in the group meanwhile, which only a program with a single thread may do.
        """
        group = self.of(instance_id)
        if group is None or self.root is None:
            yield
            return
        group.path.mkdir(mode=0o755)
        group.limit(limits.get("memory_bytes"), limits.get("processes"))
        _write(group.path / "cgroup.procs", "0")
        try:
            yield
        finally:
            # a keeper that stays in is spared by ``kill`` and leaves with the next start
            with contextlib.suppress(OSError):
                _write(self._home(self.root) / "cgroup.procs", "0")

    def end(self, instance_id: str) -> str | None:
        """Remove the group of an instance that has ended; why the kernel ended something in it, if it did."""
        group = self.of(instance_id)
        if group is None or not group.path.exists():
            return None
        cause = group.cause()
        group.remove()
        return cause

    def leftovers(self) -> list[Group]:
        """The groups of instances of this installation, whether anybody still knows these or not."""
        if self.root is None:
            return []
        return [Group(path) for path in sorted(self.root.glob(f"i-{self._site}-*")) if path.is_dir()]

    def end_leftovers(self) -> int:
        """KILL what a keeper that was killed left in them, and remove them; how many there were."""
        found = self.leftovers()
        deadline = time.monotonic() + _END_SECONDS
        for group in found:
            group.kill()
        for group in found:
            while not (group.is_empty and group.remove()) and time.monotonic() < deadline:
                time.sleep(_PAUSE_SECONDS)
        return len(found)

    def close(self) -> None:
        """Leave the keeper's own group and remove it, as far as others let us."""
        if self.root is None:
            return
        home = self._home(self.root)
        with contextlib.suppress(OSError):
            if all(path == home for path in self.root.iterdir() if path.is_dir()):
                # A group with controllers for those below it may have no process of its own.
                for name in self.controllers():
                    _write(self.root / "cgroup.subtree_control", f"-{name}")
            _write(self.root / "cgroup.procs", "0")
            home.rmdir()

    def _home(self, root: Path) -> Path:
        return root / f"keeper-{self._site}"


def own_group() -> Path | None:
    """The directory of the group that this process is in, None without the second version."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    inside = next((line[3:] for line in lines if line.startswith("0::/")), None)
    for line in mounts:
        fields, _, rest = line.partition(" - ")
        if inside is not None and rest.startswith("cgroup2 "):
            root, mount = fields.split()[3:5]
            if inside.startswith(root.rstrip("/")):
                return Path(mount) / inside[len(root.rstrip("/")) :].lstrip("/")
    return None


def is_delegated(group: Path) -> bool:
    """Was the group given to us to do as we like in it? By systemd, or by its owner's uid."""
    with contextlib.suppress(OSError):
        if os.geteuid() != 0 and group.stat().st_uid == os.geteuid():
            return True
    for name in _DELEGATED:
        with contextlib.suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return False


def _figures(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
