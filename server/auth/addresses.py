"""From which address a request comes, and whether by TLS: told by the connection, or by a proxy of ours."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from aiohttp import web

from server.auth.hop import HOP, Hop

_FORWARDED = ("X-Forwarded-For", "Forwarded", "Via")


class TrustedProxies:
    """Which peers may speak for others: addresses and networks of ``server.trusted_proxies``."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(item, strict=False) for item in networks]

    def is_trusted(self, address: str | None) -> bool:
        """Is it a proxy of ours?"""
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._networks)

    def stands_for_many(self, address: str) -> bool:
        """May many people come from it? A proxy of ours, or this machine, where a proxy mostly runs."""
        parsed = _parsed(address)
        return parsed is not None and (parsed.is_loopback or self.is_trusted(address))

    def client_address(self, request: web.Request) -> str:
        """The address of the client, through as many of our proxies as there are.

        Each proxy adds the peer that it saw at the end; what stands before the
        last one that is not ours may be anybody's invention.
        """
        hop: Hop | None = request.get(HOP)
        if hop is not None:
            return hop.client
        address = request.remote or "unknown"
        hops = _listed(request, "X-Forwarded-For")
        while hops and self.is_trusted(address):
            address = hops.pop()
        parsed = _parsed(address)
        return address if parsed is None else str(parsed)

    def is_https(self, request: web.Request) -> bool:
        """Did the browser come by TLS, here, at our proxy or at another replica?"""
        hop: Hop | None = request.get(HOP)
        if hop is not None:
            return hop.is_https
        told = _listed(request, "X-Forwarded-Proto") if self.is_trusted(request.remote) else []
        return told[-1].lower() == "https" if told else request.secure

    def speaks_for(self, request: web.Request) -> bool:
        """Did a proxy of ours send it, here or to another replica?"""
        hop: Hop | None = request.get(HOP)
        return self.is_trusted(request.remote) if hop is None else hop.is_by_proxy

    def is_hearsay(self, request: web.Request) -> bool:
        """Did a proxy send it that is not ours? Then it comes from anywhere."""
        hop: Hop | None = request.get(HOP)
        if hop is not None:
            return hop.is_hearsay
        return any(name in request.headers for name in _FORWARDED) and not self.is_trusted(request.remote)


def _listed(request: web.Request, name: str) -> list[str]:
    """The items of a header that may be there several times, a line each or in one."""
    joined = ",".join(request.headers.getall(name, ()))
    return [item.strip() for item in joined.split(",") if item.strip()]


def _parsed(address: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address; an IPv4 one that came to an IPv6 socket is an IPv4 one."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed
