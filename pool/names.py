"""The one rule for names that users give: of users, sessions and templates.

A name that passes is safe as a file name, a URL segment and an argument: it
begins with a letter or digit, has only ``[A-Za-z0-9_.@+-]``, at most 64
characters, and never ``..``.
"""

from __future__ import annotations

import re

from pool.errors import InvalidName

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}", re.ASCII)


def check_name(value: object, kind: str) -> str:
    """Return ``value`` if it is a valid name of ``kind`` ("user_id", …).

    Raises ``InvalidName`` for anything else, strings or not.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value) or ".." in value:
        raise InvalidName(
            f"{kind} must be 1 to 64 characters of A-Z a-z 0-9 _ . @ + -, begin with a letter or digit "
            "and not contain '..'",
            details={"field": kind},
        )
    return value
