"""Brings the schema to this program's version, with a copy of the old file first.

A new SQLite file gets the tables as they are now; the versions are for what is there already.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from pathlib import Path

import sqlalchemy as sa

from pool.errors import StoreUnavailable
from pool.store.engines import create_private_file
from pool.store.tables import REVISION, alembic_version, metadata

HEAD = REVISION

_LOCK = 0x636C61756465

_SCRIPTS = Path(__file__).parent / "migrations"
_log = logging.getLogger(__name__)


def migrate(engine: sa.Engine, file: Path | None) -> None:
    """Upgrade the schema to ``HEAD``; nothing is done when it is there already.

    An existing SQLite database is copied to ``<file>.bak-<revision>`` before.
    Raises ``StoreUnavailable`` for a schema of a newer program, which is left
    as it is.
    """
    with engine.connect() as connection:
        current = _revision(connection)
    if current == HEAD or (file is not None and HEAD == REVISION and _make(engine)):
        return
    # Takes a noticeable part of a start and is needed once a version only.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise StoreUnavailable(
            f"the database has schema {current} of a newer version of this program; install that version, "
            "or restore the copy that was made before its migration",
            details={"schema": current, "known": HEAD},
        )
    if current is not None and file is not None:
        back_up(file, file.with_name(f"{file.name}.bak-{current}"))
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # Replicas that start together: the second finds the work done.
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)
    _log.info("store.migrated", extra={"from_schema": current, "to_schema": HEAD})


def back_up(source: Path, target: Path) -> None:
    """Copy a SQLite database, with what its journal holds, into a file of its owner's only."""
    partial = target.with_name(f"{target.name}.part")
    partial.unlink(missing_ok=True)
    create_private_file(partial)
    with (
        contextlib.closing(sqlite3.connect(source)) as original,
        contextlib.closing(sqlite3.connect(partial)) as copy,
    ):
        original.backup(copy)
    os.replace(partial, target)


def _make(engine: sa.Engine) -> bool:
    """Make all tables at once, in a tenth of the versions' time, where there is none yet; was it so?"""
    with engine.begin() as connection:
        if sa.inspect(connection).get_table_names():
            return False
        metadata.create_all(connection, checkfirst=False)
        connection.execute(sa.schema.CreateTable(alembic_version))
        connection.execute(alembic_version.insert().values(version_num=REVISION))
    _log.info("store.made", extra={"schema": REVISION})
    return True


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if revision is None else str(revision)
