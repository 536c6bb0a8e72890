"""What a template may say, and what it is told when it is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pool.errors import BadRequest, InvalidName, NotFound
from pool.workspace.templates import Template, Templates
from pool.workspace.workspaces import shipped_templates


def describe(directory: Path, text: str, name: str = "data") -> Templates:
    (directory / name).mkdir(exist_ok=True)
    (directory / name / "template.yaml").write_text(text, encoding="utf-8")
    return Templates(directory)


def test_the_shipped_default_is_whole() -> None:
    shipped = Templates(shipped_templates())
    assert "default" in shipped.names()
    template = shipped.load("default")
    assert template.title == "Default"
    assert template.append_system_prompt
    for name in ("README.md", "CLAUDE.md", "projects", "temp", "uploads", ".claude/settings.json"):
        assert (shipped.path("default") / name).exists(), name


def test_every_key_is_read(tmp_path: Path) -> None:
    template = describe(
        tmp_path,
        "title: Data\ndescription: d\nmodel: opus\npermission_mode: plan\nappend_system_prompt: be brief\n"
        "allowed_tools: [Read, 'Bash(ls:*)']\nenv: {PYTHONUTF8: '1'}\n",
    ).load("data")
    assert template == Template(
        title="Data",
        description="d",
        model="opus",
        permission_mode="plan",
        append_system_prompt="be brief",
        allowed_tools=("Read", "Bash(ls:*)"),
        env={"PYTHONUTF8": "1"},
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n"])
def test_an_empty_description_is_all_defaults(tmp_path: Path, text: str) -> None:
    assert describe(tmp_path, text).load("data") == Template(title="data")


def test_a_template_without_a_description_is_fine(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    assert Templates(tmp_path).load("bare") == Template(title="bare")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("modle: opus", "modle"),
        ("title: [1]\nenv: 3\n", "env"),
        ("allowed_tools: Read", "allowed_tools"),
        ("env: {'A B': x}", "A B"),
        ("env: {HOME: /root}", "HOME"),
        ("env: {ANTHROPIC_API_KEY: x}", "ANTHROPIC_API_KEY"),
        ("env: {LD_PRELOAD: x}", "LD_PRELOAD"),
        ("- a list", "mapping"),
        ("a: [", "template.yaml"),
        ("!!python/object/apply:os.system ['true']", "template.yaml"),
    ],
)
def test_a_wrong_description_names_what_is_wrong(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(BadRequest, match="template data") as caught:
        describe(tmp_path, text).load("data")
    assert named in caught.value.message


def test_all_bad_keys_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as caught:
        describe(tmp_path, "modle: x\ntitle: [1]\n").load("data")
    assert len(caught.value.details["fields"]) == 2


def test_a_changed_description_is_read_again(tmp_path: Path) -> None:
    templates = describe(tmp_path, "title: one")
    assert templates.load("data").title == "one"
    assert templates.load("data") is templates.load("data")
    describe(tmp_path, "title: another")
    assert templates.load("data").title == "another"


def test_only_names_that_can_be_asked_for_are_listed(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden", "with space"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    templates = Templates(tmp_path)
    assert templates.names() == ["a", "b"]
    assert Templates(tmp_path / "missing").names() == []
    for bad in ("../a", "", "with space", f"a{os.sep}"):
        with pytest.raises(InvalidName):
            templates.load(bad)
    for missing in ("c", "file"):
        with pytest.raises(NotFound):
            templates.load(missing)
