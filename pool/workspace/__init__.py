"""Workspaces: the only code that turns a user's name or path into a file path."""
