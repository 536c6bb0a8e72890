"""The host of a pool: what is done with the service's own rights, by this process or by its steward.

Apart from ``pool.composition``, so that a steward loads no database.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pool.config import PoolConfig
from pool.errors import PoolError
from pool.launch.local_host import LocalHost
from pool.steward.client import StewardClient
from pool.steward.file_verbs import FileVerbs
from pool.steward.remote import RemoteFiles, RemoteHost
from pool.steward.service import Verb
from pool.steward.verbs import Verbs
from pool.workspace.host_files import HostFiles


@dataclass(frozen=True, slots=True)
class Host:
    """What is done on this machine with the service's own rights: by this process, or by its steward."""

    files: HostFiles
    local: LocalHost


def open_host(
    config: PoolConfig, environment: Mapping[str, str] | None = None, *, believes_keeper: bool = False
) -> Host:
    """The host by this process itself; what it can do is tried out. ``believes_keeper``: see ``GatewayUser``.

    Raises ``IsolationUnavailable``, ``BadRequest``.
    """
    files = HostFiles(config.data_dir, config.templates_dir)
    local = LocalHost(
        config,
        environment,
        templates_want_outbound=_want_outbound(files),
        believes_keeper=believes_keeper,
    )
    return Host(files, local)


def stewards_verbs(config: PoolConfig, host: Host, uid: int) -> dict[str, Verb]:
    """What a server that runs as ``uid`` may ask its steward, which has ``host``."""
    return Verbs(config, host.files, host.local, uid).by_name()


def stewards_file_verbs(config: PoolConfig, uid: int) -> dict[str, Verb]:
    """What a command that runs as ``uid`` beside no server may ask its steward."""
    return FileVerbs(HostFiles(config.data_dir), range(config.uid_range[0], uid)).by_name()


def stewarded_files(data_dir: Path, steward: StewardClient) -> HostFiles:
    """The files as such a command has them."""
    return RemoteFiles(steward, data_dir)


def stewarded_host(config: PoolConfig, steward: StewardClient) -> Host:
    """The host of a server that has a steward."""
    files = RemoteFiles(steward, config.data_dir, config.templates_dir)
    return Host(files, RemoteHost(steward, config))


def _want_outbound(files: HostFiles) -> bool:
    wanted = False
    for name in files.template_names():
        # one that cannot be read is told to whoever asks for it
        with suppress(PoolError):
            wanted |= files.template(name).network == "outbound"
    return wanted
