"""The CLI's language, stream-json over stdin and stdout; no I/O."""
