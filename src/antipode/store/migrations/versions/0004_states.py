# SPDX-License-Identifier: Apache-2.0
"""Where each VNF is active."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "states",
        sa.Column("vnf", sa.String(64), primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("state", sa.JSON, nullable=False),
        sa.Column("read_at", sa.Double, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("states")
