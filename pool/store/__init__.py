"""The durable truth: records, operations and the SQL store behind one contract (``base``)."""
