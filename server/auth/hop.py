"""The hop from one replica to another: proven by a key that all replicas have, so nobody else is believed.

A replica that stands by sends what comes to it to the owner, and says for
whom: the address that the client has, how it came, and what a proxy may have
said of it. The owner believes that only with the proof, which is made for
this request and for this ownership: kept, it is good for nothing later.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from aiohttp import web

HEADER = "X-Claude-Pool-Hop"

_PURPOSE = b"claude-pool: the hop between replicas"
_VERSION = "1"


@dataclass(frozen=True, slots=True)
class Hop:
    """What the replica that a request came to knows of it.

    ``epoch``: of whom it takes for the owner. ``is_by_proxy``: its peer was a
    proxy of ``server.trusted_proxies``. ``is_hearsay``: a proxy that is not
    one of them had sent it.
    """

    epoch: int
    client: str
    is_https: bool = False
    is_by_proxy: bool = False
    is_hearsay: bool = False


HOP: web.RequestKey[Hop] = web.RequestKey("replica_hop", Hop)
"""Of a request that another replica has sent here, once that is proven."""


class HopKey:
    """Made of the secret that all replicas sign tokens with; says nothing of it."""

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), _PURPOSE, hashlib.sha256)

    def header(self, hop: Hop, method: str, target: str) -> str:
        """The header's value for a request ``method target``."""
        words = self._words(hop)
        return f"{words} {self._proof(words, method, target)}"

    def read(self, header: str, method: str, target: str) -> Hop | None:
        """What the header says; None for one that nobody with the key has made for this request."""
        words, _, proof = header.rpartition(" ")
        if not hmac.compare_digest(proof.encode(), self._proof(words, method, target).encode()):
            return None
        version, epoch, marks, client = words.split(" ", 3)
        if version != _VERSION:
            return None
        return Hop(int(epoch), client, "s" in marks, "p" in marks, "h" in marks)

    @staticmethod
    def _words(hop: Hop) -> str:
        marks = {"s": hop.is_https, "p": hop.is_by_proxy, "h": hop.is_hearsay}
        said = "".join(mark for mark, holds in marks.items() if holds) or "-"
        return f"{_VERSION} {hop.epoch} {said} {hop.client}"

    def _proof(self, words: str, method: str, target: str) -> str:
        return hmac.new(self._key, f"{words}\n{method}\n{target}".encode(), hashlib.sha256).hexdigest()
