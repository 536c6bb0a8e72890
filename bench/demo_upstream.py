"""``python -m bench.demo_upstream SOCKET``: the demo model as a provider of its own, on a socket and a port.

Prints the port. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from server.gateway.body import RequestBody
from server.gateway.demo.api import answer_as_demo


async def _answer(request: web.BaseRequest) -> web.StreamResponse:
    if request.path == "/":
        return web.Response()
    return await answer_as_demo(request, RequestBody(request), None)


async def _serve(path: str) -> None:
    runner = web.ServerRunner(web.Server(_answer))
    await runner.setup()
    await web.UnixSite(runner, path).start()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = next(address[1] for address in runner.addresses if isinstance(address, tuple))
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


@asynccontextmanager
async def demo_upstream(path: Path) -> AsyncIterator[int]:
    """The upstream as a process; gives its port."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.demo_upstream", str(path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.stdin.close()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
