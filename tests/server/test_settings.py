"""The configuration: defaults, layers, and one message for everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pool.config import Quota
from pool.errors import BadRequest
from server.config import ServerConfig
from server.pool_settings import keys_not_in_effect, to_pool_config
from server.settings import ConfigError, load_config, secret_text


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    file.chmod(0o600)
    return file


def test_defaults_are_those_of_the_contract() -> None:
    config = load_config(None, {})
    assert config == ServerConfig()
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8080)
    assert config.server.max_message_bytes == 16777216
    assert config.auth.token_ttl_seconds == 86400
    assert config.auth.oidc.scopes == ["openid", "email", "profile"]
    assert config.pool.idle_timeout_seconds == 900
    assert config.pool.spool_max_bytes == 536870912
    assert config.quotas.default.memory_bytes == 4294967296
    assert config.isolation.uid_range == (200000, 265535)
    assert config.security.permission_modes == ["default", "acceptEdits", "plan"]


def test_an_empty_file_and_blank_sections_are_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, ""), {}) == ServerConfig()
    assert load_config(write(tmp_path, "server:\npool:\n"), {}) == ServerConfig()


def test_variables_are_expanded_in_every_string(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        'server: {host: "${HOST}", port: "${PORT:-9000}", base_path: "/${A}${B:-x}", '
        'tls_key_file: "${NO:-}"}\n',
    )
    config = load_config(file, {"HOST": "::1", "A": "pool"})
    assert (config.server.host, config.server.port) == ("::1", 9000)
    assert config.server.base_path == "/poolx"
    assert config.server.tls_key_file is None


def test_a_missing_variable_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.host: the environment variable NOPE is not set"):
        load_config(write(tmp_path, 'server: {host: "${NOPE}"}'), {})


def test_the_environment_is_over_the_file_and_the_command_line_over_both(tmp_path: Path) -> None:
    file = write(tmp_path, "server: {port: 1, allowed_origins: [https://a.test]}\npool: {queue_length: 7}\n")
    environ = {
        "CLAUDE_POOL__SERVER__PORT": "2",
        "CLAUDE_POOL__SERVER__ALLOWED_ORIGINS": '["https://b", "https://c"]',
        "CLAUDE_POOL__POOL__MAX_INSTANCES": "null",
    }
    config = load_config(file, environ, {"server": {"port": 3}})
    assert config.server.port == 3
    assert config.server.allowed_origins == ["https://b", "https://c"]
    assert config.pool.queue_length == 7
    assert config.pool.max_instances is None


def test_maps_come_from_the_environment_whole_or_key_by_key() -> None:
    environ = {
        "CLAUDE_POOL__QUOTAS__USERS": '{"alice": "small", "Bob": {"max_instances": null}}',
        "CLAUDE_POOL__QUOTAS__PLANS__SMALL__MAX_SESSIONS": "3",
        "CLAUDE_POOL__PROVIDERS": '{"main": {"kind": "gateway", "base_url": "http://upstream.test"}}',
        "CLAUDE_POOL__PROVIDERS__MAIN__API_KEY": "sk-1",
    }
    config = load_config(None, environ)
    assert secret_text(config.providers["main"].api_key) == "sk-1"
    book = to_pool_config(config, Path("data"), {}).quotas
    assert book.for_user("alice") == Quota(max_sessions=3)
    assert book.for_user("Bob") == Quota(max_instances=None)


@pytest.mark.parametrize("name", ["MULTI_USER", "CLAUDE_POOL__MULTI_USER"])
def test_multi_user_0_is_single_user(name: str) -> None:
    assert load_config(None, {name: "0"}).multi_user is False
    assert load_config(None, {name: "1"}).multi_user is True


def test_every_bad_key_is_named_in_one_message_without_any_value(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
server: {prot: 1, port: 70000}
storage: {url: [sekrit-1]}
quotas: {default: {max_processes: sekrit-2}, users: {al: {foo: 1}}}
isolation: {mode: jail, uid_range: [5, 1]}
auth: {jwt: {secret: sekrit-3, secret_file: /x}}
providers: {x: {kind: other, api_key: sekrit-4}, y: 5}
colour: blue
hosts: [{name: a}]
""",
    )
    environ = {"CLAUDE_POOL__POOL__QUEUE_LENGTH": "sekrit-5", "CLAUDE_POOL__FOO__BAR": "sekrit-6"}
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ)
    text = str(caught.value)
    for line in (
        "server.prot: unknown key (did you mean port?)",
        "server.port: ",
        "storage.url: ",
        "quotas.default.max_processes: ",
        "quotas.users.al.foo: unknown key",
        "isolation.mode: ",
        "isolation.uid_range: ",
        "auth.jwt: give secret or secret_file, not both",
        "providers.x.kind: ",
        "providers.y: ",
        "colour: unknown key",
        "hosts.0.address: ",
        "pool.queue_length: ",
        "(from CLAUDE_POOL__POOL__QUEUE_LENGTH)",
        "foo: unknown key",
    ):
        assert line in text
    assert "sekrit" not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {port: [", "is not YAML at line"),
        ("- a", "must be a map"),
        ("server: 5", "server: "),
        ("quotas: {users: {al: gold}}", "plans that do not exist: gold"),
        ("server: {base_path: x}", "server.base_path: "),
        ("server: {allowed_origins: [example.org]}", "server.allowed_origins: "),
        ("server: {trusted_proxies: [proxy]}", "server.trusted_proxies: "),
        ("server: {tls_cert_file: /x}", "go together"),
        ("auth: {proxy_header: X-User}", "needs server.trusted_proxies"),
        ("security: {permission_modes: [plan]}", "must contain 'default'"),
        ("providers: {a: {kind: demo, default: true}, b: {kind: demo, default: true}}", "at most one"),
        ("providers: {'../x': {kind: demo}}", "provider name must be"),
        ("pool: {idle_timeout_seconds: -1}", "pool.idle_timeout_seconds: "),
        ("pool: {idle_timeout_seconds: .nan}", "pool.idle_timeout_seconds: "),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), {})
    assert message in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "none.yaml", {})


