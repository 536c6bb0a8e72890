"""What a process of ours tells Python's garbage collector."""

from __future__ import annotations

import gc


def wait_until_all_is_loaded() -> None:
    """Call it before the modules of a server are imported: ``keep_what_is_loaded`` ends it.

    Of some hundred modules nothing becomes garbage; looking for it is a seventh of
    the time that importing them takes.
    """
    gc.disable()


def keep_what_is_loaded() -> None:
    """Call it once, when all is loaded: what is there now is never looked through again.

    It lives as long as the process. A full collection with the server's modules
    and routes holds up the event loop for 90 ms of a slow core (120,000 objects,
    CPython 3.11), and each user adds to that; without them it begins at nothing.
    ``gc.freeze`` (the library reference, ``gc``) is made for this.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
