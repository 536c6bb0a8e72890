"""The configuration file: who may read it, what it may hold, when it is taken up."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from server.gateway import GatewayConfigError, Provider, describe, write_gateway_config
from server.gateway.configuration import LiveConfiguration
from server.gateway.settings import GatewaySettings, config_path, read_gateway_config, shown_path
from tests.server.gateway.harness import KEY

ANTHROPIC = {"kind": "anthropic", "api_key": KEY}


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    write_gateway_config(
        tmp_path,
        {
            "work": {**ANTHROPIC, "models": ["claude-x"], "prices": {"claude-x": {"input": 3.0}}},
            "local": Provider(kind="gateway", base_url="http://127.0.0.1:4000/", default=True),
        },
    )
    settings = read_gateway_config(tmp_path)
    name, provider = settings.default()
    assert (name, provider.url) == ("local", "http://127.0.0.1:4000")
    assert settings.choose("claude-x")[0] == "work"
    assert settings.choose("claude-y")[0] == "local"
    key = settings.providers["work"].api_key
    assert key is not None
    assert key.get_secret_value() == KEY


def test_the_file_is_ours_alone_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_gateway_config(tmp_path, {"work": ANTHROPIC})
    write_gateway_config(tmp_path, {})
    directory = tmp_path / "gateway"
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "providers.json"]
    assert stat.S_IMODE(config_path(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_without_a_provider_the_demo_model_answers(tmp_path: Path) -> None:
    assert describe(tmp_path) == {"provider": "demo", "kind": "demo", "demo": True}
    write_gateway_config(tmp_path, {})
    assert describe(tmp_path)["demo"] is True


def test_describe_tells_no_secret(tmp_path: Path) -> None:
    write_gateway_config(tmp_path, {"work": ANTHROPIC})
    assert describe(tmp_path) == {"provider": "work", "kind": "anthropic", "demo": False}
    assert KEY not in shown_path(tmp_path).read_text()
    # What it tells is not read from where the key is.
    config_path(tmp_path).write_text("no JSON")
    assert describe(tmp_path)["provider"] == "work"


@pytest.mark.parametrize(
    "provider",
    [
        {"kind": "anthropic"},
        {"kind": "gateway"},
        {"kind": "openai", "api_key": KEY},
        {"kind": "anthropic", "api_key": KEY + "\n"},
        {"kind": "anthropic", "api_key": KEY, "surprise": KEY},
        {"kind": "gateway", "base_url": "ftp://x", "api_key": KEY},
        {"kind": "gateway", "base_url": f"http://user:{KEY}@x"},
        {"kind": "gateway", "base_url": f"http://x/?key={KEY}"},
    ],
)
def test_a_provider_that_cannot_work_is_refused_without_telling_its_key(
    provider: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(GatewayConfigError) as refused:
        write_gateway_config(tmp_path, {"work": provider})
    assert "work" in str(refused.value)
    assert KEY not in str(refused.value)
    assert not config_path(tmp_path).exists()


def test_two_defaults_are_refused() -> None:
    with pytest.raises(ValueError, match="default"):
        GatewaySettings.model_validate({"providers": {n: {**ANTHROPIC, "default": True} for n in "ab"}})


def test_a_secret_shows_in_no_representation() -> None:
    assert KEY not in repr(Provider.model_validate(ANTHROPIC))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_that_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    write_gateway_config(tmp_path, {"work": ANTHROPIC})
    config_path(tmp_path).chmod(mode)
    with pytest.raises(GatewayConfigError, match="chmod"):
        read_gateway_config(tmp_path)
    described = describe(tmp_path)
    assert described["demo"] is False
    assert "chmod" in described["error"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    write_gateway_config(tmp_path, {"work": ANTHROPIC})
    os.chown(config_path(tmp_path), 12345, -1)
    with pytest.raises(GatewayConfigError, match="12345"):
        read_gateway_config(tmp_path)


def test_a_link_and_a_broken_file_are_refused(tmp_path: Path) -> None:
    write_gateway_config(tmp_path, {})
    path = config_path(tmp_path)
    path.write_text("{")
    with pytest.raises(GatewayConfigError, match="JSON"):
        read_gateway_config(tmp_path)
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    with pytest.raises(GatewayConfigError):
        read_gateway_config(tmp_path)


def test_a_change_is_taken_up_with_the_next_call(tmp_path: Path) -> None:
    live = LiveConfiguration(tmp_path)
    assert live.current().default()[0] == "demo"
    write_gateway_config(tmp_path, {"work": ANTHROPIC})
    before = live.current()
    assert before.default()[0] == "work"
    assert live.current() is before
    config_path(tmp_path).chmod(0o644)
    with pytest.raises(GatewayConfigError):
        live.current()
    config_path(tmp_path).chmod(0o600)
    assert live.current().default()[0] == "work"
    config_path(tmp_path).unlink()
    assert live.current().default()[0] == "demo"


def test_the_file_holds_what_the_contract_names(tmp_path: Path) -> None:
    write_gateway_config(tmp_path, {"work": Provider.model_validate(ANTHROPIC)})
    written = json.loads(config_path(tmp_path).read_text())
    assert written["providers"]["work"]["api_key"] == KEY
