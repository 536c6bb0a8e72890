"""What a launcher is: the one contract for this machine, SSH hosts and clusters.

A launcher turns a ``LaunchSpec`` into a live instance and gives its output
back as a byte stream with offsets that never restart. The output lives in the
instance's spool, so that whoever attaches later reads on from any offset that
was not trimmed. Nothing here knows the CLI's protocol.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pool.launch.process_table import ProcessReport
from pool.launch.tool_limits import ToolLimits
from pool.model import ExitStatus, InstanceId, SessionKey


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """All that a launcher needs to start one instance.

    ``cli_args`` are the arguments after the program's name; ``env`` is what
    the pool adds to the launcher's own allow-list (nothing secret). Paths are
    the host's; a sandboxing launcher maps them and sets ``HOME``,
    ``CLAUDE_CONFIG_DIR``, ``TMPDIR`` and the model socket itself. ``network``
    is what the template asks for, which counts where the configuration leaves it open.
    ``uid`` is the Linux user to run as, who owns workspace and home; None: as the service.
    ``tool_limits`` are those of the program that ``Launcher.tool_prefix`` names.
    """

    instance_id: InstanceId
    key: SessionKey
    cli_args: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    workspace: Path
    home: Path
    labels: Mapping[str, str] = field(default_factory=dict)
    network: str | None = None
    uid: int | None = None
    tool_limits: ToolLimits | None = None


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that cannot be mistaken for a later one with the same pid.

    ``start_ticks`` is field 22 of ``/proc/PID/stat`` (clock ticks since
    boot), ``boot_id`` the kernel's random id of this boot. ``marker`` is the
    instance id, which every process of the instance has in its environment
    as ``CLAUDE_POOL_INSTANCE``.
    """

    pid: int
    start_ticks: int
    boot_id: str
    marker: str


@dataclass(frozen=True, slots=True)
class InstanceListing:
    """An instance as the launcher knows it; ``exit_status`` is None while it lives."""

    instance_id: InstanceId
    identity: ProcessIdentity | None
    end_offset: int
    exit_status: ExitStatus | None
    exited_at: float | None
    stderr_tail: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


class InstanceSink(Protocol):
    """Who receives an instance's output; called on the event loop, never awaited."""

    def data_received(self, offset: int, data: bytes) -> None:
        """``data`` begins at ``offset`` of the output. Offsets have no holes."""

    def exited(self, status: ExitStatus, stderr_tail: str) -> None:
        """The process and all its tree are gone and all output was delivered. Once."""

    def launcher_lost(self) -> None:
        """The way to the host is lost, nothing follows; whether the instance lives it will tell. Once."""


@dataclass(frozen=True, slots=True)
class StopGraces:
    """How long each rung of the ladder may take, in seconds.

    End of input, then TERM to the CLI itself, then KILL of the whole tree.
    A grace of 0 skips the rung.
    """

    end_of_input: float = 2.0
    term: float = 5.0
    kill: float = 5.0


class InstanceHandle(ABC):
    """A live instance. Every method may raise ``InstanceGone`` or ``KeeperUnavailable``."""

    instance_id: InstanceId
    identity: ProcessIdentity | None
    isolation: str

    @abstractmethod
    async def write(self, line: bytes, *, timeout_seconds: float = 30.0) -> None:
        """Write one line (with or without its newline) to the CLI's stdin.

        Returns when the whole line is in the CLI's pipe. The launcher refuses
        a line that is not one JSON object fit for the CLI (``BadRequest``).
        Raises ``InputBlocked`` when the CLI does not read for so long; the
        line may still be written later.
        """

    @abstractmethod
    def committed(self, offset: int) -> None:
        """All output before ``offset`` is stored: it no longer counts against the spool's budget."""

    @abstractmethod
    def hold(self, is_held: bool) -> None:
        """Send no more output than is on its way, until told otherwise: it waits in the spool.

        The end is told after all output, so it waits as well.
        """

    @abstractmethod
    def trim(self, offset: int) -> None:
        """Output before ``offset`` is not needed for replay any more."""

    @abstractmethod
    async def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        """Read spooled output again: (offset of the first byte, bytes).

        The offset is above the one asked for when the part before was
        trimmed. Empty bytes: nothing there yet.
        """

    @abstractmethod
    async def stderr_tail(self) -> str:
        """The last lines of stderr, at most 64 KiB."""

    @abstractmethod
    async def stop(self, graces: StopGraces) -> None:
        """Climb the ladder until the whole tree is gone; cancelling the caller does not stop it.

        Returns when the process is gone or the ladder is exhausted; the end
        is told by ``InstanceSink.exited``. Raises ``InstanceGone`` never.
        """

    @abstractmethod
    async def signal(self, name: str) -> None:
        """Send the signal called ``name`` ("SIGTERM") to the CLI itself, by pidfd."""


