"""Reads the configuration: a YAML file, over it the environment, over it the command line.

``${NAME}`` and ``${NAME:-default}`` are expanded in every string of the file;
``CLAUDE_POOL__SECTION__KEY`` sets one key, lists and maps as JSON. Whatever is
wrong is told in one ``ConfigError`` that names every bad key and no value: a
value may be a secret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from server.config import ServerConfig
from server.secret_files import is_private
from server.sections import is_secret, section_in

ENV_PREFIX = "CLAUDE_POOL__"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class ConfigError(Exception):
    """The configuration cannot be used; the message names every bad key."""


def load_config(
    file: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
) -> ServerConfig:
    """The configuration in force.

    ``file`` None means no file. ``overrides`` is a nested map with the last
    word (the command line). Raises ``ConfigError``.
    """
    problems: list[str] = []
    raw = _read_yaml(file) if file else {}
    if file is not None and not is_private(file):
        problems += [
            f"{key}: stands in {file}, which others may read: chmod 600 {file}, or use ${{VARIABLE}}"
            for key in _written_secrets(raw, ServerConfig)
        ]
    data = _expanded(raw, environ, (), problems) if file else {}
    origins = _merge_environment(data, environ)
    _merge(data, overrides or {})
    _merge_model_key(data, environ)
    try:
        config = ServerConfig.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_input=False, include_url=False, include_context=True)
        problems += [_describe(item, origins) for item in details]
        config = None
    if problems or config is None:
        where = f" in {file}" if file else ""
        raise ConfigError(f"bad configuration{where}:\n" + "\n".join(f"  {line}" for line in problems))
    return config


def _read_yaml(file: Path) -> Any:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot read the configuration {file}: {error}") from error
    except yaml.MarkedYAMLError as error:
        # The error's own text quotes the line, which may hold a secret.
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{file} is not YAML{place}: {error.problem}") from None
    except yaml.YAMLError:
        raise ConfigError(f"{file} is not YAML") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{file} must be a map of sections")
    return data


def _written_secrets(raw: Any, model: type[BaseModel], place: str = "") -> Iterator[str]:
    """The keys of secrets that stand in the file themselves, and not as a variable."""
    if not isinstance(raw, dict):
        return
    for name, field in model.model_fields.items():
        value = raw.get(name)
        inner = section_in(field.annotation)
        if is_secret(field.annotation):
            # A database's address is a secret only with a password in it.
            if isinstance(value, str) and "${" not in value and (name != "url" or "@" in value):
                yield f"{place}{name}"
        elif inner is not None and isinstance(value, dict):
            is_map = not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel))
            for key, item in value.items() if is_map else [("", value)]:
                yield from _written_secrets(item, inner, f"{place}{name}." + (f"{key}." if is_map else ""))


def _expanded(value: Any, environ: Mapping[str, str], path: tuple[str, ...], problems: list[str]) -> Any:
    """``value`` with variables put in; empty maps stand for sections left blank."""
    if isinstance(value, dict):
        return {
            key: _expanded(_blank(path, key, item), environ, (*path, str(key)), problems)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_expanded(item, environ, (*path, str(index)), problems) for index, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value

    def put_in(match: re.Match[str]) -> str:
        text = environ.get(match[1])
        if not text and match[2] is not None:
            text = match[2]
        if text is None:
            problems.append(f"{'.'.join(path)}: the environment variable {match[1]} is not set")
            return ""
        return text

    # A value that is one variable with nothing in it was left out on purpose.
    return _VARIABLE.sub(put_in, value) or None


def _blank(path: tuple[str, ...], key: object, item: Any) -> Any:
    """A section with nothing under it is an empty map, not null."""
    field = ServerConfig.model_fields.get(str(key)) if not path else None
    is_section = (
        field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    )
    return {} if item is None and is_section else item


def _merge_environment(data: dict[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Put ``CLAUDE_POOL__…`` into ``data``; returns which key came from which variable."""
    origins: dict[str, str] = {}
    if environ.get("MULTI_USER"):
        data["multi_user"] = environ["MULTI_USER"]
        origins["multi_user"] = "MULTI_USER"
    # Short names first: a whole map as JSON, then single keys of it.
    for name in sorted(name for name in environ if name.startswith(ENV_PREFIX)):
        path = name.removeprefix(ENV_PREFIX).lower().split("__")
        origins[".".join(path)] = name
        nested: Any = _from_text(environ[name])
        for key in reversed(path):
            nested = {key: nested}
        if isinstance(_at(data, path), dict):
            _set(data, path, {})
        _merge(data, nested)
    return origins


def _from_text(text: str) -> Any:
    if text == "null":
        return None
    if text[:1] in ("{", "["):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            return text
    return text


def _at(data: Any, path: list[str]) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _set(data: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


def _merge(data: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        mine = data.get(key)
        if isinstance(value, dict) and isinstance(mine, dict):
            _merge(mine, value)
        else:
            data[key] = value


def _merge_model_key(data: dict[str, Any], environ: Mapping[str, str]) -> None:
    """The key that people have in their environment anyway makes a provider, if there is none."""
    if environ.get("ANTHROPIC_API_KEY") and not data.get("providers"):
        data["providers"] = {
            "anthropic": {"kind": "anthropic", "api_key": environ["ANTHROPIC_API_KEY"], "default": True}
        }


def _describe(item: ErrorDetails, origins: Mapping[str, str]) -> str:
    """One line for one bad key, without its value."""
    place = [str(part) for part in item["loc"] if not str(part).startswith("=")]
    key = ".".join(place) or "configuration"
    if item["type"] == "extra_forbidden":
        text = "unknown key"
        near = difflib.get_close_matches(place[-1], _known_keys(place[:-1]), n=1)
        if near:
            text += f" (did you mean {near[0]}?)"
    else:
        text = item["msg"].removeprefix("Value error, ")
        text = text[:1].lower() + text[1:]
    origin = origins.get(key)
    return f"{key}: {text}" + (f" (from {origin})" if origin else "")


def _known_keys(place: list[str]) -> list[str]:
    model: type[BaseModel] = ServerConfig
    for part in place:
        field = model.model_fields.get(part)
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            return []
        model = field.annotation
    return list(model.model_fields)


def secret_text(secret: SecretStr | None) -> str | None:
    """The secret itself; the one place where it leaves its wrapping."""
    return secret.get_secret_value() if secret is not None else None