def test_every_secret_can_be_given_as_a_file_and_is_never_printed(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("hush\n")
    (tmp_path / "s").chmod(0o600)
    path = tmp_path / "s"
    file = write(
        tmp_path,
        f"""
auth: {{jwt: {{secret_file: {path}}}, oidc: {{client_secret_file: {path}}}}}
storage: {{url_file: {path}}}
providers: {{a: {{kind: anthropic, api_key_file: {path}, auth_token_file: {path}}}}}
""",
    )
    config = load_config(file, {})
    provider = config.providers["a"]
    secrets = [config.auth.jwt.secret, config.auth.oidc.client_secret, config.storage.url]
    assert [secret_text(one) for one in (*secrets, provider.api_key, provider.auth_token)] == ["hush"] * 5
    assert "hush" not in repr(config)
    with pytest.raises(ConfigError, match="secret_file cannot be read"):
        load_config(write(tmp_path, "auth: {jwt: {secret_file: /nowhere/at/all}}"), {})


def test_the_key_in_the_environment_makes_a_provider_only_if_there_is_none(tmp_path: Path) -> None:
    environ = {"ANTHROPIC_API_KEY": "sk-2"}
    made = load_config(None, environ).providers
    assert made["anthropic"].default
    assert secret_text(made["anthropic"].api_key) == "sk-2"
    assert set(load_config(write(tmp_path, "providers: {mine: {kind: demo}}"), environ).providers) == {"mine"}


def test_the_pool_is_told_everything_it_knows(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
cli: {path: /opt/claude, extra_args: [--debug], env: [LANG, FOO=bar, MISSING]}
pool: {max_instances: 5, spawn_concurrency: 3, drain_timeout_seconds: 1.5}
isolation: {mode: none, network: open}
storage: {url: "postgresql+psycopg://u:p@db/x"}
""",
    )
    pool = to_pool_config(load_config(file, {}), tmp_path, {"LANG": "C"})
    assert pool.cli_path == Path("/opt/claude")
    assert pool.cli_extra_args == ("--debug",)
    assert pool.cli_env == {"LANG": "C", "FOO": "bar"}
    assert (pool.max_instances, pool.spawn_gate, pool.drain_timeout_seconds) == (5, 3, 1.5)
    assert (pool.isolation_mode, pool.isolation_network) == ("none", "open")
    assert pool.storage_url == "postgresql+psycopg://u:p@db/x"
    assert (pool.turn_stall_seconds, pool.disk_reserve_bytes, pool.retention_days) == (600, 268435456, 90)
    file = write(
        tmp_path, "storage: {retention_days: 7}\npool: {turn_stall_seconds: 0, disk_reserve_bytes: 1}\n"
    )
    pool = to_pool_config(load_config(file, {}), tmp_path, {})
    assert (pool.turn_stall_seconds, pool.disk_reserve_bytes, pool.retention_days) == (0, 1, 7)


def test_keys_without_an_effect_are_told(tmp_path: Path) -> None:
    assert keys_not_in_effect(ServerConfig()) == []
    file = write(tmp_path, "security: {allowed_slash_commands: [clear]}\npool: {warm_spares: 2}\n")
    assert keys_not_in_effect(load_config(file, {})) == [
        "pool.warm_spares",
        "security.allowed_slash_commands",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pool: {max_instances: 0}", "max_instances"),
        ("hosts: [{name: a, address: x}, {name: a, address: y}]", "name of its own"),
        ("hosts: [{name: local, address: x}]", "local"),
        ("hosts: [{name: a/b, address: x}]", "name"),
    ],
)
def test_hosts_have_names_that_can_be_told_apart(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises((ConfigError, BadRequest), match=problem):
        to_pool_config(load_config(write(tmp_path, f"{text}\n"), {}), tmp_path, {})


def test_a_machine_may_run_nothing_beside_hosts(tmp_path: Path) -> None:
    text = "pool: {max_instances: 0}\nhosts: [{name: far, address: far.example, capacity: 3}]\n"
    config = load_config(write(tmp_path, text), {})
    assert keys_not_in_effect(config) == []
    pool = to_pool_config(config, tmp_path, {})
    assert pool.max_instances == 0
    assert [(host.name, host.capacity) for host in pool.hosts] == [("far", 3)]
