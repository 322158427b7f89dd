# SPDX-License-Identifier: Apache-2.0
"""What was forecast for runs when they began."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "forecasts",
        sa.Column("run", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("vnf", sa.String(64), nullable=False),
        sa.Column("site", sa.String(64), nullable=False),
        sa.Column("made_at", sa.Double, nullable=False),
        sa.Column("back_in_s", sa.Double),
        sa.Column("error_s", sa.Double),
        sa.Column("loses_s", sa.Double),
        sa.Column("basis", sa.JSON, nullable=False),
        sa.Column("unmeasured", sa.JSON, nullable=False),
    )
    op.create_index("forecasts_of_vnf", "forecasts", ["vnf", "made_at"])


def downgrade() -> None:
    op.drop_table("forecasts")
