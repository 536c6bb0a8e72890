"""Has a session's Bash tool run a command, as a test wants it."""

from __future__ import annotations

import asyncio

from tests.e2e.site import Client, Frame


async def run_in_bash(viewer: Client, command: str, words: str = "run `{}`", seconds: float = 60) -> Frame:
    """Have the CLI's Bash tool run a command, allowing whatever it asks; the turn's ending.

    ``words`` is what makes the model do it: the demo model's, unless given.
    """
    turn = await viewer.send(words.format(command))
    answered: set[str] = set()
    async with asyncio.timeout(seconds):
        while not (ended := viewer.endings(turn)):
            for ask in viewer.of_type("permission_request"):
                if ask["request_id"] not in answered:
                    answered.add(ask["request_id"])
                    await viewer.put(type="permission", request_id=ask["request_id"], decision="allow")
            await asyncio.sleep(0.05)
    return ended[0]
