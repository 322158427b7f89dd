# SPDX-License-Identifier: Apache-2.0
"""How far the schedule of each protection has come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("vnf", sa.String(64), primary_key=True),
        sa.Column("option", sa.String(64), primary_key=True),
        sa.Column("schedule", sa.Text, nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.Column("settled", sa.Integer, nullable=False, server_default="0"),
        sa.Column("run", sa.String(64)),
        sa.Column("missed", sa.Integer, nullable=False, server_default="0"),
        sa.Column("reason", sa.Text),
        sa.Column("paused_at", sa.Double),
        sa.Column("paused_because", sa.Text),
    )


def downgrade() -> None:
    op.drop_table("schedules")
