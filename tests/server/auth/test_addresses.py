"""Who a request comes from: the peer, or what a proxy of ours says, and nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from server.auth.addresses import TrustedProxies

PROXIES = TrustedProxies(["192.0.2.1", "10.0.0.0/8"])


def request(peer: str, *headers: tuple[str, str]) -> Any:
    made = make_mocked_request("GET", "/", headers=CIMultiDict(headers))
    return made.clone(remote=peer)


def hops(*values: str) -> list[tuple[str, str]]:
    return [("X-Forwarded-For", value) for value in values]


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("198.51.100.7", hops(), "198.51.100.7"),
        ("198.51.100.7", hops("203.0.113.1"), "198.51.100.7"),
        ("192.0.2.1", hops("203.0.113.1"), "203.0.113.1"),
        ("192.0.2.1", hops(), "192.0.2.1"),
        ("192.0.2.1", hops("6.6.6.6, 203.0.113.1"), "203.0.113.1"),
        ("192.0.2.1", hops("6.6.6.6, 203.0.113.1, 10.1.1.1"), "203.0.113.1"),
        # A proxy that adds a line of its own: the client's line comes first.
        ("192.0.2.1", hops("6.6.6.6", "203.0.113.1"), "203.0.113.1"),
        ("192.0.2.1", hops("192.0.2.1, 10.1.1.1", "203.0.113.1"), "203.0.113.1"),
        ("10.9.9.9", hops("10.1.1.1, 10.2.2.2"), "10.1.1.1"),
        ("::ffff:192.0.2.1", hops("::ffff:203.0.113.1"), "203.0.113.1"),
        ("192.0.2.1", hops("2001:DB8::1"), "2001:db8::1"),
        ("192.0.2.1", hops(" , ,"), "192.0.2.1"),
        ("192.0.2.1", hops("unknown"), "unknown"),
    ],
)
def test_the_last_hop_that_is_not_ours(peer: str, headers: list[tuple[str, str]], client: str) -> None:
    assert PROXIES.client_address(request(peer, *headers)) == client


@pytest.mark.parametrize(
    ("peer", "told", "is_https"),
    [
        ("192.0.2.1", ["https"], True),
        ("192.0.2.1", ["http", "HTTPS"], True),
        ("192.0.2.1", ["https", "http"], False),
        ("192.0.2.1", ["https, http"], False),
        ("198.51.100.7", ["https"], False),
        ("192.0.2.1", [], False),
    ],
)
def test_tls_is_told_by_the_proxy_that_we_see(peer: str, told: list[str], is_https: bool) -> None:
    headers = [("X-Forwarded-Proto", value) for value in told]
    assert PROXIES.is_https(request(peer, *headers)) == is_https


def test_what_stands_for_many() -> None:
    addresses = ("127.0.0.1", "::1", "10.3.3.3", "::ffff:10.3.3.3", "198.51.100.7", "", "odd")
    assert [PROXIES.stands_for_many(one) for one in addresses] == [True] * 4 + [False] * 3
