"""Long repetition: what must be as it was before, after thousands of times."""
