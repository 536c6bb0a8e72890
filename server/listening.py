"""The listening socket: bound before anything else starts, handed on when the server replaces itself."""

from __future__ import annotations

import os
import socket
import ssl

from server.config import Server
from server.loopback import is_loopback
from server.secret_files import NotPrivate, check_private
from server.settings import ConfigError

BACKLOG = 1024


def bind(config: Server, *, inherited: int | None = None) -> socket.socket:
    """A bound socket that does not listen yet (an inherited one does). Raises ``OSError``."""
    if inherited is not None:
        os.set_inheritable(inherited, False)
        return socket.socket(fileno=inherited)
    family, kind, protocol, _, address = socket.getaddrinfo(
        config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def tls_context(config: Server) -> ssl.SSLContext | None:
    """None without a certificate. Raises ``ConfigError`` for one that cannot be used."""
    if config.tls_cert_file is None or config.tls_key_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        check_private(config.tls_key_file)
        context.load_cert_chain(config.tls_cert_file, config.tls_key_file)
    except NotPrivate as error:
        raise ConfigError(f"bad configuration:\n  server.tls_key_file: {error}") from error
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"bad configuration:\n  server.tls_cert_file: cannot be used: {error}") from error
    return context


def address_of(config: Server, listener: socket.socket) -> str:
    """``scheme://HOST:PORT`` as configured, with the port that was taken."""
    return _address(config, config.host, listener.getsockname()[1])


def link_address(config: Server, port: int) -> str:
    """What a one-time link begins with: an address that a browser can go to and that we know as ours."""
    if config.allowed_origins and not is_loopback(config.host):
        return config.allowed_origins[0].rstrip("/") + config.base_path
    host = "127.0.0.1" if config.host in ("", "0.0.0.0", "::") else config.host
    return _address(config, host, port) + config.base_path


def _address(config: Server, host: str, port: int) -> str:
    scheme = "https" if config.tls_cert_file else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
