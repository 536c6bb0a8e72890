"""The audit log without I/O: what a record is, how records are chained, how a chain is verified."""
