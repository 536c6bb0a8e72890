"""The tables, as SQLAlchemy Core; the schema that migrations must arrive at.

A session has an integer primary key that the other tables use: the log is
by far the largest table, and a small key keeps its rows and index small.
States are stored by value, JSON as text, times as seconds since 1970.
Columns of a cursor named ``x`` are ``x_ordinal``, ``x_offset`` and ``x_k``.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

# The version of the migrations that arrives at these tables.
REVISION = "0008"
# Alembic's own, and so none of ours.
alembic_version = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)

# Written out and not bound as parameters: only a literal condition lets SQLite use the partial indexes.
OPEN_INSTANCE = "state <> 'exited'"
OPEN_TURN = "state NOT IN ('succeeded', 'failed', 'interrupted', 'lost', 'withdrawn')"
OPEN_PERMISSION = "state <> 'closed'"
UID_IN_USE = "retired_at IS NULL"


class _Bytes(sa.LargeBinary):
    """Bytes that are handed over as they are found: SQLite holds anything in any column."""

    cache_ok = True

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> None:
        """None: a conversion that fails would fail the reading of all rows."""
        return


def _session_column(*, primary_key: bool = False) -> sa.Column[int]:
    return sa.Column(
        "session",
        sa.Integer,
        sa.ForeignKey("sessions.id", ondelete="CASCADE"),
        primary_key=primary_key,
        nullable=False,
    )


sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("session_id", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("template", sa.Text, nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("permission_mode", sa.Text, nullable=False),
    sa.Column("cli_session", sa.Text),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("last_active_at", sa.Double, nullable=False),
    sa.Column("position_ordinal", sa.Integer, nullable=False),
    sa.Column("position_offset", sa.BigInteger, nullable=False),
    sa.Column("position_k", sa.Integer, nullable=False),
    sa.Column("next_ordinal", sa.Integer, nullable=False),
    sa.Column("resume_from", sa.Text),
    sa.Column("active_clock", sa.Double),
    sa.Column("woken_for_viewer", sa.Boolean),
    sa.Column("remembered", sa.Text),
)
sa.Index("sessions_key", sessions.c.user_id, sa.func.lower(sessions.c.session_id), unique=True)
sa.Index("sessions_recent", sessions.c.user_id, sessions.c.last_active_at)

instances = sa.Table(
    "instances",
    metadata,
    sa.Column("instance_id", sa.Text, primary_key=True),
    _session_column(),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("isolation", sa.Text, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("spool_offset", sa.BigInteger, nullable=False, key="offset"),
    sa.Column("pid", sa.Integer),
    sa.Column("start_ticks", sa.BigInteger),
    sa.Column("boot_id", sa.Text),
    sa.Column("turns", sa.Integer, nullable=False),
    sa.Column("exited_at", sa.Double),
    sa.Column("exit_code", sa.Integer),
    sa.Column("exit_signal", sa.Text),
    sa.Column("started_clock", sa.Double),
)
sa.Index("instances_ordinal", instances.c.session, instances.c.ordinal, unique=True)
sa.Index(
    "instances_open",
    instances.c.session,
    sqlite_where=sa.text(OPEN_INSTANCE),
    postgresql_where=sa.text(OPEN_INSTANCE),
)

turns = sa.Table(
    "turns",
    metadata,
    sa.Column("turn_id", sa.Text, primary_key=True),
    _session_column(),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("message_id", sa.Text),
    sa.Column("content_hash", sa.Text),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("line", _Bytes),
    sa.Column("instance_id", sa.Text),
    sa.Column("ended_at", sa.Double),
    sa.Column("reason", sa.Text),
    sa.Column("interrupt", sa.Boolean, nullable=False),
)
sa.Index("turns_message", turns.c.session, turns.c.message_id, unique=True)
sa.Index("turns_number", turns.c.session, turns.c.number)
sa.Index("turns_open", turns.c.session, sqlite_where=sa.text(OPEN_TURN), postgresql_where=sa.text(OPEN_TURN))

events = sa.Table(
    "events",
    metadata,
    _session_column(primary_key=True),
    sa.Column("ordinal", sa.Integer, primary_key=True),
    sa.Column("spool_offset", sa.BigInteger, primary_key=True, key="offset"),
    sa.Column("k", sa.Integer, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

permissions = sa.Table(
    "permissions",
    metadata,
    sa.Column("instance_id", sa.Text, primary_key=True),
    sa.Column("request_id", sa.Text, primary_key=True),
    _session_column(),
    sa.Column("turn_id", sa.Text),
    sa.Column("tool", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("cursor_ordinal", sa.Integer, nullable=False),
    sa.Column("cursor_offset", sa.BigInteger, nullable=False),
    sa.Column("cursor_k", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("asked_at", sa.Double, nullable=False),
    sa.Column("answer", _Bytes),
    sa.Column("decision", sa.Text),
    sa.Column("answered_by", sa.Text),
)
sa.Index(
    "permissions_open",
    permissions.c.session,
    sqlite_where=sa.text(OPEN_PERMISSION),
    postgresql_where=sa.text(OPEN_PERMISSION),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("password_hash", sa.Text),
    sa.Column("roles", sa.Text, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)
sa.Index("users_folded", sa.func.lower(users.c.user_id), unique=True)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("jti", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("revoked_at", sa.Double),
)
sa.Index("tokens_user", tokens.c.user_id)
sa.Index("tokens_expiry", tokens.c.expires_at)

links = sa.Table(
    "links",
    metadata,
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
)

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

state = sa.Table(
    "state",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
)

# No foreign keys: what was used stays on record after a session or user is gone.
usage = sa.Table(
    "usage",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("day", sa.Integer, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("session_id", sa.Text, nullable=False),
    sa.Column("instance_id", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_read_tokens", sa.BigInteger, nullable=False),
    sa.Column("usd", sa.Double, nullable=False),
    sa.Column("priced", sa.Boolean, nullable=False),
    sa.Column("complete", sa.Boolean, nullable=False),
)
sa.Index("usage_user", usage.c.user_id, usage.c.day)
sa.Index("usage_session", usage.c.user_id, usage.c.session_id, usage.c.at)
sa.Index("usage_day", usage.c.day)

usage_files = sa.Table(
    "usage_files",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("read_to", sa.BigInteger, nullable=False),
)

# No foreign key: a uid is never used again, also when its user is gone.
uids = sa.Table(
    "uids",
    metadata,
    sa.Column("uid", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("given_at", sa.Double, nullable=False),
    sa.Column("retired_at", sa.Double),
)
sa.Index(
    "uids_user",
    uids.c.user_id,
    unique=True,
    sqlite_where=sa.text(UID_IN_USE),
    postgresql_where=sa.text(UID_IN_USE),
)

# On which host a user lives, where there are several; without a row, where their directories are.
placements = sa.Table(
    "placements",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("placed_at", sa.Double, nullable=False),
)

# No foreign keys either. Numbers and hashes chain the rows: see ``pool.audit``.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text),
    sa.Column("facts", sa.Text, nullable=False),
    sa.Column("previous", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)
sa.Index("audit_user", audit.c.user_id, audit.c.seq)
sa.Index("audit_actor", audit.c.actor, audit.c.seq)

# Who owns the pool, of several replicas on one PostgreSQL: one row. All times are the database's own.
pool_lease = sa.Table(
    "pool_lease",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
)
# A change of the epoch is one of a key: it waits for whoever has the row FOR KEY SHARE, a renewal does not.
sa.Index("pool_lease_epoch", pool_lease.c.name, pool_lease.c.epoch, unique=True)

# The replicas that stand by, and when each was last heard of.
replicas = sa.Table(
    "replicas",
    metadata,
    sa.Column("holder", sa.Text, primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
)
