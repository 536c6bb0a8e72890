"""Fewer statements for the same commit: changes of one row become one change."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from pool.store.base import AppendAudit, Operation, PatchInstance, PatchSession, PatchTurn, PutTurn


def merged(operations: Sequence[Operation]) -> list[Operation]:
    """The operations with later changes of a row folded into the first one; the order is kept.

    A turn that is made and changed in one commit is made as it ends up: an
    accepted message that runs at once costs one statement.
    """
    result: list[Operation] = []
    at: dict[Hashable, int] = {}
    for operation in operations:
        name = _name(operation)
        earlier = at.get(name) if name is not None else None
        if earlier is None:
            if name is not None:
                at[name] = len(result)
            result.append(operation)
        else:
            result[earlier] = _folded(result[earlier], operation)
    return result


def _name(operation: Operation) -> Hashable | None:
    if isinstance(operation, PatchSession):
        return "session", operation.key
    if isinstance(operation, PatchInstance):
        return "instance", operation.instance_id
    if isinstance(operation, PatchTurn):
        return "turn", operation.turn_id
    if isinstance(operation, PutTurn):
        return "turn", operation.record.turn_id
    if isinstance(operation, AppendAudit):
        return "audit"
    return None


def _folded(first: Operation, second: Operation) -> Operation:
    if isinstance(first, PutTurn) and isinstance(second, PatchTurn):
        return PutTurn(replace(first.record, **second.changes))
    if isinstance(first, PatchSession) and isinstance(second, PatchSession):
        return PatchSession(first.key, {**first.changes, **second.changes})
    if isinstance(first, PatchInstance) and isinstance(second, PatchInstance):
        return PatchInstance(first.instance_id, {**first.changes, **second.changes})
    if isinstance(first, PatchTurn) and isinstance(second, PatchTurn):
        return PatchTurn(first.turn_id, {**first.changes, **second.changes})
    if isinstance(first, AppendAudit) and isinstance(second, AppendAudit):
        return AppendAudit([*first.entries, *second.entries])
    raise TypeError(f"cannot fold {second} into {first}")
