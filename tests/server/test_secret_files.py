"""Secrets in files: only of a file that is its owner's alone."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from server.auth.tokens import signing_secret
from server.config import Jwt, Server
from server.listening import tls_context
from server.secret_files import NotPrivate, check_private, read_secret
from server.settings import ConfigError, load_config

SECRET = "canary-of-a-secret-51"
OPEN_MODES = (0o640, 0o604, 0o620, 0o602, 0o644, 0o777)


def file_of(path: Path, text: str, mode: int) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", OPEN_MODES)
def test_what_others_may_touch_is_refused_and_not_quoted(tmp_path: Path, mode: int) -> None:
    path = file_of(tmp_path / "s", SECRET, mode)
    with pytest.raises(NotPrivate, match="chmod 600") as caught:
        read_secret(path)
    assert SECRET not in str(caught.value)
    with pytest.raises(NotPrivate):
        check_private(path)
    with pytest.raises(NotPrivate):
        check_private(tmp_path)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_the_owners_own_is_read(tmp_path: Path, mode: int) -> None:
    path = file_of(tmp_path / "s", SECRET, mode)
    assert read_secret(path) == SECRET
    check_private(path)


def test_a_secret_of_the_configuration_may_lie_in_such_a_file_only(tmp_path: Path) -> None:
    path = file_of(tmp_path / "s", f"{SECRET}\n", 0o644)
    file = file_of(tmp_path / "config.yaml", f"auth: {{jwt: {{secret_file: {path}}}}}", 0o644)
    with pytest.raises(ConfigError, match=r"auth\.jwt: secret_file: .*chmod 600") as caught:
        load_config(file, {})
    assert SECRET not in str(caught.value)
    path.chmod(0o600)
    secret = load_config(file, {}).auth.jwt.secret
    assert secret is not None
    assert secret.get_secret_value() == SECRET


WRITTEN = {
    "auth.jwt.secret": f"auth: {{jwt: {{secret: {SECRET}}}}}",
    "auth.oidc.client_secret": f"auth: {{oidc: {{client_secret: {SECRET}}}}}",
    "storage.url": f"storage: {{url: 'postgresql+psycopg://u:{SECRET}@h/d'}}",
    "providers.house.api_key": f"providers: {{house: {{kind: anthropic, api_key: {SECRET}}}}}",
}


@pytest.mark.parametrize("key", WRITTEN)
def test_a_secret_in_the_configuration_itself_makes_it_a_secret_file(tmp_path: Path, key: str) -> None:
    file = file_of(tmp_path / "config.yaml", WRITTEN[key], 0o644)
    with pytest.raises(ConfigError, match=f"{key}: .*chmod 600") as caught:
        load_config(file, {})
    assert SECRET not in str(caught.value)
    file.chmod(0o600)
    load_config(file, {})


@pytest.mark.parametrize(
    "text",
    [
        "providers: {house: {kind: anthropic, api_key: '${KEY}'}}",
        "storage: {url: 'sqlite+aiosqlite:///x.db'}",
        "server: {port: 1}",
        "logging:",
    ],
)
def test_without_a_secret_in_it_the_configuration_may_be_read_by_all(tmp_path: Path, text: str) -> None:
    load_config(file_of(tmp_path / "config.yaml", text, 0o644), {"KEY": "k"})


def test_a_signing_secret_that_others_could_read_signs_nothing(tmp_path: Path) -> None:
    made, is_configured = signing_secret(Jwt(), tmp_path)
    path = tmp_path / "secrets/jwt.key"
    assert (is_configured, path.stat().st_mode & 0o777) == (False, 0o600)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        signing_secret(Jwt(), tmp_path)
    assert made not in str(caught.value)


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody vouches for, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "cert.pem").write_bytes(made.public_bytes(pem))
    return directory / "cert.pem", file_of(directory / "key.pem", plain.decode(), 0o600)


def test_a_key_of_ssh_that_others_may_read_is_refused(tmp_path: Path) -> None:
    key = file_of(tmp_path / "hosts_key", "a key", 0o600)
    hosts = [{"name": "h1", "address": "h1", "key_file": str(key)}]
    assert load_config(None, {}, {"hosts": hosts}).hosts[0].key_file == key
    key.chmod(0o640)
    with pytest.raises(ConfigError, match=r"hosts\.0\.key_file: .*chmod 600"):
        load_config(None, {}, {"hosts": hosts})
    key.unlink()
    assert load_config(None, {}, {"hosts": hosts}).hosts[0].key_file == key


def test_a_tls_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    config = Server(tls_cert_file=cert, tls_key_file=key)
    assert tls_context(config) is not None
    key.chmod(0o640)
    with pytest.raises(ConfigError, match=r"server\.tls_key_file: .*chmod 600"):
        tls_context(config)
