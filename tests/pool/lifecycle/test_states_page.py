"""The page for people says what the tables say."""

from __future__ import annotations

from pathlib import Path

from pool.lifecycle.states_page import render

PAGE = Path(__file__).parents[3] / "docs" / "states.md"


def test_the_committed_page_is_the_rendered_one() -> None:
    assert PAGE.read_text() == render(), "run: python -m pool.lifecycle.states_page > docs/states.md"


def test_every_row_is_on_the_page() -> None:
    page = render()
    assert "| busy | turn_ended | ready | dispatch_next |" in page
    assert "| dispatching | reattached | dispatching | write_message |" in page
    assert "| parked | turn_submitted | waking | take_slot, launch |" in page
