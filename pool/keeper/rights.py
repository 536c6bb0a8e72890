"""As which Linux user an instance runs, and what it may use there.

Bubblewrap is started as that user. The shim stays the keeper's, so that
nothing of the user can signal it, and becomes the user in its child. The
same number is uid and gid; the user is in no other group.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_PR_SET_NO_NEW_PRIVS = 38
_BWRAP_PATH = "/usr/local/bin:/usr/bin:/bin"


def let_gain_nothing() -> bool:
    """From now on no program started here gains rights by its file, a set-uid one of root's for one.

    False where bubblewrap itself is such a program: then it could not work. Raises ``OSError``.
    """
    bwrap = shutil.which("bwrap", path=_BWRAP_PATH)
    if bwrap is not None and os.stat(bwrap).st_mode & stat.S_ISUID:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, *(ctypes.c_ulong(number) for number in (1, 0, 0, 0))) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return True


@dataclass(frozen=True, slots=True)
class Rights:
    """``uid`` None: the keeper's own. ``limits`` and ``filter`` are for the shim only.

    ``limits`` maps names of ``resource.RLIMIT_*`` in lower case to values;
    ``filter`` is the file of the filter of system calls.
    """

    uid: int | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    filter: str | None = None

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Rights:
        """The rights in a start request. Raises ``ValueError``."""
        told = request.get("rights") or {}
        uid = told.get("uid")
        if uid is not None and (not isinstance(uid, int) or not 0 < uid < 2**32 - 1):
            raise ValueError("not a uid")
        limits = {str(name): int(value) for name, value in (told.get("limits") or {}).items()}
        return cls(uid, limits, told.get("filter"))

    @property
    def peer(self) -> int:
        """Whose uid the kernel tells who is called by the instance."""
        return os.geteuid() if self.uid is None else self.uid

    def popen(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start ``command`` with these rights."""
        if self.uid is None:
            return subprocess.Popen(command, **options)
        return subprocess.Popen(command, **options, user=self.uid, group=self.uid, extra_groups=[])

    def shim_word(self, cwd: str, *, env: int, filter: int | None) -> str:
        """The shim's argument that says the same, and where the program is to begin.

        ``env`` and ``filter`` are the descriptors of the files that hold these.
        """
        told = {"uid": self.uid, "limits": dict(self.limits), "filter": filter, "cwd": cwd, "env": env}
        return json.dumps(told)

    def give(self, directory: str | os.PathLike[str]) -> None:
        """Make a directory of ours, that nobody else could have touched, the user's. Raises ``OSError``."""
        if self.uid is not None:
            os.chown(directory, self.uid, self.uid, follow_symlinks=False)

    def let_in(self, directory: str | os.PathLike[str], *sockets: str | os.PathLike[str]) -> None:
        """Let the user pass through a directory of ours and connect to sockets in it, but change nothing."""
        if self.uid is not None:
            for path, mode in ((directory, 0o750), *((path, 0o660) for path in sockets)):
                os.chown(path, -1, self.uid, follow_symlinks=False)
                os.chmod(path, mode)
