"""The keeper's program: ``python -I -m pool.keeper --data DIR --runtime DIR …``.

Exit codes: 0 ended as told, 1 could not serve or something outlived KILL,
2 wrong usage, 3 another keeper has this data directory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pool.keeper import wire
from pool.keeper.bounds import Bounds
from pool.keeper.cgroup import AUTO
from pool.keeper.gateway_process import service_uid, shown_paths
from pool.keeper.log import Log
from pool.keeper.places import check_places
from pool.keeper.program import HeldElsewhere, Program, Settings, take_lock
from pool.keeper.takeover import check, log_path, take_over
from pool.keeper.upgrade import CHECK_OPTION, STATE_OPTION


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a keeper until it is told to leave; see the module for the exit codes."""
    options = _parse(arguments)
    if options.check:
        return check(_settings(options), options.state_fd)
    if options.state_fd is not None:
        return take_over(_settings(options), options.state_fd)
    if options.detach:
        return _detach(options)
    return _serve(options, None)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pool.keeper", description="Holds the CLIs of this host.")
    parser.add_argument("--data", type=Path, required=True, help="the data directory")
    parser.add_argument("--runtime", type=Path, required=True, help="the short directory for sockets")
    parser.add_argument("--lease", type=float, required=True, help="seconds to live without a server")
    parser.add_argument("--spool-max", type=int, required=True, help="bytes of uncommitted output")
    parser.add_argument("--segment", type=int, required=True, help="bytes of a spool segment")
    parser.add_argument("--gateway-command", type=json.loads, help="the gateway's program, a JSON list")
    parser.add_argument("--gateway-uid", type=int, help="the service user that the gateway runs as")
    parser.add_argument(
        "--gateway-shown", type=json.loads, default=(), help="paths that it is shown, a JSON list"
    )
    parser.add_argument("--service-uid", type=int, help="whom the server runs as, who is kept in bounds")
    parser.add_argument(
        "--uid-range",
        type=_uid_range,
        help="FIRST:LAST, the uids of users; the last but one is the service's, the last the gateway's",
    )
    parser.add_argument("--detach", action="store_true", help="return once the keeper listens")
    parser.add_argument(
        "--protocol-max",
        type=int,
        choices=range(wire.VERSION_MIN, wire.VERSION_MAX + 1),
        default=wire.VERSION_MAX,
        help="the highest version of the protocol to speak",
    )
    parser.add_argument(
        "--cgroup",
        default=AUTO,
        help="control groups: auto (the keeper's own if it was delegated), off, or a directory",
    )
    parser.add_argument(STATE_OPTION, type=int, dest="state_fd", help="take over from the image before")
    parser.add_argument(CHECK_OPTION, action="store_true", help="only try whether that would work")
    options = parser.parse_args(arguments)
    try:
        options.bounds = _bounds(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def _uid_range(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    return int(first), int(last)


def _bounds(options: argparse.Namespace) -> Bounds | None:
    """Raises ``ValueError`` rather than be a keeper that a server can make its way to root by."""
    if options.service_uid is None:
        return None
    if options.uid_range is None or os.geteuid() != 0:
        raise ValueError("--service-uid needs --uid-range and a keeper of root's")
    first, last = options.uid_range
    if options.gateway_command is not None and options.gateway_uid != last:
        raise ValueError("--service-uid needs --gateway-uid, the last of --uid-range")
    return Bounds(options.data.absolute(), options.service_uid, first, last)


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        data_dir=options.data.absolute(),
        runtime_dir=options.runtime.absolute(),
        lease_seconds=options.lease,
        spool_max_bytes=options.spool_max,
        segment_bytes=options.segment,
        gateway_command=options.gateway_command,
        version_max=options.protocol_max,
        cgroup=options.cgroup,
        gateway_uid=service_uid(options.gateway_uid),
        gateway_shown=shown_paths(options.gateway_shown),
        bounds=options.bounds,
    )


def _serve(options: argparse.Namespace, ready_fd: int | None) -> int:
    settings = _settings(options)
    try:
        if settings.bounds is not None:
            settings.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
            check_places(settings.data_dir, settings.bounds.gateway_uid)
    except OSError as error:
        return _fail(Log(Path(os.devnull)), ready_fd, f"the keeper cannot start: {error}", 1)
    (settings.data_dir / "keeper").mkdir(mode=0o700, parents=True, exist_ok=True)
    log = Log(log_path(settings))
    try:
        program = Program(settings, log, take_lock(settings))
        program.open()
    except HeldElsewhere as error:
        return _fail(log, ready_fd, str(error), 3)
    except OSError as error:
        return _fail(log, ready_fd, f"the keeper cannot start: {error}", 1)
    if ready_fd is not None:
        os.write(ready_fd, b"ready")
        os.close(ready_fd)
    return program.run()


def _fail(log: Log, ready_fd: int | None, message: str, code: int) -> int:
    log.write("not_started", error=message)
    if ready_fd is None:
        print(message, file=sys.stderr)
    else:
        os.write(ready_fd, message.encode())
    return code


def _detach(options: argparse.Namespace) -> int:
    """Serve in a session of its own; return to the caller when it listens or has failed."""
    ready_read, ready_write = os.pipe()
    if os.fork() == 0:
        code = 1
        try:
            os.close(ready_read)
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.close(null)
            code = _serve(options, ready_write)
        finally:
            os._exit(code)
    os.close(ready_write)
    with os.fdopen(ready_read, "rb") as answer:
        text = answer.read().decode(errors="replace")
    if text == "ready":
        return 0
    print(text or "the keeper ended before it listened; see keeper/keeper.log", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
