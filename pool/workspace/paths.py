"""The only code that joins a user's name or path to a path of ours.

A workspace belongs to its user and to the programs that run for them: any
name in it may be a symbolic link, and may become one between two calls. So a
path is never checked and then used. It is resolved once, by the kernel, with
``openat2`` and RESOLVE_BENEATH, to a descriptor that stays what it is; and
what has no descriptor of its own (delete, rename, make a directory) is done
relative to the descriptor of its parent.

A root server opens as the user who owns the root of the tree, in their rights
and no others: even a way that is not thought of leads to nothing that the
user could not read or write themselves.

Where the kernel has no ``openat2`` (before 5.6, or forbidden by a container)
the path is walked a component at a time and every symbolic link is refused.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from pool.errors import BadRequest, Conflict, Forbidden, NotFound, PoolError
from pool.fs_identity import acting_as_owner_of
from pool.names import check_name

MAX_PATH_BYTES = 4096
MAX_COMPONENT_BYTES = 255

_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
# An escape by ".." that races with a rename is not decided by the kernel but left to us to try again.
_RACE_ATTEMPTS = 64
# Nobody means a file to look like another, or a name to end in the middle of a line.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_ALWAYS = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def clean_relative(path: object) -> PurePosixPath:
    """Check the form of a user's path; ``.`` is the root itself.

    Raises ``BadRequest`` for what is not text, empty, absolute, too long (in
    all or in one component), has ``..``, NUL, control characters, surrogates
    or characters that turn the direction of text. Nothing is normalised: a
    look-alike of a dot or a slash is a letter like any other.
    """
    if not isinstance(path, str) or not path:
        raise BadRequest("a path must be text and not empty", details={"field": "path"})
    if any(_is_refused(character) for character in path):
        raise BadRequest("a path must not have control characters or broken text", details={"field": "path"})
    if len(path.encode()) > MAX_PATH_BYTES:
        raise BadRequest(f"a path has at most {MAX_PATH_BYTES} bytes", details={"field": "path"})
    parts = path.split("/")
    if path.startswith("/") or ".." in parts:
        raise BadRequest("a path must stay inside the workspace", details={"field": "path"})
    if any(len(part.encode()) > MAX_COMPONENT_BYTES for part in parts):
        raise BadRequest(f"a file name has at most {MAX_COMPONENT_BYTES} bytes", details={"field": "path"})
    return PurePosixPath(path)


def _is_refused(character: str) -> bool:
    return unicodedata.category(character) in _REFUSED_CATEGORIES or character in _BIDI_CONTROLS


def open_below(root: Path | int, path: str, flags: int, mode: int = 0o600) -> int:
    """Open ``path`` below ``root`` (a directory or its descriptor); the caller closes it.

    Symbolic links are followed while they stay below. Only files and
    directories are opened, never a pipe, socket or device, and never in a way
    that waits. Raises ``BadRequest``, ``NotFound``, ``Forbidden`` (the path
    leads out, or may not be opened), ``Conflict`` (it exists, or is a
    directory or not one).
    """
    relative = str(clean_relative(path))
    with _Directory(root) as directory:
        try:
            with acting_as_owner_of(directory):
                descriptor = _resolve(directory, relative, flags, mode)
        except OSError as error:
            raise refusal_of(error) from error
    if not flags & os.O_PATH:
        _check_kind(descriptor)
    return descriptor


def resolve_below(root: Path | int, path: str) -> int:
    """A descriptor that stands for ``path`` (O_PATH), whatever happens to its name later.

    Good for ``os.fstat`` and as ``dir_fd``. Raises as ``open_below``.
    """
    return open_below(root, path, os.O_PATH)


def enter_below(root: int, path: str) -> int:
    """The descriptor of a directory below ``root``, by names that come from a listing.

    Such names may hold anything that a file system allows, so their form is
    not checked; they cannot lead out all the same. For counting and giving
    away: root looks with its own rights, or a user could hide files from the
    count. Raises ``OSError``.
    """
    return _resolve(root, path, os.O_RDONLY | os.O_DIRECTORY, 0)


def parent_below(root: Path | int, path: str) -> tuple[int, str]:
    """The descriptor of the directory that holds ``path``, and the last name.

    For what is done to a name (``os.unlink``, ``os.rename``, ``os.mkdir``,
    all with ``dir_fd``). The caller closes it. Raises as ``open_below``, and
    ``BadRequest`` for the root itself, which has no parent here.
    """
    relative = clean_relative(path)
    if not relative.name:
        raise BadRequest("the workspace itself cannot be changed", details={"field": "path"})
    return open_below(root, str(relative.parent), os.O_PATH | os.O_DIRECTORY), relative.name


def user_directory(root: Path, user_id: str) -> Path:
    """``root/user_id``, which may not exist yet.

    Raises ``InvalidName``, and ``Conflict`` if there is a directory whose
    name differs only in case: on a file system that folds case the two users
    would share it.
    """
    name = check_name(user_id, "user_id")
    exact = root / name
    if not os.path.lexists(exact) and root.is_dir():
        alike = [other for other in os.listdir(root) if other.lower() == name.lower()]
        # It may have been made since the look above.
        if alike and name not in alike:
            raise Conflict("there is a user whose id differs only in case")
    return exact


def refusal_of(error: OSError) -> PoolError:
    """What an error of the file system means to the user whose path it was; never shows our paths."""
    kind, message = _REFUSALS.get(error.errno or 0, (PoolError, ""))
    return kind(message or f"the file system refused: {os.strerror(error.errno or 0)}")


_REFUSALS: dict[int, tuple[type[PoolError], str]] = {
    errno.ENOENT: (NotFound, "there is no such file or directory"),
    errno.ENOTDIR: (NotFound, "a part of the path is not a directory"),
    errno.EEXIST: (Conflict, "there is something of this name already"),
    errno.ENOTEMPTY: (Conflict, "the directory is not empty"),
    errno.EISDIR: (Conflict, "this is a directory"),
    errno.EXDEV: (Forbidden, "the path leads out of the workspace"),
    errno.ELOOP: (Forbidden, "the path leads through a link that cannot be followed"),
    errno.EACCES: (Forbidden, "the file may not be used"),
    errno.EPERM: (Forbidden, "the file may not be used"),
    errno.EAGAIN: (Conflict, "the path is being moved; try again"),
    errno.ENAMETOOLONG: (BadRequest, "the path is too long"),
    errno.EINVAL: (BadRequest, "the path cannot be used"),
    errno.ENXIO: (Forbidden, "this is not a file or a directory"),
    errno.ENOSPC: (PoolError, "the disk is full"),
    errno.EDQUOT: (PoolError, "the disk is full"),
}


class _Directory:
    """``root`` as a descriptor, closed at the end if it was opened here."""

    def __init__(self, root: Path | int) -> None:
        self._root = root
        self._opened: int | None = None

    def __enter__(self) -> int:
        if isinstance(self._root, int):
            return self._root
        try:
            self._opened = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise refusal_of(error) from error
        return self._opened

    def __exit__(self, *_error: object) -> None:
        if self._opened is not None:
            os.close(self._opened)


def _check_kind(descriptor: int) -> None:
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        os.close(descriptor)
        raise Forbidden("this is not a file or a directory")


def _resolve(directory: int, path: str, flags: int, mode: int) -> int:
    # Beside O_PATH the kernel takes none of the others.
    flags |= os.O_CLOEXEC if flags & os.O_PATH else _ALWAYS
    for attempt in range(_RACE_ATTEMPTS):
        try:
            return _open_beneath(directory, path, flags, mode)
        except OSError as error:
            if error.errno != errno.EAGAIN or attempt == _RACE_ATTEMPTS - 1:
                raise
    raise AssertionError("not reached")


def _openat2(directory: int, path: str, flags: int, mode: int) -> int:
    # The kernel refuses a mode where nothing can be created.
    wanted = mode if flags & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY) else 0
    how = _OpenHow(flags, wanted, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    descriptor = _libc.syscall(
        ctypes.c_long(_OPENAT2),
        ctypes.c_int(directory),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(descriptor)


def _walk(directory: int, path: str, flags: int, mode: int) -> int:
    """Open without ``openat2``: one component at a time, through no symbolic link."""
    *parents, last = PurePosixPath(path).parts or (".",)
    step = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    current = os.open(".", step, dir_fd=directory)
    try:
        for name in parents:
            following = os.open(name, step, dir_fd=current)
            os.close(current)
            current = following
        found = os.open(last, flags | os.O_NOFOLLOW, mode, dir_fd=current)
    finally:
        os.close(current)
    if flags & os.O_PATH and stat.S_ISLNK(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return found


def _pick_resolver() -> Callable[[int, str, int, int], int]:
    directory = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(_openat2(directory, ".", os.O_PATH | os.O_CLOEXEC, 0))
    except OSError:
        return _walk
    else:
        return _openat2
    finally:
        os.close(directory)


_open_beneath = _pick_resolver()
