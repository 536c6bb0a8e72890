"""The SQL store against the conformance suite, on each kind of database that can be had here."""

from __future__ import annotations

from tests.conformance.store import StoreConformance


class TestSqlStore(StoreConformance):
    """The fixture ``store`` of this directory opens one kind after the other."""
