"""How long whoever asks waits for the database, before being told to come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pool.errors import StoreTimeout

_RETRY_SECONDS = 5.0


@asynccontextmanager
async def store_answers(seconds: float, message_id: str | None = None) -> AsyncIterator[None]:
    """Bound a block that waits for the store; 0: it may take for ever. Raises ``StoreTimeout``.

    What was handed to the store before stays on its way there. A message
    that is sent again with its ``message_id`` finds it, or is the first one.
    """
    scope = asyncio.timeout(seconds or None)
    try:
        async with scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        again = "" if message_id is None else ", with the same message_id: it runs once"
        raise StoreTimeout(
            f"the store does not answer; try again{again}",
            retry_after_seconds=_RETRY_SECONDS,
            details={} if message_id is None else {"message_id": message_id},
        ) from None
