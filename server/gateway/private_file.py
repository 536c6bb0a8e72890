"""Files of mode 0600 that belong to whoever runs the gateway: written whole, read with suspicion.

Who owns the directory owns the files in it. It is root's or the gateway's own user's, never
anybody else's: what is above it is root's.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any


class PrivateFileError(Exception):
    """The file cannot be used; the text says why and what to do, and nothing of what is in it."""


def write_private_json(path: Path, value: Any) -> None:
    """Replace ``path`` by a file of its directory's owner; no reader ever sees half of it.

    Raises ``OSError``.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            if os.geteuid() == 0:
                owner = path.parent.lstat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def check_private_file(path: Path) -> None:
    """Raises ``PrivateFileError`` for a file that ``read_private_json`` would refuse, without reading it."""
    try:
        _check(path.lstat(), path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise PrivateFileError(f"{path} cannot be looked at ({error.strerror}).") from error


def _check(status: os.stat_result, path: Path) -> None:
    owners = [os.geteuid()]
    if owners == [0]:
        # the server writes what another user, the gateway's, is to read
        owners.append(path.parent.lstat().st_uid)
    if status.st_uid not in owners:
        raise PrivateFileError(f"{path} belongs to uid {status.st_uid}: chown it to {owners[-1]}.")
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
        raise PrivateFileError(f"{path} can be read by others: chmod it to 600 and change the keys in it.")


def read_private_json(path: Path) -> Any:
    """What is in ``path``, None if there is no such file. Raises ``PrivateFileError``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PrivateFileError(f"{path} cannot be opened ({error.strerror}).") from error
    with os.fdopen(descriptor, "rb") as file:
        _check(os.fstat(file.fileno()), path)
        try:
            return json.loads(file.read())
        except ValueError as error:
            raise PrivateFileError(f"{path} is not JSON: write the configuration again.") from error
