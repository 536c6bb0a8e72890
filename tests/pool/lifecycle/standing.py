"""How the stories look at a machine."""

from __future__ import annotations

from enum import Enum
from typing import Any

from pool.lifecycle.table import Machine


def stands_at(machine: Machine[Any, Any, Any], state: Enum) -> bool:
    """Is it there? A function, because mypy takes a state that was asserted for one that stays."""
    assert machine.state is state, machine
    return True
