"""Which Linux user each user is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "uids",
        sa.Column("uid", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("given_at", sa.Double(), nullable=False),
        sa.Column("retired_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("uid"),
    )
    in_use = sa.text("retired_at IS NULL")
    op.create_index(
        "uids_user", "uids", ["user_id"], unique=True, sqlite_where=in_use, postgresql_where=in_use
    )
