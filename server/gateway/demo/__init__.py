"""The built-in demo model: Anthropic-compatible, without a key, deterministic, honest about itself."""
