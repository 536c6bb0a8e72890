"""The three state machines as tables; no I/O and no clock."""
