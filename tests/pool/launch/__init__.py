"""Launchers against real keepers, real sandboxes and small real programs."""
