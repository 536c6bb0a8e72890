"""How an instance is started, attached to and ended: adapters behind one contract (``base``)."""
