"""Several servers on one database: one owns the pool, the others stand by and send what comes there."""
