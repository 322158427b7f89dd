# SPDX-License-Identifier: Apache-2.0
"""Events, the receivers that still lack them, and conditions that were noted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.String(190), primary_key=True),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(190), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
    )
    op.create_index("events_by_time", "events", ["at"])
    op.create_table(
        "deliveries",
        sa.Column("receiver", sa.String(64), primary_key=True),
        sa.Column("event", sa.String(190), sa.ForeignKey("events.id"), primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("not_before", sa.Double, nullable=False, server_default="0"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_index("deliveries_to", "deliveries", ["receiver", "at"])
    op.create_table(
        "conditions",
        sa.Column("key", sa.String(190), primary_key=True),
        sa.Column("since", sa.Double, nullable=False),
    )


def downgrade() -> None:
    for table in ("conditions", "deliveries", "events"):
        op.drop_table(table)