class Launcher(ABC):
    """Starts instances, re-attaches to them, lists them."""

    @abstractmethod
    async def open(self, epoch: int) -> int:
        """Attach to the host with an epoch of at least ``epoch``; returns the epoch in force.

        Raises ``KeeperUnavailable``.
        """

    @abstractmethod
    async def list(self) -> Sequence[InstanceListing]:
        """Every instance that the host knows: living, and exited but not forgotten."""

    @abstractmethod
    async def start(self, spec: LaunchSpec, sink: InstanceSink) -> InstanceHandle:
        """Start an instance; output comes to ``sink`` from offset 0.

        Returns when the process exists (not when it is ready). Raises
        ``LaunchFailed``; nothing is left behind then. When cancelled nothing
        is, unless the host does not answer: ``abandon`` tells.
        """

    @abstractmethod
    async def abandon(self, instance_id: InstanceId) -> bool:
        """End at once, and forget, what a start may have left; is nothing of it there?

        Waits for the host's answer without bound. Raises ``KeeperUnavailable``
        when the host is gone, and everything with it.
        """

    @abstractmethod
    async def attach(self, instance_id: InstanceId, offset: int, sink: InstanceSink) -> InstanceHandle:
        """Take over an instance that runs or has exited; output comes from ``offset`` on.

        Raises ``InstanceGone`` when the host does not know it.
        """

    @abstractmethod
    async def read_spool(self, instance_id: InstanceId, offset: int, limit: int) -> tuple[int, bytes]:
        """As ``InstanceHandle.read``, also for an instance that has exited. ``InstanceGone`` if forgotten."""

    @abstractmethod
    async def forget(self, instance_id: InstanceId) -> None:
        """Remove the spool and record of an exited instance. Unknown ids are fine."""

    @abstractmethod
    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the connection is lost; ``open`` finds the host again, or another keeper."""

    async def upgrade(self, *, force: bool) -> Mapping[str, str]:
        """Have the host's keeper and gateway go over to the installed code; what became of each.

        ``keeper`` is ``upgraded``, ``unchanged`` (it runs the installed code;
        ``force`` makes it go over all the same) or ``too_old`` (its protocol
        has no upgrade); ``gateway`` is ``replaced`` or ``none``. A name is
        missing where a host has no such thing. No turn and no model call is
        cut. Raises ``Conflict`` when the new code does not take over;
        everything is as it was then.
        """
        return {}

    @abstractmethod
    async def aclose(self, *, end_instances: bool) -> None:
        """Detach; with ``end_instances`` end every instance, the keeper and the gateway too."""

    @abstractmethod
    def supervisor_pids(self) -> set[int]:
        """Pids on this machine whose descendants are ours (the keeper); empty for other hosts."""

    @abstractmethod
    def describe_isolation(self) -> tuple[str, str, Sequence[str]]:
        """(mode in force, network in force, remedies for what is missing)."""

    def carries(self) -> int | None:
        """How many instances the host carries by its memory; None while that is not known."""
        return None

    def uid_range(self) -> tuple[int, int] | None:
        """(first, last) of the uids that users get here, None where all instances run as the service.

        The first one is for trials that are no user's, the last two for the server and the gateway.
        """
        return None

    def tool_prefix(self, limits: ToolLimits) -> str | None:
        """The program by which a CLI started with these ``tool_limits`` is to run its tools' commands.

        Its path as the CLI sees it; its one argument is a command for a shell.
        None where the host has none. Raises ``LaunchFailed``.
        """
        return None

    def remove_leftovers(self, known: Collection[str], changed_before: float) -> int:
        """Remove what instances that are not ``known`` left in the data directory; how many directories.

        Only what was last changed before ``changed_before`` (seconds since 1970). Blocking: call
        it in a thread.
        """
        return 0

    def process_report(
        self, pids: Mapping[str, int], known: Collection[str], keepers: Collection[int]
    ) -> ProcessReport:
        """The processes of instances (id: the CLI's pid) below ``keepers``, and whatever is not ``known``.

        Blocking: call it in a thread. Of other hosts nothing is told.
        """
        return ProcessReport({}, ())

    def gateway_user(self) -> tuple[int | None, str | None]:
        """(uid of the model gateway, None for the service's own; what keeps it from having one, or None)."""
        return None, None
