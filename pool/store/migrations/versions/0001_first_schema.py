"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_OPEN_TURN = "state NOT IN ('succeeded', 'failed', 'interrupted', 'lost', 'withdrawn')"


def upgrade() -> None:
    _create_sessions()
    _create_instances()
    _create_turns()
    _create_events()
    _create_permissions()
    _create_users()
    _create_tokens()
    _create_links()
    _create_meta()
    _create_state()


def _create_sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("template", sa.Text(), nullable=False),
        sa.Column("model", sa.Text()),
        sa.Column("permission_mode", sa.Text(), nullable=False),
        sa.Column("cli_session", sa.Text()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("last_active_at", sa.Double(), nullable=False),
        sa.Column("position_ordinal", sa.Integer(), nullable=False),
        sa.Column("position_offset", sa.BigInteger(), nullable=False),
        sa.Column("position_k", sa.Integer(), nullable=False),
        sa.Column("next_ordinal", sa.Integer(), nullable=False),
        sa.Column("resume_from", sa.Text()),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("sessions_recent", "sessions", ["user_id", "last_active_at"])
    op.create_index("sessions_key", "sessions", ["user_id", sa.text("lower(session_id)")], unique=True)


def _create_instances() -> None:
    op.create_table(
        "instances",
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("session", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("isolation", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("spool_offset", sa.BigInteger(), nullable=False),
        sa.Column("pid", sa.Integer()),
        sa.Column("start_ticks", sa.BigInteger()),
        sa.Column("boot_id", sa.Text()),
        sa.Column("turns", sa.Integer(), nullable=False),
        sa.Column("exited_at", sa.Double()),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("exit_signal", sa.Text()),
        sa.ForeignKeyConstraint(["session"], ["sessions.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("instance_id"),
    )
    op.create_index(
        "instances_open",
        "instances",
        ["session"],
        sqlite_where=sa.text("state <> 'exited'"),
        postgresql_where=sa.text("state <> 'exited'"),
    )
    op.create_index("instances_ordinal", "instances", ["session", "ordinal"], unique=True)


def _create_turns() -> None:
    op.create_table(
        "turns",
        sa.Column("turn_id", sa.Text(), nullable=False),
        sa.Column("session", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("message_id", sa.Text()),
        sa.Column("content_hash", sa.Text()),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("line", sa.LargeBinary()),
        sa.Column("instance_id", sa.Text()),
        sa.Column("ended_at", sa.Double()),
        sa.Column("reason", sa.Text()),
        sa.Column("interrupt", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["session"], ["sessions.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("turn_id"),
    )
    op.create_index("turns_message", "turns", ["session", "message_id"], unique=True)
    op.create_index("turns_number", "turns", ["session", "number"])
    op.create_index(
        "turns_open",
        "turns",
        ["session"],
        sqlite_where=sa.text(_OPEN_TURN),
        postgresql_where=sa.text(_OPEN_TURN),
    )


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("session", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("spool_offset", sa.BigInteger(), nullable=False),
        sa.Column("k", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["session"], ["sessions.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("session", "ordinal", "spool_offset", "k"),
        sqlite_with_rowid=False,
    )


def _create_permissions() -> None:
    op.create_table(
        "permissions",
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("session", sa.Integer(), nullable=False),
        sa.Column("turn_id", sa.Text()),
        sa.Column("tool", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("cursor_ordinal", sa.Integer(), nullable=False),
        sa.Column("cursor_offset", sa.BigInteger(), nullable=False),
        sa.Column("cursor_k", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.Column("answer", sa.LargeBinary()),
        sa.Column("decision", sa.Text()),
        sa.Column("answered_by", sa.Text()),
        sa.ForeignKeyConstraint(["session"], ["sessions.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("instance_id", "request_id"),
    )
    op.create_index(
        "permissions_open",
        "permissions",
        ["session"],
        sqlite_where=sa.text("state <> 'closed'"),
        postgresql_where=sa.text("state <> 'closed'"),
    )


def _create_users() -> None:
    op.create_table(
        "users",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text()),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("user_id"),
    )
    op.create_index("users_folded", "users", [sa.text("lower(user_id)")], unique=True)


def _create_tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("jti", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("revoked_at", sa.Double()),
        sa.PrimaryKeyConstraint("jti"),
    )
    op.create_index("tokens_user", "tokens", ["user_id"])
    op.create_index("tokens_expiry", "tokens", ["expires_at"])


def _create_links() -> None:
    op.create_table(
        "links",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("hash"),
    )


def _create_meta() -> None:
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )


def _create_state() -> None:
    op.create_table(
        "state",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "key"),
    )
