"""The keeper under test: a real process, small real programs in place of the CLI, ``/proc`` as the oracle."""
