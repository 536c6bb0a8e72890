"""Does the CLI in use behave as we rely on, where nothing is documented? Tried out once for each CLI."""
