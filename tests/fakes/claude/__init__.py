"""The parts of the fake CLI; ``tests/fakes/fake_claude.py`` says what it does and packs it into one file."""
