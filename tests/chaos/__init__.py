"""A server under random faults, and accounts of it that are taken from the machine and from its clients."""
