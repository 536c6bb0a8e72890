"""Markdown-lite: text becomes a tree of plain nodes, whatever the text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.fake_texts import INERT, MARKDOWN

pytestmark = pytest.mark.browser

Core = Callable[[str], Any]


def parse(core: Core, text: str) -> list[dict[str, Any]]:
    """The blocks of ``text``, without their sources."""
    script = "const { parseMarkdown } = await load('core/markdown.js'); return parseMarkdown(%s);"
    blocks: list[dict[str, Any]] = core(script % json.dumps(text))
    return [{key: value for key, value in block.items() if key != "src"} for block in blocks]


def plain(core: Core, text: str) -> Any:
    """The inline nodes of a text of one paragraph."""
    (block,) = parse(core, text)
    return block["c"]


def test_blocks_of_all_kinds_are_known(core: Core) -> None:
    kinds = [block["t"] for block in parse(core, MARKDOWN)]
    assert kinds == ["h", "p", "h", "list", "list", "quote", "code", "table", "hr", "p"]


def test_inline_marks_nest_and_unclosed_ones_are_text(core: Core) -> None:
    assert plain(core, "a **b *c* d**") == [
        {"t": "text", "v": "a "},
        {
            "t": "b",
            "c": [
                {"t": "text", "v": "b "},
                {"t": "i", "c": [{"t": "text", "v": "c"}]},
                {"t": "text", "v": " d"},
            ],
        },
    ]
    for text in (
        "2 * 3 * 4",
        "**open",
        "`open",
        "[a](b",
        "snake_case_name",
        "a ~ b",
        r"\*not\*".replace("\\", ""),
    ):
        if text != "*not*":
            assert plain(core, text) == [{"t": "text", "v": text}], text
    assert plain(core, r"\*not\*") == [{"t": "text", "v": "*not*"}]


def test_code_keeps_its_tabs_and_an_unclosed_fence_runs_to_the_end(core: Core) -> None:
    (block,) = parse(core, "```make\nall:\n\tcc\n**not bold**")
    assert block == {"t": "code", "lang": "make", "v": "all:\n\tcc\n**not bold**", "closed": False}


def test_lists_nest_and_prose_with_a_number_is_no_list(core: Core) -> None:
    (outer,) = parse(core, "- a\n  - b\n    more\n- c")
    assert [len(item["blocks"]) for item in outer["items"]] == [2, 1]
    assert [block["t"] for block in parse(core, "It was\n1986. A great year.")] == ["p"]
    (ordered,) = parse(core, "3. three\n4. four")
    assert (ordered["ordered"], ordered["start"], len(ordered["items"])) == (True, 3, 2)


def test_only_safe_addresses_become_links(core: Core) -> None:
    def links(nodes: list[dict[str, Any]]) -> list[str]:
        return [href for node in nodes for href in [node.get("href"), *links(node.get("c", []))] if href]

    for text in INERT:
        for block in parse(core, text):
            for href in links(block.get("c", [])):
                assert href.startswith(("https://good.example/", "https://evil.example/")), text
    assert links(plain(core, "see https://a.example/x_(y). And <mailto:a@b.example>")) == [
        "https://a.example/x_(y)",
        "mailto:a@b.example",
    ]


def test_hostile_text_is_parsed_in_linear_time(core: Core) -> None:
    took = core(
        """const { parseMarkdown } = await load('core/markdown.js');
        const texts = ['*', '**a ', '[', '[a](', '`', '_a', '~~a', '<', '> ', '- ', '  - a\\n', '|', '# ',
            '![', '\\\\', '```\\n', 'h', '1. ', '*a **b ', '\\t', '| a | b |\\n|---|---|\\n'];
        const began = performance.now();
        for (const text of texts) parseMarkdown(text.repeat(30000 / text.length));
        const long = (text) => text.repeat(60000);
        const fences = ['```' + long('a') + '`', '``` ' + long(' ') + '`'];
        for (const text of [...fences, '# ' + long('#') + 'x', long('- ') + 'x']) parseMarkdown(text);
        return performance.now() - began;"""
    )
    assert took < 10_000
