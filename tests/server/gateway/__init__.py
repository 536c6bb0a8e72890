"""Tests of the model gateway and its demo model."""
