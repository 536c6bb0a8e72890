"""Claude Pool: one live ``claude`` CLI per session, kept, watched, held to quotas, ended.

The public names are loaded when first used, so that the keeper, which lives
in this package and needs none of them, starts small.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pool.config import PoolConfig as PoolConfig
    from pool.pool import ClaudeInstancePool as ClaudeInstancePool

_HOMES = {
    "ClaudeInstancePool": "pool.pool",
    "PoolConfig": "pool.config",
}
__all__ = ["ClaudeInstancePool", "PoolConfig"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pool' has no attribute {name!r}")
