"""Measured claims: each benchmark prints its figures as JSON and as a line for people."""
