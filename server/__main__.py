"""``python -m server``: the same as the console script ``claude-pool``."""

from server.cli import main

if __name__ == "__main__":
    main(prog_name="claude-pool")
