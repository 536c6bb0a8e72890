"""Templates: a directory that workspaces begin from, with a ``template.yaml`` for its sessions."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from pool.errors import BadRequest, InvalidName, NotFound
from pool.names import check_name
from pool.policy.rules.decision import RULE_LISTS, compile_rules

DESCRIPTION_FILE = "template.yaml"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# The launcher sets these for each instance, or they would carry a credential or a foreign library in.
_RESERVED = re.compile(
    r"HOME|TMPDIR|CLAUDE_CONFIG_DIR|CLAUDE_POOL_.*|ANTHROPIC_.*|LD_.*|NODE_OPTIONS", re.ASCII
)


def _checked_environment(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise ValueError(f"{name!r} is not a variable that can be set")
        if _RESERVED.fullmatch(name):
            raise ValueError(f"{name} is set by the pool itself")
    return env


class TemplateRules(BaseModel):
    """Rules for tools in sessions of a template, beside those of the whole server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allowed_commands: tuple[str, ...] = ()
    denied_commands: tuple[str, ...] = ()
    allowed_paths: tuple[str, ...] = ()
    denied_paths: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        try:
            compile_rules(**self.lists())
        except BadRequest as error:
            raise ValueError(error.message) from error
        return self

    def lists(self) -> dict[str, tuple[str, ...]]:
        """The four lists by their names."""
        return {name: getattr(self, name) for name in RULE_LISTS}


class Template(BaseModel):
    """What ``template.yaml`` says; every key may be left out, an unknown one is an error.

    ``model`` and ``permission_mode`` None: the pool's. ``append_system_prompt``
    goes after the CLI's own prompt. ``allowed_tools`` are the CLI's rules for
    tools that need no approval. ``network`` None: ``gateway_only``; it counts
    where ``isolation.network`` is ``auto``. ``env`` is added to the environment.
    ``security`` has rules for tools that the server decides by.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = ""
    description: str = ""
    model: str | None = None
    permission_mode: str | None = None
    append_system_prompt: str | None = None
    allowed_tools: tuple[str, ...] = ()
    network: Literal["gateway_only", "outbound"] | None = None
    env: Annotated[dict[str, str], AfterValidator(_checked_environment)] = {}
    security: TemplateRules = TemplateRules()


class Templates:
    """The templates of one directory. Reads a description again when its file has changed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[str, tuple[tuple[int, int, int], Template]] = {}

    def names(self) -> list[str]:
        """The templates that there are, sorted; directories with a name that cannot be asked for are not."""
        try:
            found = [entry.name for entry in os.scandir(self._directory) if entry.is_dir()]
        except OSError:
            return []
        return sorted(name for name in found if _is_name(name))

    def path(self, name: str) -> Path:
        """The template's directory. Raises ``InvalidName`` or ``NotFound``."""
        path = self._directory / check_name(name, "template")
        if not path.is_dir():
            raise NotFound(f"there is no template {name}", details={"field": "template"})
        return path

    def load(self, name: str) -> Template:
        """The template's description; defaults without a file.

        Raises ``InvalidName``, ``NotFound``, or ``BadRequest`` that names
        every bad key of the file.
        """
        file = self.path(name) / DESCRIPTION_FILE
        try:
            status = file.stat()
        except FileNotFoundError:
            return Template(title=name)
        version = (status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._read.get(name)
        if known is None or known[0] != version:
            known = (version, _read_description(file, name))
            self._read[name] = known
        return known[1]


def _is_name(name: str) -> bool:
    try:
        check_name(name, "template")
    except InvalidName:
        return False
    return True


def _read_description(file: Path, name: str) -> Template:
    where = f"template {name}: {DESCRIPTION_FILE}"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        # A YAML error shows the lines around it: ours are not secret, and the place is what one needs.
        raise BadRequest(f"{where} cannot be read: {error}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise BadRequest(f"{where} must be a mapping of keys to values")
    try:
        template = Template.model_validate(content)
    except ValidationError as error:
        bad = [f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors()]
        raise BadRequest(f"{where}: " + "; ".join(bad), details={"fields": bad}) from error
    return template if template.title else template.model_copy(update={"title": name})
