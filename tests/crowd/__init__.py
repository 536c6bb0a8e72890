"""Thousands of accounts of whom some hundred are there: what it costs, and that nothing of it stays."""
