"""Alembic's entry point: runs the versions on the connection that ``pool.store.migrate`` gives."""

from __future__ import annotations

from alembic import context

from pool.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
context.run_migrations()
