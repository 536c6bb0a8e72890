"""Where a server may listen, and what leaves its environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from server.config import Server
from server.data_lock import DataLock, HeldElsewhere
from server.gateway.settings import describe, read_gateway_config
from server.listening import address_of, bind, link_address, tls_context
from server.model_keys import PLACEHOLDER, SETTLED, hand_on, move_keys, new_memory, settled_config
from server.pool_settings import quota_book
from server.rules import check_platform, check_replica, check_single_user, isolation_check
from server.settings import ConfigError, load_config

STRONG: tuple[str, str, list[str]] = ("bwrap", "gateway_only", [])
WEAK = ("none", "open", ["install bubblewrap"])


def config(**sections: Any) -> Any:
    return load_config(None, {}, sections)


@pytest.mark.parametrize(("system", "release"), [("Darwin", "23.1"), ("Linux", "5.3.9"), ("Linux", "odd")])
def test_other_machines_are_named_a_way(system: str, release: str) -> None:
    with pytest.raises(ConfigError, match="container or a virtual machine"):
        check_platform(system, release)


def test_linux_from_5_4_on_is_good() -> None:
    check_platform("Linux", "5.4.0-generic")
    check_platform()


def test_a_replica_is_told_at_once_all_that_it_lacks() -> None:
    whole: dict[str, Any] = {
        "replica": {"url": "http://10.0.0.1:8080"},
        "storage": {"url": "postgresql+psycopg://db/pool"},
        "hosts": [{"name": "one", "address": "10.0.1.1"}],
        "auth": {"jwt": {"secret": "x" * 32}},
        "pool": {"max_instances": 0},
    }
    check_replica(config(**whole))
    check_replica(config())
    bare = {"replica": whole["replica"], "multi_user": False, "storage": {"url": "sqlite+aiosqlite:////x"}}
    with pytest.raises(ConfigError) as refused:
        check_replica(config(**bare))
    for key in ("storage.url", "hosts", "auth.jwt.secret", "pool.max_instances", "multi_user"):
        assert key in str(refused.value)
        assert "/x" not in str(refused.value)
    with pytest.raises(ConfigError, match=r"replica.url: a replica needs hosts, for [^;]*$"):
        check_replica(config(**{**whole, "hosts": []}))


@pytest.mark.parametrize("url", ["10.0.0.1:8080", "http://", "http://a/path", "ftp://a"])
def test_a_replica_is_reached_at_an_origin(url: str) -> None:
    with pytest.raises(ConfigError, match=r"replica\.url"):
        config(replica={"url": url})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_single_user_mode_is_for_loopback_addresses(host: str) -> None:
    check_single_user(config(multi_user=False, server={"host": host}))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_single_user_mode_is_refused_elsewhere(host: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.host: single-user mode"):
        check_single_user(config(multi_user=False, server={"host": host}))
    check_single_user(config(server={"host": host}))


def test_weak_isolation_is_told_on_loopback_and_refused_elsewhere() -> None:
    assert isolation_check(config(), STRONG)["ok"] is True
    check = isolation_check(config(), WEAK)
    assert check["ok"] is False
    assert "install bubblewrap" in check["detail"]
    for isolation in (WEAK, ("uid", "gateway_only", []), ("bwrap", "open", [])):
        with pytest.raises(ConfigError, match="refusing to serve several users"):
            isolation_check(config(server={"host": "0.0.0.0"}), isolation)
    isolation_check(config(server={"host": "0.0.0.0"}), STRONG)


def test_weak_isolation_asked_for_by_both_names_serves_anywhere_and_says_so() -> None:
    named = {"mode": "none", "network": "open"}
    assert isolation_check(config(server={"host": "0.0.0.0"}, isolation=named), WEAK)["ok"] is False
    with pytest.raises(ConfigError):
        isolation_check(config(server={"host": "0.0.0.0"}, isolation={"mode": "none"}), WEAK)


def test_the_hosts_that_sessions_may_reach_are_named() -> None:
    hosts = ["example.org", "*.example.net:8443"]
    check = isolation_check(config(isolation={"egress_allow": hosts}), ("bwrap", "outbound", []))
    assert check == {
        "ok": True,
        "detail": "mode bwrap, network outbound, only to example.org, *.example.net:8443",
        "mode": "bwrap",
        "network": "outbound",
        "egress_allow": hosts,
    }
    assert "egress_allow" not in isolation_check(config(), STRONG)
    many = [f"h{number}.example.org" for number in range(25)]
    check = isolation_check(config(isolation={"egress_allow": many}), ("bwrap", "outbound", []))
    assert check["detail"].endswith(", h19.example.org and 5 more")
    assert check["egress_allow"] == many


def test_one_user_needs_no_walls() -> None:
    assert isolation_check(config(multi_user=False), WEAK)["ok"] is True


def test_a_key_in_the_environment_goes_to_the_gateways_file(tmp_path: Path) -> None:
    environ = {"ANTHROPIC_API_KEY": "sk-1", "HOME": "/x"}
    rest = move_keys(load_config(None, environ), tmp_path, environ)
    assert rest == {"HOME": "/x", "ANTHROPIC_API_KEY": PLACEHOLDER}
    assert describe(tmp_path) == {"provider": "anthropic", "kind": "anthropic", "demo": False}
    # After a reload nobody but the gateway's file knows the key; who has read it executes itself anew.
    assert move_keys(load_config(None, rest), tmp_path, rest) == rest
    key = read_gateway_config(tmp_path).providers["anthropic"].api_key
    assert key is not None
    assert key.get_secret_value() == "sk-1"


def test_providers_of_the_file_and_of_the_environment_come_together(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("providers: {mine: {kind: gateway, base_url: 'http://up.test'}}")
    environ = {"CLAUDE_POOL__PROVIDERS__MINE__AUTH_TOKEN": "t-1", "ANTHROPIC_API_KEY": "sk-unused"}
    rest = move_keys(load_config(file, environ), tmp_path, environ)
    assert rest == {
        "CLAUDE_POOL__PROVIDERS__MINE__AUTH_TOKEN": PLACEHOLDER,
        "ANTHROPIC_API_KEY": PLACEHOLDER,
    }
    assert move_keys(load_config(file, rest), tmp_path, rest) == rest
    token = read_gateway_config(tmp_path).providers["mine"].auth_token
    assert token is not None
    assert token.get_secret_value() == "t-1"


@pytest.mark.parametrize(
    ("variable", "value", "cleaned"),
    [
        ("HOUSE", "sk-canary-1", PLACEHOLDER),
        ("HOUSE", "Bearer sk-canary-1", f"Bearer {PLACEHOLDER}"),
        ("OTHER", '{"key": "sk-canary-1"}', f'{{"key": "{PLACEHOLDER}"}}'),
        ("PATH", "/bin", "/bin"),
    ],
)
def test_a_variable_of_any_name_loses_the_key(
    tmp_path: Path, variable: str, value: str, cleaned: str
) -> None:
    given = config(providers={"x": {"kind": "anthropic", "api_key": "sk-canary-1"}})
    rest = move_keys(given, tmp_path, {variable: value})
    assert rest == {variable: cleaned}


def test_a_key_that_is_gone_is_asked_for_again(tmp_path: Path) -> None:
    given = config(providers={"x": {"kind": "anthropic", "api_key": PLACEHOLDER}})
    with pytest.raises(ConfigError, match=r"providers\.x\.api_key .*again"):
        move_keys(given, tmp_path, {})


def test_the_configuration_is_handed_on_whole_but_for_the_keys(tmp_path: Path) -> None:
    given = config(
        providers={"x": {"kind": "anthropic", "api_key": "sk-canary-1", "prices": {"*": {"input": 1}}}},
        quotas={"plans": {"p": {"max_sessions": 3}}, "users": {"a": "p", "b": {"max_sessions": None}}},
        auth={"jwt": {"secret": "s" * 40}},
        cli={"path": "/opt/claude"},
    )
    descriptor = new_memory()
    hand_on(given, descriptor)
    environ = {SETTLED: str(descriptor)}
    taken = settled_config(environ)
    assert taken is not None
    assert environ == {}
    assert taken.providers["x"].api_key is None
    assert taken.providers["x"].prices == given.providers["x"].prices
    assert taken.model_copy(update={"providers": {}}) == given.model_copy(update={"providers": {}})
    assert quota_book(taken.quotas) == quota_book(given.quotas)
    assert settled_config({}) is None


def test_without_any_provider_the_demo_model_answers_again(tmp_path: Path) -> None:
    environ = {"ANTHROPIC_API_KEY": "sk-1"}
    move_keys(load_config(None, environ), tmp_path, environ)
    assert move_keys(load_config(None, {}), tmp_path, {"ANTHROPIC_API_KEY": ""}) is None
    assert describe(tmp_path)["demo"] is True


def test_a_provider_that_cannot_work_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"providers: providers\.x.*base_url"):
        move_keys(config(providers={"x": {"kind": "gateway"}}), tmp_path, {})


def test_the_data_directory_has_one_holder(tmp_path: Path) -> None:
    lock = DataLock(tmp_path)
    with pytest.raises(HeldElsewhere, match=f"in use by process {os.getpid()}"):
        DataLock(tmp_path)
    lock.release()
    DataLock(tmp_path).release()
    assert (tmp_path / "server.lock").stat().st_mode & 0o777 == 0o600


def test_addresses_are_what_people_can_open() -> None:
    listener = bind(Server(port=0))
    listener.listen()
    port = listener.getsockname()[1]
    with pytest.raises(OSError, match="in use"):
        bind(Server(port=port))
    assert address_of(Server(), listener) == f"http://127.0.0.1:{port}"
    listener.close()
    assert link_address(Server(host="0.0.0.0", base_path="/p"), 1) == "http://127.0.0.1:1/p"
    assert link_address(Server(host="::1"), 1) == "http://[::1]:1"
    public = Server(host="0.0.0.0", allowed_origins=["https://chat.example.org/"])
    assert link_address(public, 1) == "https://chat.example.org"


def test_a_certificate_that_is_none_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("no certificate")
    (tmp_path / "c").chmod(0o600)
    assert tls_context(Server()) is None
    with pytest.raises(ConfigError, match=r"server\.tls_cert_file"):
        tls_context(Server(tls_cert_file=tmp_path / "c", tls_key_file=tmp_path / "c"))
