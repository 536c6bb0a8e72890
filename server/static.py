"""The web UI: the files of ``server/web``, served as they are."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from pool.errors import NotFound
from server.routes import Handler

WEB_DIR = Path(__file__).with_name("web")
_ABSENT = "The web UI is not in this installation: install a complete package, or use the API.\n"
# Told here and not guessed: what the machine's own table says differs, and a wrong type stops a script.
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}


def static_files(web_dir: Path = WEB_DIR) -> tuple[Handler, Handler]:
    """(the page itself, any file by ``{path}``), both as handlers.

    Whatever is no plain file of a known kind below ``web_dir`` is 404.
    """
    root = web_dir.resolve()

    async def index(_request: web.Request) -> web.StreamResponse:
        page = root / "index.html"
        if not page.is_file():
            return web.Response(status=404, text=_ABSENT)
        return _answer(page)

    async def file(request: web.Request) -> web.StreamResponse:
        wanted = request.match_info["path"]
        found = _find(root, wanted)
        if found is None:
            raise NotFound("there is nothing at this address")
        return _answer(found)

    return index, file


def _answer(path: Path) -> web.FileResponse:
    # Names carry no hash, so a browser asks each time; an ETag makes the answer 304.
    headers = {"Cache-Control": "no-cache", "Content-Type": _TYPES[path.suffix]}
    return web.FileResponse(path, headers=headers)


def _find(root: Path, wanted: str) -> Path | None:
    parts = wanted.split("/")
    if "\0" in wanted or any(part.startswith(".") or not part for part in parts):
        return None
    path = root.joinpath(*parts)
    try:
        found = path.resolve(strict=True)
    except (OSError, ValueError):
        return None
    if not found.is_relative_to(root) or not found.is_file() or found.suffix not in _TYPES:
        return None
    return found
