"""The central tool policy: facts of one tool call in, a decision out. Pure, no I/O."""
