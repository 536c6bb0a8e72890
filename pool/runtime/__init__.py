"""The one place where a decision of the core becomes an action of an adapter."""
