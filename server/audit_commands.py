"""``claude-pool audit``: verify the log and export it, with the server running or not."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import BinaryIO

import msgspec

from pool import AuditPlace, AuditVerdict, audit_snapshot, given_to, verify_audit
from pool.errors import BadRequest, PoolError
from server.beside import as_server, verdict_of
from server.commands import Site, perform
from server.control_client import ControlError
from server.settings import secret_text


def verify(site: Site, expected: tuple[str, ...], warn: Callable[[str], None]) -> AuditVerdict:
    """Is the log whole, and does it contain the ``expected`` places (``SEQ:HASH``)?

    That it was asked is written down first; where that cannot be, ``warn``
    tells and the log is read all the same. Raises ``BadRequest`` and ``StoreUnavailable``.
    """
    places = [(f"--expect {text[:20]}…", _place(text)) for text in expected]
    try:
        perform(site, "audit_noted", {"what": "verified"})
    except (PoolError, ControlError, OSError) as error:
        warn(f"that the log was verified could not be written down: {error}")
    uid = given_to(site.data_dir)
    if uid is not None:
        found = as_server(site, uid, "verify", {"expected": [(name, str(place)) for name, place in places]})
        return verdict_of(found)
    url, is_alone = secret_text(site.config.storage.url), site.config.replica.url is None
    return asyncio.run(verify_audit(site.data_dir, url, places, is_alone=is_alone))


def export(site: Site, after: int, user_id: str | None) -> int:
    """Write records as JSON lines to standard output; returns how many.

    First it is written down that they are exported, or nothing is.
    """
    perform(site, "audit_noted", {"what": "exported", "after": after or None, "user": user_id})
    uid = given_to(site.data_dir)
    if uid is not None:
        return int(as_server(site, uid, "audit_export", {"after": after, "user": user_id}, 1))
    return write_records(site, after, user_id, sys.stdout.buffer)


def write_records(site: Site, after: int, user_id: str | None, output: BinaryIO) -> int:
    """The records as lines to ``output``; returns how many."""
    count = 0
    url = secret_text(site.config.storage.url)
    with audit_snapshot(site.data_dir, url, after=after, user_id=user_id) as pages:
        for page in pages:
            lines = b"".join(msgspec.json.encode(record.as_line()) + b"\n" for record in page)
            output.write(lines)
            count += len(page)
    output.flush()
    return count


def _place(text: str) -> AuditPlace:
    try:
        return AuditPlace.parse(text)
    except ValueError as error:
        raise BadRequest("--expect is SEQ:HASH, as audit verify prints it") from error
