"""A disk that does not answer: a file system whose server reads no request. Who asks waits in the kernel."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pool.keeper.procfs import SITE_MARKER, site_of
from tests.procfs import processes

_NOSUID, _NODEV, _DETACH = 0x2, 0x4, 0x2


@contextmanager
def hung_disk(mount_point: Path) -> Iterator[None]:
    """While this is open nobody gets past ``mount_point``; who stands there then can be killed.

    Skips where file systems in user space cannot be mounted (they can by root, with ``/dev/fuse``).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    name = os.fsencode(mount_point)
    try:
        server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"no disk that hangs: /dev/fuse: {error.strerror}")
    try:
        options = f"fd={server},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()}".encode()
        if libc.mount(b"hung", name, b"fuse", _NOSUID | _NODEV, options) != 0:
            pytest.skip(f"no disk that hangs: mount: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            # Not first the server: that would answer everybody with an error.
            libc.umount2(name, _DETACH)
    finally:
        os.close(server)


def stand_still(data_dir: Path) -> list[int]:
    """Processes of the instances of ``data_dir`` that wait in the kernel."""
    site = site_of(data_dir)
    return [p.pid for p in processes() if p.state == "D" and p.environ.get(SITE_MARKER) == site]
