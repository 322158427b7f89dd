# SPDX-License-Identifier: Apache-2.0
"""Whether VNFs could be recovered: when it is looked next, and what was seen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "looks",
        sa.Column("vnf", sa.String(64), primary_key=True),
        sa.Column("site", sa.String(64), primary_key=True),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.Column("not_before", sa.Double, nullable=False, server_default="0"),
        sa.Column("taken", sa.Integer, nullable=False, server_default="0"),
        sa.Column("is_wanted", sa.Boolean, nullable=False, server_default=sa.true()),
    )
    op.create_table(
        "readiness",
        sa.Column("vnf", sa.String(64), primary_key=True),
        sa.Column("site", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("before", sa.String(16)),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.Column("looks", sa.Integer, nullable=False),
        sa.Column("findings", sa.JSON, nullable=False),
    )
    op.create_index("readiness_by_time", "readiness", ["since"])


def downgrade() -> None:
    op.drop_table("readiness")
    op.drop_table("looks")
