"""The machines that run a pool's instances: this one, and others that are reached over SSH."""
