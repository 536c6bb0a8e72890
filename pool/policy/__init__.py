"""Facts in, decision out; no I/O and no clock."""
