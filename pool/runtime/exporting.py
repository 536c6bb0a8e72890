"""All of a user's data as one streamed tar archive: rows, workspace, transcripts; no secret."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator

from pool.store.personal import PersonalData
from pool.workspace import archive
from pool.workspace.host_files import HostFiles


async def export(data: PersonalData, files: HostFiles, user_id: str) -> AsyncGenerator[bytes]:
    """The archive's pieces. Raises ``NotFound`` before the first one, ``StoreUnavailable``.

    ``account.json``, ``NAME-NNNNN.jsonl`` for each kind of row,
    ``sessions/ID/`` with turns, approvals and the events, ``workspace/``,
    ``transcripts/`` (the CLI's own record of each conversation) and
    ``egress/`` (to which hosts sessions connected, or were not let).
    """
    async for name, content in data.parts(user_id):
        yield archive.member(name, content)
    async for piece in _in_threads(files.archive(user_id)):
        yield piece
    yield archive.end()


async def _in_threads(pieces: Iterator[bytes]) -> AsyncGenerator[bytes]:
    try:
        while chunk := await asyncio.to_thread(_gathered, pieces):
            yield chunk
    finally:
        await asyncio.to_thread(pieces.close)  # type: ignore[attr-defined]


def _gathered(pieces: Iterator[bytes]) -> bytes:
    """Small pieces together: a step in a thread costs more than a header."""
    chunk = bytearray()
    for piece in pieces:
        chunk += piece
        if len(chunk) >= archive.PIECE_BYTES:
            break
    return bytes(chunk)
