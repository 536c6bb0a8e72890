"""A new id is told from a known one for sure, or the store is asked; memory is bounded."""

from __future__ import annotations

from pool.runtime.message_ids import MessageIds


def test_few_are_known_for_sure() -> None:
    ids = MessageIds(most=3)
    ids.update(["a", "b"])
    ids.add("c")
    assert ids.may_have("a")
    assert not ids.may_have("d")


def test_of_many_nothing_is_kept_and_none_is_called_new() -> None:
    ids = MessageIds(most=3)
    ids.update("abcd")
    ids.add("e")
    assert ids._ids is None
    assert all(ids.may_have(one) for one in ("a", "e", "never seen"))
