# SPDX-License-Identifier: Apache-2.0
"""When slots of schedules were missed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "missed",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("vnf", sa.String(64), nullable=False),
        sa.Column("option", sa.String(64), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("slots", sa.Integer, nullable=False),
    )
    op.create_index("missed_of_vnf", "missed", ["vnf", "at"])


def downgrade() -> None:
    op.drop_table("missed")
