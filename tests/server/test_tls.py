"""The server's own certificate: which one a client is shown, before and after a reload."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509

from server.config import Server
from server.listening import tls_context
from server.settings import ConfigError
from tests.server.server_process import run, serving
from tests.server.site import running
from tests.server.test_secret_files import certificate
from tests.server.test_serving import fake


def shown(url: str) -> int:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    place = urlsplit(url)
    assert place.scheme == "https"
    with (
        socket.create_connection((place.hostname, place.port), 20) as plain,
        context.wrap_socket(plain) as secure,
    ):
        raw = secure.getpeercert(binary_form=True)
    assert raw is not None
    return x509.load_der_x509_certificate(raw).serial_number


def serial_of(cert: Path) -> int:
    return x509.load_pem_x509_certificate(cert.read_bytes()).serial_number


async def test_who_starts_anew_shows_the_renewed_certificate_and_who_runs_the_old(short_dir: Path) -> None:
    cert, key = certificate(short_dir)
    first, config = serial_of(cert), Server(tls_cert_file=cert, tls_key_file=key)
    async with running(short_dir / "one", tls=tls_context(config)) as before:
        certificate(short_dir)
        second = serial_of(cert)
        assert second != first
        async with running(short_dir / "two", tls=tls_context(config)) as after:
            served = [await asyncio.to_thread(shown, f"https{site.origin[4:]}") for site in (before, after)]
    assert served == [first, second]
    key_of_first = key.read_text()
    certificate(short_dir)
    key.write_text(key_of_first)
    with pytest.raises(ConfigError, match=r"server\.tls_cert_file: cannot be used"):
        tls_context(config)


@pytest.mark.acceptance
async def test_a_renewed_certificate_is_shown_after_a_reload(short_dir: Path, fake_claude: Path) -> None:
    data = short_dir / "data"
    cert, key = certificate(short_dir)
    first = serial_of(cert)
    environment = fake(fake_claude) | {
        "CLAUDE_POOL__SERVER__TLS_CERT_FILE": str(cert),
        "CLAUDE_POOL__SERVER__TLS_KEY_FILE": str(key),
    }
    async with serving(data, **environment) as server:
        assert await asyncio.to_thread(shown, server.url) == first
        certificate(short_dir)
        second = serial_of(cert)
        assert second != first
        # files alone change nothing: half of a renewal must not be taken up
        assert await asyncio.to_thread(shown, server.url) == first
        done = await run(data, "reload", **environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert await asyncio.to_thread(shown, server.url) == second
