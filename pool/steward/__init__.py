"""The small root process beside a server that is not root: does named work for it, and nothing else."""
