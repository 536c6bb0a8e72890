"""Headers that every answer has: what a browser may do with it, and for how long to keep it."""

from __future__ import annotations

from aiohttp import web

from server.services import services_of

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


def plain_headers() -> dict[str, str]:
    """For an answer to what is no request: nothing to load, nothing to keep."""
    policy = "default-src 'none'; frame-ancestors 'none'"
    return {
        **_ALWAYS,
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Server": "claude-pool",
    }


async def add_security_headers(request: web.Request, response: web.StreamResponse) -> None:
    """An ``on_response_prepare`` signal."""
    headers = response.headers
    for name, value in _ALWAYS.items():
        headers.setdefault(name, value)
    headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    headers.setdefault("Cache-Control", "no-store")
    # aiohttp would tell its own and Python's version.
    headers["Server"] = "claude-pool"
    if services_of(request).proxies.is_https(request):
        headers.setdefault("Strict-Transport-Security", "max-age=31536000")
