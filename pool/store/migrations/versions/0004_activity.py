"""When a session was last used and an instance started, on a clock that nobody sets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("active_clock", sa.Double()))
    op.add_column("sessions", sa.Column("woken_for_viewer", sa.Boolean()))
    op.add_column("instances", sa.Column("started_clock", sa.Double()))
